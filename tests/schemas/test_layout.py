"""Layout arithmetic: shards are whole and bounded, and chunks are as their array is read."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attlas.schemas import Leaf, array_layout, leaf_names
from attlas.schemas.errors import InvalidValueError, UnknownNameError
from attlas.schemas.layout import LEAF_BYTES, MEAN_BYTES, SHARD_BYTES, SUMMARY_BYTES


def text_leaf(grid=(64, 64), heads=8, layers=5, keys=77, encoding="dense"):
    return Leaf("text", grid, heads, 40, tuple(f"layer.{i}" for i in range(layers)), keys, encoding=encoding)


def test_stable_diffusion_text_at_512():
    # One call of one layer, two branches: 2 x 8 x 4096 x 77 x 2 bytes = 10,092,544, over 4 MiB: one call a shard.
    layout = array_layout(text_leaf().variable("log_attention"), text_leaf().sizes(runs=3, branches=2, calls=50))
    assert layout.shape == (3, 2, 50, 5, 8, 4096, 77)
    assert layout.shard == (1, 2, 1, 1, 8, 4096, 77)
    assert layout.chunk == (1, 1, 1, 1, 8, 4096, 77)
    assert layout.shard_bytes == 10_092_544


def laid_out(leaf, variable, *, branches=2, calls=50, runs=3):
    sizes = leaf.sizes(runs=runs, branches=branches, calls=calls)
    return array_layout(leaf.variable(variable), sizes)


def test_summaries_put_all_layers_into_a_shard():
    # 2 x 50 x 5 x 8 x 77 x 4 bytes = 1.2 MB: the whole run.
    assert laid_out(text_leaf(), "g2r").shard == (1, 2, 50, 5, 8, 77)
    # A call: 2 x 5 x 8 x 4096 x 4 bytes = 1,310,720; 25.6 of them are 32 MiB. A chunk: 25 x 8 x 4096 x 4 = 3.3 MB.
    layout = laid_out(text_leaf(), "r2g")
    assert layout.shard == (1, 2, 25, 5, 8, 4096)
    assert layout.chunk == (1, 1, 25, 1, 8, 4096)
    assert layout.shards == 3 * 2
    assert laid_out(text_leaf(), "logsumexp") == layout


def test_a_call_that_is_too_large_for_a_shard_is_split_into_layers():
    flux = text_leaf(heads=24, layers=57, keys=4608, encoding="none")
    # 57 x 24 x 4608 x 4 bytes = 25.2 MB: one call a shard.
    assert laid_out(flux, "g2r", branches=1, calls=28).shard == (1, 1, 1, 57, 24, 4608)
    # 2 x 57 x 24 x 4096 x 4 = 44.8 MB: 42 layers are 32 MiB, so two blocks, of 29 and 28.
    assert laid_out(flux, "r2g").shard == (1, 2, 1, 29, 24, 4096)
    # Passes come one after the other: a call of one branch has 22.4 MB.
    assert laid_out(replace(flux, separate_branches=True), "r2g").shard == (1, 1, 1, 57, 24, 4096)


def test_means_are_read_by_a_few_queries_and_written_by_many_layers():
    # A layer: 2 x 8 x 4096 x 77 x 2 bytes = 10 MB, six are 64 MiB. A query: 8 x 77 x 2 = 1232 bytes, 425 are 512 KiB.
    layout = laid_out(text_leaf(), "attention_mean")
    assert layout.shard == (1, 2, 5, 8, 4096, 77)
    assert layout.chunk == (1, 1, 1, 8, 256, 77)
    assert laid_out(text_leaf(), "attention_mean_r2g") == layout
    # 20 heads: a layer of 2 x 20 x 1024 x 77 x 2 bytes = 6.3 MB, ten are 64 MiB. A query has 3080 bytes: 170, so 128.
    layout = laid_out(text_leaf((32, 32), heads=20, layers=60), "attention_mean")
    assert layout.shard == (1, 2, 10, 20, 1024, 77)
    assert layout.chunk == (1, 1, 1, 20, 128, 77)
    # 16 x 16 x 1232 bytes = 308 KiB: one chunk.
    assert laid_out(text_leaf((16, 16)), "attention_mean").chunk == (1, 1, 1, 8, 256, 77)
    # A query has 24 x 512 x 2 = 24 KiB: 21 are 512 KiB, and 16 divide the picture.
    assert laid_out(text_leaf(heads=24, keys=512), "attention_mean").chunk == (1, 1, 1, 24, 16, 512)
    # However large a query, 16 of them; no number from 16 to 425 divides 1009.
    assert laid_out(text_leaf(heads=24, keys=5000), "attention_mean").chunk[4] == 16
    layout = laid_out(text_leaf((1, 1009)), "attention_mean")
    assert (layout.chunk[4], layout.shard[4]) == (425, 3 * 425)


def test_branches_of_passes_have_shards_of_their_own():
    apart = replace(text_leaf(), separate_branches=True)
    for name in ("log_attention", "r2g", "attention_mean", "attention_mean_r2g", "logsumexp", "g2r"):
        own, shared = laid_out(apart, name), laid_out(text_leaf(), name)
        assert own.branch_block == 1
        assert shared.branch_block == 2
        # The recorder holds as much at a time, in two shards for one.
        assert own.shard[2:] == shared.shard[2:]
        assert own.shards == 2 * shared.shards
    assert laid_out(replace(apart, keys_vary=False, encoding="factors"), "key_vectors").shard == (1, 1, 1, 8, 77, 40)


def test_what_computed_is_one_small_shard():
    assert laid_out(text_leaf(), "computed").shard == (1, 2, 50, 5)
    assert laid_out(replace(text_leaf(), separate_branches=True), "computed").shard == (1, 2, 50, 5)


def test_a_leaf_says_which_arrays_it_has():
    names = {v.name for v in text_leaf(encoding="none").variables()}
    assert {"computed", "g2r", "r2g", "attention_mean", "attention_mean_r2g"} <= names
    assert not names & {"value_vectors", "output_projection", "key_projection"}
    held = replace(text_leaf(encoding="factors"), value_channels=48, output_features=320)
    assert {v.name for v in held.variables()} - names == {
        *("value_vectors", "output_projection", "logsumexp", "query_vectors", "key_vectors")
    }
    # V has channels of its own: those of Q and K may have a mask among them.
    assert laid_out(held, "value_vectors").shape == (3, 2, 5, 8, 77, 48)
    assert laid_out(replace(held, keys_vary=True), "value_vectors").shape == (3, 2, 50, 5, 8, 77, 48)
    sizes = held.sizes(runs=0, branches=1, calls=1)
    assert [sizes[dim] for dim in held.variable("output_projection").dims] == [5, 8 * 48, 320]
    assert Leaf.from_json(held.to_json(), {"layers": held.layers}) == held
    with pytest.raises(InvalidValueError, match="holds W_o without V; give value_channels too"):
        replace(text_leaf(), output_features=3)


def test_last_block_is_no_crumb():
    # Eight layers have shards of 4 MiB. 16x16: 2 x 8 x 256 x 77 x 2 bytes = 0.63 MB a call, six fit; 50 calls need 9
    # blocks, so 6 each.
    leaf = text_leaf(grid=(16, 16), layers=8)
    assert array_layout(leaf.variable("log_attention"), leaf.sizes(runs=1, branches=2, calls=50)).t_block == 6
    # 13 calls: three blocks of 5, 5, 3, not 6, 6, 1.
    assert array_layout(leaf.variable("log_attention"), leaf.sizes(runs=1, branches=2, calls=13)).t_block == 5
    # 8 calls: two blocks of 4, not 6 and 2.
    assert array_layout(leaf.variable("log_attention"), leaf.sizes(runs=1, branches=2, calls=8)).t_block == 4


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    heads=st.integers(1, 12),
    layers=st.integers(1, 6),
    keys=st.integers(1, 100),
    calls=st.integers(1, 60),
    branches=st.integers(1, 3),
    encoding=st.sampled_from(["dense", "factors", "none"]),
    apart=st.booleans(),
)
def test_shards_are_whole_chunks_and_bounded(rows, columns, heads, layers, keys, calls, branches, encoding, apart):
    leaf = replace(text_leaf((rows, columns), heads, layers, keys, encoding), separate_branches=apart)
    sizes = leaf.sizes(runs=2, branches=branches, calls=calls)
    for variable in leaf.variables():
        if variable.group in ("always", "tokens"):
            continue
        layout = array_layout(variable, sizes)
        assert all(s % c == 0 for s, c in zip(layout.shard, layout.chunk, strict=True))
        assert layout.shard[0] == 1
        mean = variable.group == "mean"
        for dim, size, shard, chunk in zip(layout.dims, layout.shape, layout.shard, layout.chunk, strict=True):
            assert shard <= size or (mean and dim == "query" and shard < size + chunk)
            assert chunk == size or dim not in ("head", "key") or dim == "run"
            assert chunk == size or dim != "query" or (mean and chunk >= 16)
            assert chunk == 1 or dim not in ("run", "branch", "layer")
            assert shard == 1 or dim != "branch" or not apart
        bound = {"mean": MEAN_BYTES, "summary": SUMMARY_BYTES, "full": SUMMARY_BYTES}.get(
            # Twice as much where all layers together stay small.
            variable.group, max(SHARD_BYTES, min(2 * SHARD_BYTES, LEAF_BYTES // sizes["layer"]))
        )  # fmt: skip
        beside = branches if apart and not mean else 1
        unsplit = layout.t_block == 1 and layout.layer_block == 1
        assert unsplit or layout.shard_bytes * beside <= bound * (1.1 if mean else 1)
        assert layout.shard_bytes == math.prod(layout.shard) * {"f2": 2, "f4": 4}[layout.dtype]


def test_leaves_that_share_a_grid_get_names_of_their_own():
    one = text_leaf(heads=5)
    assert leaf_names((one, replace(one, heads=10))) == ("text/64x64-h5", "text/64x64-h10")
    assert leaf_names((one, replace(one, keys=4))) == ("text/64x64-k77", "text/64x64-k4")
    assert leaf_names((one, replace(one, channels=80))) == ("text/64x64-c40", "text/64x64-c80")
    assert leaf_names((one, replace(one, query_grid=(32, 32)))) == ("text/64x64", "text/32x32")


def test_a_leaf_says_what_is_wrong():
    with pytest.raises(UnknownNameError, match=r"unknown kind 'texts'; did you mean 'text'\?"):
        Leaf("texts", (4, 4), 1, 1, ("a",), 3)
    with pytest.raises(InvalidValueError, match="heads = 0; at least 1 is needed"):
        Leaf("text", (4, 4), 0, 1, ("a",), 3)
    with pytest.raises(InvalidValueError, match="has 0 key_segments for 16 keys"):
        Leaf("self", (4, 4), 1, 1, ("a",), 16)


def test_key_grid():
    patches = Leaf("image", (4, 4), 1, 1, ("a",), 5, ("cls",) + ("reference",) * 4, (-1, 0, 0, 1, 1), (-1, 0, 1, 0, 1))
    assert patches.key_grid == (2, 2)
    assert text_leaf().key_grid is None


def test_means_are_kept_of_pictures_always_and_of_sequences_where_small():
    assert text_leaf((256, 256), keys=512).has_mean
    # 64 x 64 queries x 128 keys x 2 bytes = 1 MiB.
    assert text_leaf((4, 32, 32), keys=128).has_mean
    assert not text_leaf((4, 32, 32), keys=129).has_mean

    def patches(kind, keys):
        return Leaf(kind, (64, 64), 1, 1, ("a",), keys, ("text",) * keys, (-1,) * keys, (-1,) * keys)

    assert [patches("joint", keys).has_mean for keys in (128, 129)] == [True, False]
    assert patches("image", 1000).has_mean
    assert not patches("self", 1).has_mean


@pytest.mark.parametrize(
    ("grid", "exponent"), [((64, 64), 12), ((60, 60), 11), ((1, 1), 0), ((256, 256), 15), ((1, 32767), 14)]
)
def test_the_softmax_over_queries_is_stored_times_a_power_of_two(grid, exponent):
    assert text_leaf(grid).variable("attention_mean_r2g").scale == 2.0**-exponent
    assert text_leaf(grid).variable("attention_mean").scale == 1

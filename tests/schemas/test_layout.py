"""Layout arithmetic: shards are whole, bounded and never split queries or keys."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attlas.schemas import Leaf, array_layout, leaf_names
from attlas.schemas.errors import InvalidValueError, UnknownNameError
from attlas.schemas.layout import LEAF_BYTES, SHARD_BYTES


def text_leaf(grid=(64, 64), heads=8, layers=5, keys=77, encoding="dense"):
    return Leaf("text", grid, heads, 40, tuple(f"layer.{i}" for i in range(layers)), keys, encoding=encoding)


def test_stable_diffusion_text_at_512():
    # One call of one layer, two branches: 2 x 8 x 4096 x 77 x 2 bytes = 10,092,544, over 4 MiB: one call a shard.
    layout = array_layout(text_leaf().variable("log_attention"), text_leaf().sizes(runs=3, branches=2, calls=50))
    assert layout.shape == (3, 2, 50, 5, 8, 4096, 77)
    assert layout.shard == (1, 2, 1, 1, 8, 4096, 77)
    assert layout.chunk == (1, 1, 1, 1, 8, 4096, 77)
    assert layout.shard_bytes == 10_092_544


def test_small_summaries_put_all_layers_in_one_shard():
    layout = array_layout(text_leaf().variable("g2r"), text_leaf().sizes(runs=3, branches=2, calls=50))
    # 2 x 50 x 5 x 8 x 77 x 4 bytes = 1.2 MB: the whole run.
    assert layout.shard == (1, 2, 50, 5, 8, 77)


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
)
def test_shards_are_whole_chunks_and_bounded(rows, columns, heads, layers, keys, calls, branches, encoding):
    leaf = text_leaf((rows, columns), heads, layers, keys, encoding)
    sizes = leaf.sizes(runs=2, branches=branches, calls=calls)
    for variable in leaf.variables():
        if variable.group in ("always", "tokens"):
            continue
        layout = array_layout(variable, sizes)
        assert all(s % c == 0 for s, c in zip(layout.shard, layout.chunk, strict=True))
        assert all(s <= max(1, n) for s, n in zip(layout.shard, layout.shape, strict=True))
        assert layout.shard[0] == 1
        for dim in ("query", "key", "head"):
            if dim in layout.dims:
                assert layout.chunk[layout.dims.index(dim)] == sizes[dim]
        unsplit = layout.t_block == 1 and layout.layer_block == 1
        # Twice as much where all layers together stay small.
        assert unsplit or layout.shard_bytes <= max(SHARD_BYTES, min(2 * SHARD_BYTES, LEAF_BYTES // sizes["layer"]))
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


def test_key_grid_and_mean():
    patches = Leaf("image", (4, 4), 1, 1, ("a",), 5, ("cls",) + ("reference",) * 4, (-1, 0, 0, 1, 1), (-1, 0, 1, 0, 1))
    assert patches.key_grid == (2, 2)
    assert text_leaf().key_grid is None
    assert text_leaf().has_mean
    assert not replace(text_leaf(), keys=257).has_mean

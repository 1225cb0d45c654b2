import numpy as np
import pytest
import xarray as xr

from attlas.analysis import InertAttentionWarning, maps, open_trace
from attlas.analysis.blockwise import attention, kernels
from attlas.schemas import simulate_store
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError

DIMS = ("run", "branch", "t", "layer", "head", "query", "key")
AXIS = {"g2r": -1, "r2g": -2}


def expected(mixed, tools, leaf, direction):
    rows = []
    for row in range(2):
        q, k = mixed.vectors[leaf, row]
        rows.append(tools.softmax(q @ np.swapaxes(k, -1, -2), AXIS[direction]))
    return np.stack(rows)


@pytest.mark.parametrize("direction", ["g2r", "r2g"])
@pytest.mark.parametrize("leaf", ["text/4x4", "text/2x2", "image/4x4", "image/2x2", "self/4x4"])
def test_attention_from_either_encoding_is_the_softmax(mixed, tools, leaf, direction):
    kind, grid = leaf.split("/")
    made = mixed.trace.attention(kind, direction, grid)
    assert made.dims == DIMS
    assert made.dtype == np.float32
    # Dense attention was stored as ln in float16, with steps of 2^-8 between 4 and 8.
    dense = mixed.trace.leaves[leaf].encoding == "dense"
    np.testing.assert_allclose(
        made.compute(), expected(mixed, tools, leaf, direction), rtol=5e-3 if dense else 2e-5, atol=1e-7
    )
    sums = made.sum("key" if direction == "g2r" else "query").compute()
    np.testing.assert_allclose(sums, 1, atol=1e-6)


@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_dense_equals_factors(direction):
    made = {}
    for encoding in ("dense", "factors"):
        store = simulate_store(runs=1, kinds=("image",), encoding={"image": encoding})
        made[encoding] = open_trace(store).attention("image", direction).compute()
    # ln in float16 has steps of 2^-7 between 8 and 16, where small shares lie; all in all the error stays below 0.1 %.
    np.testing.assert_allclose(made["dense"], made["factors"], rtol=1.6e-2)
    assert float(abs(made["dense"] - made["factors"]).sum() / made["factors"].sum()) < 1e-3


@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_of_both_encodings_in_one_leaf_the_dense_array_is_read(direction):
    made = {}
    for encoding in ("dense", "both"):
        trace = open_trace(simulate_store(runs=1, kinds=("text",), encoding={"text": encoding}))
        made[encoding] = trace.attention("text", direction).compute()
    assert trace.holds("text/4x4", "query_vectors")
    xr.testing.assert_identical(made["both"], made["dense"])


def test_lazy_and_honest_about_what_it_will_be(mixed, computes):
    with computes(0):
        made = mixed.trace.attention("image", "r2g", "4x4")
        small = made.isel(run=0, t=1).sel(branch="cond").mean("head")
    assert made.data.dtype == made.compute().dtype == np.float32
    assert made.chunks[5:] == ((16,), (13,))
    for block in made.data.blocks.ravel()[:2]:
        assert block.compute().shape == block.shape
    with computes(1):
        small.compute()


def test_labels_come_along(mixed):
    made = mixed.trace.attention("image", grid="4x4")
    assert made["key_segment"].values.tolist() == ["cls", *["reference"] * 12]
    assert made["key_y"].values.tolist() == [-1, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert made["query_x"].values.tolist() == [0, 1, 2, 3] * 4
    assert made["layer"].values.tolist() == ["image4.0.attn", "image4.1.attn"]
    assert made["seed"].values.tolist() == [0, 1]
    assert made["timestep"].dims == ("run", "t")
    text = mixed.trace.attention("text", grid="4x4")
    assert text["token"].sel(run="run0", branch="cond").values.tolist()[:4] == ["<bos>", "a", "red", "disc"]
    assert text["token_segment"].sel(run="run0", branch="uncond").values.tolist()[:3] == ["bos", "eos", "pad"]
    assert made.attrs["direction"] == "g2r"
    assert made.attrs["units"] == "1"
    assert made.attrs["inert"] is False


@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_blocks_stay_small_and_say_the_same(mixed, direction, monkeypatch):
    whole = mixed.trace.attention("self", direction, "4x4")
    monkeypatch.setattr(attention, "BLOCK_BYTES", 4 * 16 * 16)
    split = mixed.trace.attention("self", direction, "4x4")
    assert split.data.chunksize == (1, 1, 1, 1, 1, 16, 16)
    xr.testing.assert_identical(split.compute(), whole.compute())


@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_tiles_of_large_matrices_change_no_map(mixed, direction, monkeypatch):
    made = []
    for elements in (2**19, 20):
        monkeypatch.setattr(kernels, "BLOCK_ELEMENTS", elements)
        for kind in ("image", "self", "text"):
            onto = {} if kind != "text" else {"onto": "query"}
            made.append(maps.aggregate(mixed.trace, direction, kind=kind, source="full", **onto).compute())
    for whole, tiled in zip(made[:3], made[3:], strict=True):
        np.testing.assert_allclose(tiled, whole, rtol=1e-5, atol=1e-7)


def test_both_summaries_from_one_pass(mixed, computes):
    for leaf in mixed.trace.leaves:
        kind, grid = leaf.split("/")
        with computes(0):
            made = attention.recomputed_summaries(mixed.trace, kind, grid)
        stored = mixed.trace.dataset(leaf)
        for name in ("g2r", "r2g"):
            assert made[name].dims == stored[name].dims
            np.testing.assert_allclose(made[name].compute(), stored[name].compute(), rtol=3e-3, atol=1e-7)


def test_one_key_is_inert(tools):
    leaf = tools.leaf_of("image", (4, 4), key_grid=(1, 1))
    store, vectors = tools.make_store((leaf,), runs=1)
    trace = open_trace(store)
    with pytest.warns(InertAttentionWarning, match="image/4x4 has one key: its attention is 1 everywhere"):
        made = trace.attention("image")
    assert made.attrs["inert"] is True
    assert (made.compute() == 1).all()
    with pytest.warns(InertAttentionWarning):
        r2g = trace.attention("image", "r2g")
    q, k = vectors["image/4x4", 0]
    np.testing.assert_allclose(r2g[0].compute(), tools.softmax(q @ np.swapaxes(k, -1, -2), -2), rtol=2e-5)


def test_one_key_warns_and_marks_the_map(tools):
    trace = open_trace(tools.make_store((tools.leaf_of("image", (4, 4), key_grid=(1, 1)),), runs=1)[0])
    with pytest.warns(InertAttentionWarning):
        made = maps.ulam(trace, "r2g")
    assert made.attrs["inert"] is True


def test_several_grids_need_a_choice(mixed):
    with pytest.raises(InvalidValueError, match="kind 'image' of the store in memory has several grids, '4x4', '2x2'"):
        mixed.trace.attention("image")
    with pytest.raises(UnknownNameError, match="unknown grid '4x8'.*did you mean '4x4'"):
        mixed.trace.attention("image", grid="4x8")


def test_leaves_that_share_a_grid_are_told_apart(tools):
    leaves = (tools.leaf_of("text", (2, 2), heads=2), tools.leaf_of("text", (2, 2), heads=3, name="b"))
    trace = open_trace(tools.make_store(leaves, runs=1)[0])
    assert trace.attention("text", grid="2x2-h3").sizes["head"] == 3
    with pytest.raises(UnknownNameError, match="'2x2-h2', '2x2-h3'|'2x2-h3', '2x2-h2'"):
        trace.attention("text", grid="2x2")


def test_unknown_names(mixed):
    with pytest.raises(UnknownNameError, match="unknown kind 'txt'.*did you mean 'text'"):
        mixed.trace.attention("txt")
    with pytest.raises(UnknownNameError, match="unknown kind 'joint'"):
        mixed.trace.attention("joint")
    with pytest.raises(UnknownNameError, match="unknown direction 'r2'; did you mean 'r2g'"):
        mixed.trace.attention("text", "r2", "4x4")


def test_a_summary_does_not_tell_the_attention():
    trace = open_trace(simulate_store(runs=1, detail="summary"))
    with pytest.raises(NotRecordedError, match=r'text/4x4 holds summaries only.*Capture\(detail="full"\)'):
        trace.attention("text")


def test_a_user_reduces_without_float16_trouble():
    # Sums over many float16 values overflow at 65504 and lose digits long before; everything handed out is float32.
    trace = open_trace(simulate_store(runs=1, kinds=("text",)))
    assert trace.attention("text").sum().compute().dtype == np.float32

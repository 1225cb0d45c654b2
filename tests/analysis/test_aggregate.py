"""The one operator, against loops over layers, heads and calls in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr

from attlas.analysis import maps, open_trace
from attlas.schemas import simulate_store
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError

ONTO = {"g2r": "key", "r2g": "query"}
# Dense leaves and attention_mean hold float16.
CLOSE = {"rtol": 3e-3, "atol": 1e-6}


def resized(values, size, mode="bicubic"):
    options = {"align_corners": False} if mode == "bicubic" else {}
    return F.interpolate(torch.tensor(values)[None, None], size=size, mode=mode, **options)[0, 0].numpy()


def loops(
    mixed, tools, kind, direction, *, branch=1, keep=(), heads=None, layers=None, calls=None, queries=None, keys=None
):
    """Maps of both runs, every term resampled by itself with torch and then summed: {(run, *kept): map}."""
    onto = ONTO[direction]
    made = {}
    for (name, row), (q, k) in mixed.vectors.items():
        leaf = mixed.trace.leaves[name]
        if leaf.kind != kind:
            continue
        for place, path in enumerate(leaf.layers):
            if layers is not None and path not in layers:
                continue
            for t in range(q.shape[1]) if calls is None else calls:
                for h in range(leaf.heads) if heads is None else heads:
                    s = q[branch, t, place, h] @ k[branch, t, place, h].T
                    a = tools.softmax(s, 1 if direction == "g2r" else 0)
                    chosen = (queries if onto == "key" else keys) or {}
                    weights = np.asarray(chosen.get(name, np.ones(a.shape[0 if onto == "key" else 1])), float)
                    weights = weights / weights.sum()
                    vector = weights @ a if onto == "key" else a @ weights
                    if onto == "query":
                        laid = resized(vector.reshape(leaf.query_grid), (4, 4))
                    else:
                        patches = [i for i, y in enumerate(leaf.key_y) if y >= 0]
                        size = {"image": (4, 3), "self": (4, 4)}[kind]
                        laid = resized(vector[patches].reshape(leaf.key_grid), size)
                    label = {"t": t, "layer": path, "head": h}
                    kept = (f"run{row}", *(label[dim] for dim in keep))
                    made[kept] = made.get(kept, 0) + laid
    return made


def check(result, expected, keep=(), **tolerance):
    result = result.compute()
    assert result.dtype == np.float32
    for (run, *labels), wanted in expected.items():
        one = result.sel(run=run, **dict(zip(keep, labels, strict=True)))
        np.testing.assert_allclose(one, wanted, **(tolerance or CLOSE))
    assert result.size == sum(wanted.size for wanted in expected.values())


@pytest.mark.parametrize(
    "keep", [(), ("t",), ("layer",), ("head",), ("t", "layer"), ("layer", "head"), ("t", "layer", "head")]
)
@pytest.mark.parametrize("direction", ["g2r", "r2g"])
@pytest.mark.parametrize("kind", ["image", "self"])
def test_any_axes_are_kept(mixed, tools, kind, direction, keep):
    made = maps.aggregate(mixed.trace, direction, keep, kind=kind)
    axis = ONTO[direction]
    assert made.dims == ("run", *keep, f"{axis}_y", f"{axis}_x")
    check(made, loops(mixed, tools, kind, direction, keep=keep), keep)


@pytest.mark.parametrize("source", ["summary", "full"])
@pytest.mark.parametrize(
    ("kind", "direction"), [("image", "g2r"), ("image", "r2g"), ("self", "g2r"), ("self", "r2g"), ("text", "r2g")]
)
def test_summary_and_full_give_the_same(mixed, tools, kind, direction, source):
    made = maps.aggregate(mixed.trace, direction, kind=kind, source=source)
    assert made.attrs["source"] == (direction if source == "summary" else "full")
    check(made, loops(mixed, tools, kind, direction))


def test_the_largest_sum_equals_all_its_parts(mixed):
    for direction in ("g2r", "r2g"):
        whole = maps.ulam(mixed.trace, direction, kind="image").compute()
        for function in (maps.tlam, maps.hlam, maps.llam):
            parts = function(mixed.trace, direction, kind="image").compute()
            (axis,) = set(parts.dims) - set(whole.dims)
            np.testing.assert_allclose(parts.sum(axis), whole, rtol=2e-6, atol=1e-7)


def test_by_hand(tools):
    # One call, layer and head; Q K^T = S with exp(S) = [[1, 3], [1, 1]]: see test_kernels.
    leaf = tools.leaf_of("image", (1, 2), heads=1, key_grid=(1, 2), channels=2)
    store, _ = tools.make_store((leaf,), runs=0, calls=1, branches=("cond",))
    row = store.claim("one")
    store.write_clock(row, steps=[0], timesteps=[1.0], sigmas=[1.0])
    q, k = np.array([[0, np.log(3)], [0, 0.0]]), np.eye(2)
    tools.write_leaf(store, "image/1x2", row, q[None, None, None, None], k[None, None, None, None])
    store.complete_run(row)
    store.finish()
    trace = open_trace(store)
    for source in ("summary", "full"):
        np.testing.assert_allclose(maps.ulam(trace, "g2r", source=source), [[[3 / 8, 5 / 8]]], rtol=1e-3)
        np.testing.assert_allclose(maps.ulam(trace, "r2g", source=source), [[[5 / 8, 3 / 8]]], rtol=1e-3)


def test_branches(mixed, tools):
    uncond = maps.aggregate(mixed.trace, "r2g", kind="image", branch="uncond")
    check(uncond, loops(mixed, tools, "image", "r2g", branch=0))
    both = maps.aggregate(mixed.trace, "r2g", "branch", kind="image", branch=None)
    assert both.dims == ("run", "branch", "query_y", "query_x")
    np.testing.assert_array_equal(both.sel(branch="uncond").compute(), uncond.compute())
    with pytest.raises(UnknownNameError, match="unknown branch 'conds'.*did you mean 'cond'"):
        maps.ulam(mixed.trace, "r2g", branch="conds")
    with pytest.raises(InvalidValueError, match="branch=None and 'branch' in keep go together"):
        maps.ulam(mixed.trace, "r2g", branch=None)


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [
        ("image4.1.attn", ["image4.1.attn"]),
        ("image4", ["image4.0.attn", "image4.1.attn"]),
        ("*.1.*", ["image4.1.attn"]),
        ("2x2", ["image2.0.attn"]),
        (["image4.0", "2x2"], ["image4.0.attn", "image2.0.attn"]),
    ],
)
def test_layers_by_path_pattern_or_grid(mixed, tools, patterns, paths):
    made = maps.aggregate(mixed.trace, "g2r", kind="image", layers=patterns, grid=(4, 3))
    check(made, loops(mixed, tools, "image", "g2r", layers=paths))
    assert made.attrs["layers"] == ", ".join(paths)


def test_heads_by_number_pair_or_weight(mixed, tools):
    def of(heads, **options):
        return maps.aggregate(mixed.trace, "r2g", kind="image", heads=heads, **options)

    check(of([1]), loops(mixed, tools, "image", "r2g", heads=[1]))
    by_head = of(None, keep=("layer", "head")).compute()
    pairs = [("image4.0.attn", 1), ("image2.0.attn", 0)]
    expected = sum(by_head.sel(layer=layer, head=head) for layer, head in pairs)
    np.testing.assert_allclose(of(pairs).compute(), expected, rtol=1e-5, atol=1e-7)
    assert of(pairs).attrs["heads"] == "image4.0.attn:1, image2.0.attn:0"
    weights = xr.DataArray([[2.0, -1.0]], {"layer": ["image4.1.attn"], "head": [0, 1]}, ("layer", "head"))
    expected = 2 * by_head.sel(layer="image4.1.attn", head=0) - by_head.sel(layer="image4.1.attn", head=1)
    np.testing.assert_allclose(of(weights).compute(), expected, rtol=1e-5, atol=1e-6)
    assert of([0], keep="head").sizes["head"] == 1


def test_steps_take_all_their_calls(tools):
    # As PNDM does: three calls for two steps.
    store, _ = tools.make_store((tools.leaf_of("image", (4, 4)),), runs=1, calls=3, steps=[0, 0, 1])
    trace = open_trace(store)
    by_call = maps.tlam(trace, "r2g").compute()
    assert by_call["step"].values.tolist() == [[0, 0, 1]]
    for source in ("summary", "full"):
        first = maps.ulam(trace, "r2g", steps=0, source=source)
        np.testing.assert_allclose(first.compute(), by_call[:, :2].sum("t"), rtol=1e-5)
        late = maps.ulam(trace, "r2g", steps=slice(1, None), source=source)
        np.testing.assert_allclose(late.compute(), by_call[:, 2], rtol=1e-5)
    assert maps.tlam(trace, "r2g", steps=[1])["t"].values.tolist() == [2]
    with pytest.raises(UnknownNameError, match="unknown step '7'"):
        maps.ulam(trace, "r2g", steps=[0, 7])
    with pytest.raises(InvalidValueError, match="select no call"):
        maps.ulam(trace, "r2g", steps=slice(5, 9))


def test_mean_weighs_every_term_alike(mixed):
    total = maps.ulam(mixed.trace, "r2g", kind="image").compute()
    mean = maps.ulam(mixed.trace, "r2g", kind="image", reduce="mean").compute()
    np.testing.assert_allclose(mean * (3 * 3 * 2), total, rtol=1e-5, atol=1e-7)  # 3 calls, 3 layers, 2 heads
    by_layer = maps.llam(mixed.trace, "r2g", kind="image").compute()
    np.testing.assert_allclose(
        maps.llam(mixed.trace, "r2g", kind="image", reduce="mean").compute() * 6, by_layer, rtol=1e-5, atol=1e-7
    )


def test_the_models_own_direction_says_nothing_of_the_picture_as_a_whole(mixed):
    # I2AM Fig. 16: softmax over keys averaged over all keys is 1/n everywhere.
    made = maps.aggregate(mixed.trace, "g2r", onto="query", kind="image", reduce="mean", source="full")
    np.testing.assert_allclose(made.compute(), 1 / 13, rtol=1e-6)
    by_summary = maps.aggregate(mixed.trace, "g2r", onto="query", kind="image", reduce="mean", source="summary")
    assert by_summary.attrs["source"] == "attention_mean"
    np.testing.assert_allclose(by_summary.compute(), 1 / 13, rtol=2e-3)


def test_r2g_puts_one_into_every_call_layer_and_head(mixed):
    made = maps.aggregate(mixed.trace, "r2g", ("t", "layer", "head"), kind="image", layers="4x4")
    np.testing.assert_allclose(made.sum(("query_y", "query_x")).compute(), 1, rtol=1e-5)


@pytest.mark.parametrize("source", ["summary", "full"])
def test_chosen_queries_by_mask_on_the_grid(mixed, tools, source):
    mask = np.zeros((4, 4), bool)
    mask[0, :3] = True
    # On the 2x2 leaf the mask covers half of the left cell and a quarter of the right one.
    weights = {"image/4x4": mask.ravel(), "image/2x2": [0.5, 0.25, 0, 0]}
    made = maps.aggregate(mixed.trace, "g2r", kind="image", queries=mask, source=source)
    check(made, loops(mixed, tools, "image", "g2r", queries=weights))
    assert made.attrs["source"] == ("attention_mean" if source == "summary" else "full")


def test_chosen_keys_by_segment_and_by_mask(mixed, tools):
    patches = {"image/4x4": [0, *[1] * 12], "image/2x2": [0, *[1] * 12]}
    made = maps.aggregate(mixed.trace, "r2g", kind="image", keys="reference")
    check(made, loops(mixed, tools, "image", "r2g", keys=patches), rtol=1e-4, atol=1e-6)
    mask = np.zeros((4, 3), bool)
    mask[1, 2] = True
    one = {"image/4x4": np.eye(13)[6], "image/2x2": np.eye(13)[6]}
    made = maps.aggregate(mixed.trace, "r2g", kind="image", keys=mask)
    check(made, loops(mixed, tools, "image", "r2g", keys=one), rtol=1e-4, atol=1e-6)


def test_masks_of_the_pictures_size_differ_from_run_to_run(mixed, tools):
    mask = np.zeros((2, 16, 16), bool)
    mask[0, :4, :4] = True  # the first cell of 4x4, a quarter of the first of 2x2
    mask[1, 12:, 8:] = True
    array = xr.DataArray(mask, dims=("run", "image_y", "image_x"), coords={"run": ["run0", "run1"]})
    made = maps.aggregate(mixed.trace, "g2r", kind="image", queries=array[::-1])
    first = {"image/4x4": np.eye(16)[0], "image/2x2": [1, 0, 0, 0]}
    second = {"image/4x4": np.isin(range(16), [14, 15]), "image/2x2": [0, 0, 0, 1]}
    expected = {
        place: values
        for weights, run in ((first, "run0"), (second, "run1"))
        for place, values in loops(mixed, tools, "image", "g2r", queries=weights).items()
        if place[0] == run
    }
    check(made, expected)
    with pytest.raises(InvalidValueError, match="the mask lacks run 'run1'"):
        maps.aggregate(mixed.trace, "g2r", kind="image", queries=array[:1])


def test_a_run_whose_mask_is_empty_or_was_not_given_is_nan(mixed):
    mask = np.zeros((2, 16, 16), np.int8)
    mask[1] = -1
    array = xr.DataArray(mask, dims=("run", "image_y", "image_x"))
    assert np.isnan(maps.aggregate(mixed.trace, "g2r", kind="image", queries=array).compute()).all()
    mask[0, :8] = 1
    made = maps.aggregate(mixed.trace, "g2r", kind="image", queries=array).compute()
    assert made[0].notnull().all()
    assert made[1].isnull().all()


def test_a_selection_of_the_maps_own_axis_sets_the_rest_to_zero(mixed):
    whole = maps.aggregate(mixed.trace, "g2r", kind="image", layers="4x4").compute()
    mask = np.zeros((4, 3), bool)
    mask[:, 0] = True
    made = maps.aggregate(mixed.trace, "g2r", kind="image", layers="4x4", keys=mask).compute()
    np.testing.assert_array_equal(made[..., 1:], 0)
    np.testing.assert_allclose(made[..., 0], whole[..., 0], rtol=1e-6)


def test_tokens_have_no_grid(mixed, tools):
    made = maps.aggregate(mixed.trace, "g2r", "t", kind="text")
    assert made.dims == ("run", "t", "key")
    assert made["token"].sel(run="run1").values.tolist()[:3] == ["<bos>", "a", "red"]
    expected = 0
    for name in ("text/4x4", "text/2x2"):
        q, k = mixed.vectors[name, 1]
        expected = expected + tools.softmax(q[1] @ np.swapaxes(k[1], -1, -2), -1).mean(-2).sum((1, 2))
    np.testing.assert_allclose(made.sel(run="run1").compute(), expected, rtol=2e-3)
    words = maps.aggregate(mixed.trace, "g2r", "t", kind="text", keys="word").compute()
    np.testing.assert_allclose(words[..., 1:8], made[..., 1:8], rtol=1e-5)
    assert (words[..., [0, 8, 9]] == 0).all()
    with pytest.raises(InvalidValueError, match="keys of kind 'text' are tokens, which have no grid"):
        maps.ulam(mixed.trace, "g2r", kind="text", grid="4x4")


def test_grid_rule_and_conservation(mixed):
    small = maps.ulam(mixed.trace, "r2g", kind="image", grid="2x2", resample="area", conserve="mass").compute()
    # Mass: 3 calls x 3 layers x 2 heads, each 1.
    np.testing.assert_allclose(small.sum(("query_y", "query_x")), 18, rtol=1e-5)
    assert small.sizes["query_y"] == 2
    assert (small.attrs["resample"], small.attrs["conserve"]) == ("area", "mass")
    coarse = maps.ulam(mixed.trace, "r2g", kind="image", layers="2x2", resample="bilinear").compute()
    assert coarse.sizes["query_y"] == 2
    wide = maps.ulam(mixed.trace, "r2g", kind="image", layers="2x2", grid=(8, 8), resample="bilinear").compute()
    # Intensity: the mean stays, so the sum grows by the area.
    np.testing.assert_allclose(wide.sum(("query_y", "query_x")), 16 * coarse.sum(("query_y", "query_x")), rtol=1e-5)


def test_clamp_comes_after_each_layer_and_head_was_resampled(mixed):
    by_head = maps.aggregate(mixed.trace, "g2r", ("layer", "head"), kind="image", grid=(16, 12), clamp=True).compute()
    assert float(by_head.min()) >= 0
    free = maps.aggregate(mixed.trace, "g2r", ("layer", "head"), kind="image", grid=(16, 12)).compute()
    np.testing.assert_allclose(by_head, np.maximum(free, 0), rtol=1e-5, atol=1e-6)
    whole = maps.ulam(mixed.trace, "g2r", kind="image", grid=(16, 12), clamp=True).compute()
    np.testing.assert_allclose(whole, by_head.sum(("layer", "head")), rtol=1e-5, atol=1e-6)


def test_heads_that_differ_in_number(mixed):
    with pytest.raises(InvalidValueError, match=r"layers have \[2, 3\] heads: a map per head"):
        maps.hlam(mixed.trace, "r2g", kind="text")
    made = maps.aggregate(mixed.trace, "r2g", ("layer", "head"), kind="text").compute()
    assert made.sizes["head"] == 3
    assert made.sel(layer="text4.0.attn", head=2).isnull().all()
    assert maps.hlam(mixed.trace, "r2g", kind="text", layers="2x2").sizes["head"] == 3


def test_attributes_tell_how_a_map_was_made(mixed, computes):
    with computes(0):
        made = maps.llam(mixed.trace, "r2g", kind="self", keys="self", steps=[0, 2])
    assert made.attrs == {
        "units": "1",
        "long_name": "r2g attribution of self attention",
        "direction": "r2g",
        "onto": "query",
        "kind": "self",
        "branch": "cond",
        "layers": "self4.0.attn, self2.0.attn",
        "heads": "all",
        "steps": "[0, 2]",
        "chosen_keys": "self",
        "chosen_queries": "all",
        "reduce": "sum",
        "resample": "bicubic",
        "conserve": "intensity",
        "clamp": False,
        "order": "last",
        "normalise": "none",
        "source": "full",
        "inert": False,
        "sinks": "kept",
        "partial": False,
        "segment": "self",
        "variant": "paper",
    }
    assert made["prompt"].dims == ("run",)
    assert made["query_y"].values.tolist() == [0, 1, 2, 3]


def test_what_a_summary_cannot_answer():
    trace = open_trace(simulate_store(runs=1, detail="summary"))
    assert maps.ulam(trace, "r2g", kind="image").compute().notnull().all()
    mask = np.eye(4, dtype=bool)
    assert maps.aggregate(trace, "g2r", kind="image", queries=mask).attrs["source"] == "attention_mean"
    with pytest.raises(NotRecordedError, match=r'single steps of chosen keys or queries.*Capture\(detail="full"\)'):
        maps.aggregate(trace, "g2r", "t", kind="image", queries=mask)
    with pytest.raises(NotRecordedError, match="do not tell r2g of chosen keys"):
        maps.aggregate(trace, "r2g", kind="image", keys="reference")
    with pytest.raises(NotRecordedError, match="too large to keep attention_mean, or is of another kind"):
        maps.aggregate(trace, "g2r", kind="self", queries=mask)
    with pytest.raises(NotRecordedError, match="has no full arrays; record with"):
        maps.ulam(trace, "r2g", kind="image", source="full")


def test_insisting_on_a_summary_that_does_not_suffice(mixed):
    with pytest.raises(NotRecordedError, match='no summary that answers this; ask with source="auto"'):
        maps.aggregate(mixed.trace, "r2g", kind="image", keys="reference", source="summary")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "g2"}, "unknown direction 'g2'; did you mean 'g2r'"),
        ({"kind": "imge"}, "unknown kind 'imge'.*did you mean 'image'"),
        (
            {"layers": "image5"},
            "unknown layer pattern 'image5' in the store in memory, kind 'image'; did you mean 'image4",
        ),
        ({"layers": []}, "layers is empty"),
        ({"heads": [2]}, "unknown head '2'"),
        ({"heads": []}, "heads is empty"),
        ({"heads": [("image4.0.attn", 5)]}, "unknown head '5' in layer image4.0.attn"),
        ({"heads": [("image4.0.atn", 0)]}, "unknown layer 'image4.0.atn'; did you mean 'image4.0.attn'"),
        ({"heads": xr.DataArray([1.0], dims="head")}, r"head weights need dims \(layer, head\)"),
        ({"keep": "heads"}, "unknown axis to keep 'heads'; did you mean 'head'"),
        ({"onto": "keys"}, "unknown axis 'keys'; did you mean 'key'"),
        ({"reduce": "max"}, "unknown reduce 'max'"),
        ({"resample": "cubic"}, "unknown resample rule 'cubic'; did you mean 'bicubic'"),
        ({"source": "disk"}, "unknown source 'disk'"),
        ({"grid": "4"}, "grid '4' is no grid"),
        ({"queries": np.ones((3, 3))}, r"queries: a mask of 3x3; accepted here: 4x4, 2x2, 16x16"),
        ({"queries": np.zeros((4, 4), bool)}, "queries: the mask selects nothing"),
        ({"queries": np.ones(5)}, "queries: a mask of 5; image/4x4 has 16 queries"),
        ({"queries": "word"}, "segments are of keys"),
        ({"queries": -np.ones((4, 4))}, "finite and not negative"),
        ({"queries": np.ones((1, 2, 3, 4))}, "4 dims of float64; a segment or a mask"),
        ({"keys": "words"}, "unknown key segment 'words' in leaf image/4x4; .*accepted: 'cls', 'reference'"),
    ],
)
def test_wrong_requests(mixed, options, message):
    options = {"direction": "g2r", "kind": "image", **options}
    with pytest.raises((InvalidValueError, UnknownNameError), match=message):
        maps.aggregate(mixed.trace, options.pop("direction"), **options)


def test_the_kind_is_image_or_the_only_one():
    trace = open_trace(simulate_store(runs=1, kinds=("text",)))
    assert maps.ulam(trace, "r2g").attrs["kind"] == "text"
    several = open_trace(simulate_store(runs=1, kinds=("text", "self")))
    with pytest.raises(InvalidValueError, match="several kinds, 'text', 'self'; choose one by kind="):
        maps.ulam(several, "r2g")

"""Levels of the maps: unequal heads, weights of a mean, axes by resolution, branches, orders, the transformation."""

import numpy as np
import pytest
import xarray as xr

from attlas.analysis import InertAttentionWarning, maps, metrics, open_trace
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError


def same(made, expected):
    expected = np.asarray(expected)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.fixture(scope="module")
def uneven(tools):
    """Two layers of two heads at 4x4, and one of three at 2x2, as SeeSR has 5, 10 and 20."""
    leaves = (
        tools.leaf_of("image", (4, 4), layers=2, key_grid=(3, 3)),
        tools.leaf_of("image", (2, 2), heads=3, key_grid=(3, 3)),
    )
    return open_trace(tools.make_store(leaves)[0])


def by_head(trace, direction="r2g"):
    return maps.aggregate(trace, direction, ("layer", "head")).compute()


def test_heads_that_differ_in_number_are_refused_unless_a_rule_is_named(uneven):
    with pytest.raises(InvalidValueError, match=r"layers have \[2, 3\] heads: .*keep layer or grid too .*unequal="):
        maps.hlam(uneven, "r2g")
    with pytest.raises(UnknownNameError, match="rule for unequal heads 'flatt'; did you mean 'flat'"):
        maps.hlam(uneven, "r2g", unequal="flatt")
    same(maps.hlam(uneven, "r2g", layers="4x4", grid="4x4"), by_head(uneven)[:, :2, :2].sum("layer"))


def test_unequal_heads_by_grid(uneven, computes):
    with computes(0):
        made = maps.hlam(uneven, "r2g", unequal="grid")
    assert made.dims == ("run", "grid", "head", "query_y", "query_x")
    assert made["grid"].values.tolist() == ["4x4", "2x2"]
    made, single = made.compute(), by_head(uneven)
    same(made.sel(grid="4x4", head=[0, 1]), single.sel(head=[0, 1])[:, :2].sum("layer"))
    same(made.sel(grid="2x2"), single[:, 2])
    assert np.isnan(made.sel(grid="4x4", head=2)).all()
    assert made.attrs["unequal"] == "grid"


def test_unequal_heads_in_one_axis(uneven, computes):
    with computes(0):
        made = maps.hlam(uneven, "r2g", unequal="flat")
    assert made.dims == ("run", "layer_head", "query_y", "query_x")
    assert made.sizes["layer_head"] == 2 * 2 + 3
    assert made["head"].values.tolist() == [0, 1, 0, 1, 0, 1, 2]
    assert made["grid"].values.tolist() == ["4x4"] * 4 + ["2x2"] * 3
    single = by_head(uneven)
    for place, (layer, head) in enumerate(zip(made["layer"].values, made["head"].values, strict=True)):
        same(made[:, place], single.sel(layer=layer, head=head))
    same(made.sum("layer_head"), maps.ulam(uneven, "r2g"))
    by_call = maps.hlam(uneven, "r2g", unequal="flat", keep="t")
    assert by_call.dims == ("run", "t", "layer_head", "query_y", "query_x")
    same(by_call.sum("t"), made)


def test_a_mean_weighs_heads_or_layers_alike(uneven):
    single = by_head(uneven) / uneven.calls
    same(maps.ulam(uneven, "r2g", reduce="mean"), single.sum(("layer", "head")) / 7)
    same(maps.ulam(uneven, "r2g", reduce="layer_mean"), single.mean("head").mean("layer"))
    assert float(abs(single.mean("head").mean("layer") - single.sum(("layer", "head")) / 7).max()) > 1e-3
    same(maps.llam(uneven, "r2g", reduce="layer_mean"), single.mean("head"))
    chosen = xr.DataArray([[1.0, 3.0, 0.0], [2.0, 2.0, 2.0]], {"layer": single["layer"][[0, 2]], "head": [0, 1, 2]})
    wanted = (single[:, [0, 2]] * (chosen / chosen.sum("head"))).sum("head").mean("layer")
    same(maps.ulam(uneven, "r2g", reduce="layer_mean", heads=chosen), wanted.transpose("run", ...))
    opposed = xr.DataArray([[1.0, -1.0]], {"layer": single["layer"][:1], "head": [0, 1]}, ("layer", "head"))
    with pytest.raises(InvalidValueError, match="head weights of a layer sum to 0"):
        maps.ulam(uneven, "r2g", reduce="layer_mean", heads=opposed)


def test_a_layer_tells_its_grid(uneven):
    made = maps.llam(uneven, "r2g")
    assert made["grid"].values.tolist() == ["4x4", "4x4", "2x2"]
    same(maps.aggregate(uneven, "r2g", "grid").sel(grid="4x4"), made.isel(layer=[0, 1]).sum("layer"))
    with pytest.raises(InvalidValueError, match="a kept layer tells its grid"):
        maps.aggregate(uneven, "r2g", ("grid", "layer"))


def test_calls_by_place(uneven):
    by_call = maps.tlam(uneven, "r2g").compute()
    same(maps.ulam(uneven, "r2g", calls=[2, 0]), by_call.isel(t=[0, 2]).sum("t"))
    made = maps.tlam(uneven, "r2g", calls=slice(1, None))
    assert made["t"].values.tolist() == [1, 2]
    assert made.attrs["steps"] == "calls 1, 2"
    with pytest.raises(UnknownNameError, match="unknown call '3'; accepted: '0', '1', '2'"):
        maps.ulam(uneven, "r2g", calls=[3])
    with pytest.raises(InvalidValueError, match="select nothing of 3 calls"):
        maps.ulam(uneven, "r2g", calls=[])
    with pytest.raises(InvalidValueError, match="steps and calls both choose along t"):
        maps.ulam(uneven, "r2g", calls=[0], steps=0)


def test_labels_of_groups_stay_in_memory(mixed):
    made = maps.tlam(mixed.trace, "r2g", 2, kind="image", keep="layer")
    assert made.chunks is not None
    assert {name for name, label in made.coords.items() if label.chunks is not None} == set()
    assert made["prompt"].values.tolist() == mixed.trace.runs["prompt"].values.tolist()


def test_the_difference_of_branches_of_tokens_and_of_any_axes(mixed):
    for keep in ((), ("t",), ("layer", "head")):
        both = maps.aggregate(mixed.trace, "g2r", ("branch", *keep), kind="text", layers="4x4", branch=None).compute()
        made = maps.aggregate(mixed.trace, "g2r", keep, kind="text", layers="4x4", branch="uncond-cond")
        assert made.dims == ("run", *keep, "key")
        np.testing.assert_allclose(made, both.sel(branch="uncond") - both.sel(branch="cond"), atol=1e-6)
        assert not {"token_text", "branch"} & set(made.coords)
    with pytest.raises(UnknownNameError, match="unknown branch 'cond-uncon' .*; did you mean 'cond-uncond'"):
        maps.ulam(mixed.trace, "r2g", kind="image", branch="cond-uncon")


def test_clamp_sees_what_stands_before_it(mixed):
    made = {
        order: maps.ulam(mixed.trace, "r2g", kind="image", clamp=True, order=order, source="full").compute()
        for order in ("last", "heads", "tokens")
    }
    plain = maps.ulam(mixed.trace, "r2g", kind="image").compute()
    for one, other in (("tokens", "heads"), ("heads", "last")):
        assert float((made[one] - made[other]).min()) > -1e-5  # negative parts cancel before, never after
    assert float((made["tokens"] - plain).max()) > 1e-3
    default = maps.ulam(mixed.trace, "r2g", kind="image", clamp=True)
    assert default.attrs["order"] == "heads"
    same(default, made["heads"])
    with pytest.raises(UnknownNameError, match="order 'token'; did you mean 'tokens'"):
        maps.ulam(mixed.trace, "r2g", kind="image", order="token")


def test_the_released_order_needs_single_tokens(mixed, computes):
    with computes(0):
        made = maps.ulam(mixed.trace, "g2r", kind="image", variant="released", queries=np.eye(4))
    assert made.attrs["source"] == "attention_mean"
    assert made.attrs["reduce"] == "sum over t, mean over layers and heads"
    full = maps.ulam(mixed.trace, "g2r", kind="image", variant="released", queries=np.eye(4), source="full")
    np.testing.assert_allclose(made, full, rtol=2e-3)
    with pytest.raises(NotRecordedError, match="do not tell each token's own map"):
        maps.ulam(mixed.trace, "r2g", kind="image", variant="released", source="summary")
    with pytest.raises(InvalidValueError, match="order 'tokens' is of maps with rows and columns"):
        maps.ulam(mixed.trace, "g2r", kind="text", layers="4x4", variant="released")
    with pytest.raises(UnknownNameError, match="variant 'release'; did you mean 'released'"):
        maps.ulam(mixed.trace, "r2g", kind="image", variant="release")


def plain_map(values):
    return xr.DataArray(np.asarray(values, "f4"), dims=("query_y", "query_x"))


def scaled(values):
    return (values - values.min()) / (values.max() - values.min() + 1e-8)


def test_transformation_as_printed_and_as_released(computes):
    values = plain_map(np.random.default_rng(0).uniform(1, 3, size=(4, 3)) ** 4)
    large = maps.resample(values, (16, 12), "bicubic").values
    paper = scaled(large)
    with computes(0):
        made = maps.transform(values.chunk(), (16, 12))
    same(made, np.where(paper > 0.4, paper, 0))
    assert made.attrs["threshold"] == "minmax > 0.4 soft"
    twice = scaled(maps.resample(plain_map(scaled(values.values)), (16, 12), "bicubic").values)
    same(maps.transform(values, (16, 12), variant="released"), np.where(twice > 0.4, twice, 0))
    # The release turns maps of one key over, and does so to no other.
    inert = values.assign_attrs(inert=True)
    same(maps.transform(inert, (16, 12), variant="released"), np.where(1 - twice > 0.4, 1 - twice, 0))
    assert maps.transform(inert, (16, 12), variant="released").attrs["invert"] is True
    same(maps.transform(inert, (16, 12)), np.where(paper > 0.4, paper, 0))


def test_the_released_mask_leaves_nothing_to_penalise():
    values = plain_map(np.random.default_rng(1).uniform(size=(4, 4)))
    mask = np.zeros((8, 8), np.int8)
    mask[2:6, 2:6] = 1
    options = {"picture": (8, 8), "variant": "released", "rule": "nearest"}
    plain, masked = (maps.transform(values, **options, **own) for own in ({}, {"mask": mask}))
    assert float(masked.where(xr.DataArray(mask == 0, dims=("query_y", "query_x"))).max()) == 0
    slopes = []
    for made in (plain, masked):
        one, other = (float(metrics.imacs(made, mask, penalty=penalty)) for penalty in (1, 3))
        slopes.append((other - one) / 2)
    assert slopes[0] < -0.1
    assert slopes[1] == 0
    per_run = maps.transform(values.expand_dims(run=["a", "b"]), mask=xr.DataArray(
        np.stack([mask, -np.ones_like(mask)]), {"run": ["a", "b"]}, ("run", "reference_y", "reference_x")
    ), **options)  # fmt: skip
    same(per_run.sel(run="a"), masked)
    assert np.isnan(per_run.sel(run="b")).all()
    with pytest.raises(InvalidValueError, match="the mask is 2x2, coarser than the map's 4x4"):
        maps.transform(values, "8x8", mask=np.ones((2, 2)))
    with pytest.raises(InvalidValueError, match="needs maps of one picture; these have 2 frames"):
        maps.transform(values.expand_dims(query_frame=2), "8x8")


def test_the_warning_of_one_key_goes_with_the_map(tools):
    store, _ = tools.make_store((tools.leaf_of("image", (4, 4), key_grid=(1, 1)),))
    with pytest.warns(InertAttentionWarning, match="one key"):
        made = maps.ulam(open_trace(store), "r2g")
    mask = np.eye(8)
    for own in (
        maps.normalize(made),
        maps.resample(made, (8, 8)),
        maps.threshold(made, 65, rule="percentile"),
        maps.transform(made, (8, 8)),
        metrics.imacs(maps.transform(made, (8, 8), variant="released"), mask),
        metrics.iou(maps.resample(made, (8, 8)), mask),
    ):
        assert own.attrs["inert"] is True
    with pytest.warns(InertAttentionWarning):
        assert maps.ulam(open_trace(store), "r2g", variant="released").attrs["inert"] is True

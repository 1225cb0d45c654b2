"""Facts that any right implementation shows: what resampling keeps, what directions weigh, what has no meaning."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attlas.analysis import InertAttentionWarning, maps, metrics, open_trace
from attlas.analysis.scoring.reference_scores import score_reference
from attlas.schemas import Annotation, Leaf, simulate_store
from attlas.schemas.errors import InvalidValueError, NotRecordedError

RULES = ("nearest", "bilinear", "bicubic", "area")
UNIT = st.floats(0, 1, width=32)


def plane(values, dims=("query_y", "query_x")):
    return xr.DataArray(np.asarray(values, "f4"), dims=dims)


@pytest.fixture(scope="module")
def three(tools):
    """One layer at each of three resolutions, a factor of 2 apart."""
    leaves = tuple(tools.leaf_of("image", (n, n), heads=1, key_grid=(2, 2), name=str(n)) for n in (16, 8, 4))
    return open_trace(tools.make_store(leaves, runs=2, calls=2, branches=("cond",))[0])


@pytest.mark.parametrize("rule", RULES)
def test_resampling_keeps_the_sum_over_tokens_until_it_is_clamped(rule):
    # One map per token, a row of the softmax at every place: the peakier, the more bicubic undershoots.
    logits = np.random.default_rng(0).normal(scale=6, size=(8, 8, 5))
    tokens = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    values = plane(tokens, ("query_y", "query_x", "token"))
    plain, clamped = (maps.resample(values, (32, 32), rule, clamp=clamp).sum("token") for clamp in (False, True))
    np.testing.assert_allclose(plain, 1, atol=1e-5)
    assert float(clamped.min()) > 1 - 1e-5
    assert (float(clamped.max()) > 1.01) == (rule == "bicubic")


def test_a_spike_gains_mass_by_clamping():
    # Measured before: 28 to 32 % for a spike of one pixel, by the factor of upsampling.
    spike = np.zeros((9, 9))
    spike[4, 4] = 1
    for factor in (2, 4, 8):
        made = maps.resample(plane(spike), (9 * factor, 9 * factor), "bicubic")
        assert float(made.sum()) == pytest.approx(factor**2, rel=1e-5)
        assert 0.25 < float(made.clip(min=0).sum()) / factor**2 - 1 < 0.33


@pytest.mark.parametrize("rule", RULES)
def test_coarse_layers_outweigh_fine_ones_in_r2g_unless_mass_is_conserved(three, rule):
    # A map per layer that sums to 1: kept in intensity a layer c times coarser weighs c^2.
    sums = {}
    for conserve in ("intensity", "mass"):
        made = maps.llam(three, "r2g", resample=rule, conserve=conserve).isel(run=0)
        sums[conserve] = made.sum(("query_y", "query_x")).values
    if rule == "bicubic":  # its edges repeat, so that mass near them is not quite kept
        np.testing.assert_allclose(sums["intensity"] / 2, [1, 4, 16], rtol=0.1)
        np.testing.assert_allclose(sums["mass"] / 2, 1, rtol=0.1)
    else:
        np.testing.assert_allclose(sums["intensity"] / 2, [1, 4, 16], rtol=1e-5)
        np.testing.assert_allclose(sums["mass"] / 2, 1, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_resampling_may_come_before_or_after_the_sums(three, rule):
    at_once = maps.ulam(three, "r2g", resample=rule).compute()
    single = [maps.tlam(three, "r2g", layers=grid, grid=grid) for grid in ("16x16", "8x8", "4x4")]
    before = sum(maps.resample(own, "16x16", rule).sum("t") for own in single)
    after = sum(maps.resample(own.sum("t"), "16x16", rule) for own in single)
    np.testing.assert_allclose(before, at_once, rtol=1e-5)
    np.testing.assert_allclose(after, at_once, rtol=1e-5)


def test_clamping_does_not_commute_with_sums():
    one, other = np.zeros((4, 4)), np.zeros((4, 4))
    one[1, 1], other[1, 2] = 1, 1
    apart = sum(maps.resample(plane(own), "16x16", "bicubic", clamp=True) for own in (one, other))
    together = maps.resample(plane(one + other), "16x16", "bicubic", clamp=True)
    assert float((apart - together).max()) > 0.01
    assert float((apart - together).min()) > -1e-6


@given(arrays(np.float32, (3, 4), elements=UNIT), arrays(bool, (3, 4)), st.floats(0, 10), st.floats(0, 10))
def test_imacs_is_linear_in_the_penalty_and_bounded(values, mask, one, other):
    scores = [float(metrics.imacs(plane(values), mask, penalty=own)) for own in (one, other, (one + other) / 2)]
    if not mask.any() or mask.all():
        assert np.isnan(scores).all()
        return
    assert scores[2] == pytest.approx((scores[0] + scores[1]) / 2, abs=1e-4)
    assert -one - 1e-5 <= scores[0] <= 1 + 1e-5


def test_nothing_of_one_run_is_in_the_map_of_another(three):
    # The release never clears what it summed: its second picture holds the first.
    for name, arguments in (("ulam", ("r2g",)), ("tlam", ("g2r",)), ("sram", ((3, 4),)), ("reverse_sram", ((1, 0),))):
        both = getattr(maps, name)(three, *arguments).compute()
        alone = getattr(maps, name)(three.isel([1]), *arguments).compute()
        xr.testing.assert_identical(alone, both.isel(run=[1]))


@pytest.fixture(scope="module")
def adapter(tools):
    """Four tokens of an image adapter, which are no patches."""
    leaf = Leaf(
        "image", (4, 4), 2, 4, ("blocks.0.attn",), 4, ("reference",) * 4, (-1,) * 4, (-1,) * 4, encoding="factors"
    )
    return open_trace(tools.make_store((leaf,))[0])


def test_tokens_of_an_image_adapter_are_no_patches(adapter):
    assert maps.ulam(adapter, "r2g").dims == ("run", "query_y", "query_x")
    by_token = maps.ulam(adapter, "g2r")
    assert by_token.dims == ("run", "key")
    assert by_token.sizes["key"] == 4
    assert maps.sram(adapter, (1, 1)).dims == ("run", "layer", "key")
    with pytest.raises(InvalidValueError, match="keys of kind 'image' are no patches; a patch has no meaning here"):
        maps.reverse_sram(adapter, (0, 0))
    with pytest.raises(InvalidValueError, match="keys of image/4x4 are no patches; a mask of rows and columns has no"):
        maps.ulam(adapter, "r2g", keys=np.ones((2, 2)))
    with pytest.raises(InvalidValueError, match="keys of kind 'image' are tokens, which have no grid; drop grid="):
        maps.ulam(adapter, "g2r", grid="8x8")
    for function in (maps.resample, maps.transform):
        with pytest.raises(InvalidValueError, match="a map with two spatial dims .* is needed; got dims run, key"):
            function(by_token, "8x8")
    with pytest.raises(InvalidValueError, match="a map with two spatial dims"):
        metrics.imacs(by_token, np.ones((2, 2)))


def test_incomplete_runs_are_left_out_or_nan(tools):
    store, _ = tools.make_store((tools.leaf_of("image", (4, 4)),), runs=3, complete={0, 2})
    assert maps.ulam(open_trace(store), "r2g")["run"].values.tolist() == ["run0", "run2"]
    shown = open_trace(store, incomplete=True)
    # What was written before the run stopped is there; a run that was claimed and no more is NaN.
    assert maps.ulam(shown, "r2g").notnull().all()
    store.claim("run3", seed=3, prompt="", capacity=1)
    shown = open_trace(store, incomplete=True)
    made = maps.transform(maps.ulam(shown, "r2g"), (16, 16))
    assert made["run"].values.tolist() == ["run0", "run1", "run2", "run3"]
    assert np.isnan(made.sel(run="run3")).all()
    scores = metrics.imacs(made, np.eye(16))
    assert np.isnan(scores).values.tolist() == [False, False, False, True]


def test_a_summary_cannot_tell_a_patch_of_the_reference():
    trace = open_trace(simulate_store(runs=1, kinds=("image",), detail="summary"))
    assert maps.sram(trace, (1, 1)).attrs["source"] == "attention_mean"
    assert maps.ulam(trace, "g2r", variant="released").attrs["source"] == "attention_mean"
    for ask in (
        lambda: maps.reverse_sram(trace, (1, 1)),
        lambda: maps.ulam(trace, "r2g", variant="released"),
        lambda: maps.sram(trace, (1, 1), keep="t"),
    ):
        with pytest.raises(NotRecordedError, match=r"summaries only.*detail=.full."):
            ask()


def test_scores_of_a_model_with_one_key_say_so(tools):
    leaf = Leaf("image", (4, 4), 2, 4, ("blocks.0.attn",), 1, ("cls",), (-1,), (-1,), encoding="factors")
    mask = np.zeros((16, 16), bool)
    mask[4:9, 4:9] = True
    given = {"dress": Annotation(mask, "object")}
    trace = open_trace(tools.make_store((leaf,), annotations=lambda _: given)[0])
    with pytest.warns(InertAttentionWarning, match="W_q and W_k never act"):
        table = score_reference(trace)
    assert set(table.scores) == {f"r2g_{metric}_{where}" for metric in ("imacs", "iou") for where in ("finest", "all")}
    assert "W_q and W_k never act" in str(table)
    assert any("are no patches" in reason for reason in table.left_out)
    with pytest.warns(InertAttentionWarning):
        soft = maps.transform(maps.ulam(trace, "r2g"), (16, 16))
    assert table["r2g_imacs_all"].value == pytest.approx(float(metrics.imacs(soft, mask).mean()), abs=1e-5)

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attlas.analysis.maps import normalize, resample, threshold
from attlas.schemas.errors import InvalidValueError, UnknownNameError


def grid(values, dims=("y", "x")):
    return xr.DataArray(np.asarray(values, "f4"), dims=dims)


def test_minmax_by_hand():
    # (m - 2) / (10 - 2)
    np.testing.assert_allclose(normalize(grid([[2, 4], [6, 10]])), [[0, 0.25], [0.5, 1]], rtol=1e-6)


def test_a_constant_map_becomes_zero():
    np.testing.assert_array_equal(normalize(grid([[3, 3], [3, 3]])), np.zeros((2, 2)))


def test_sum_and_none():
    np.testing.assert_allclose(normalize(grid([[1, 3]]), "sum"), [[0.25, 0.75]])
    made = normalize(grid([[1, 3]]), "none")
    np.testing.assert_array_equal(made, [[1, 3]])
    assert made.attrs["normalise"] == "none"


def test_every_map_by_itself_and_tokens_along_key(computes):
    values = grid([[[0, 1]], [[0, 10]]], ("run", "y", "x")).chunk({"run": 1})
    with computes(0):
        made = normalize(values)
    np.testing.assert_allclose(made.compute(), [[[0, 1]], [[0, 1]]])
    tokens = grid([[1, 1, 2], [0, 5, 5]], ("run", "key"))
    np.testing.assert_allclose(normalize(tokens, "sum").sum("key"), 1)


def test_nan_makes_the_whole_map_nan_and_no_other():
    values = grid([[[0, np.nan]], [[0, 1]]], ("run", "y", "x"))
    for made in (normalize(values), threshold(values, 0.5), threshold(values, 0.5, rule="max")):
        assert np.isnan(made[0]).all()
        assert not np.isnan(made[1]).any()


@pytest.mark.parametrize(
    ("rule", "tau", "hard"),
    [
        ("minmax", 0.4, [[0, 0, 1, 1]]),  # normalised 0, .25, .5, 1
        ("minmax", 0.5, [[0, 0, 0, 1]]),  # strictly greater
        ("max", 0.5, [[0, 1, 1, 1]]),  # at least half of 10
        ("max", 0.4, [[0, 1, 1, 1]]),
        ("max", 0.21, [[0, 1, 1, 1]]),
        ("max", 0.2, [[1, 1, 1, 1]]),  # 2 is exactly a fifth of 10: not strict
        ("percentile", 50, [[0, 0, 1, 1]]),  # median of 2, 5, 6, 10 is 5.5
    ],
)
def test_threshold_rules_by_hand(rule, tau, hard):
    values = grid([[2, 5, 6, 10]])
    if rule == "minmax":
        values = grid([[2, 4, 6, 10]])
    np.testing.assert_array_equal(threshold(values, tau, rule=rule), hard)


def test_soft_keeps_values():
    np.testing.assert_allclose(threshold(grid([[2, 4, 6, 10]]), 0.4, mode="soft"), [[0, 0, 0.5, 1]], rtol=1e-6)
    np.testing.assert_allclose(threshold(grid([[2, 5, 6, 10]]), 0.55, rule="max", mode="soft"), [[0, 0, 6, 10]])


def test_the_released_rule_is_stricter_wherever_the_minimum_is_positive():
    values = grid(np.random.default_rng(0).uniform(1, 2, size=(8, 8)))
    assert float(threshold(values, 0.4).sum()) < float(threshold(values, 0.4, rule="max").sum())


def test_attrs_say_how(computes):
    values = grid([[0, 1]]).assign_attrs(units="1")
    with computes(0):
        made = threshold(values.chunk(), 0.4, mode="soft")
    assert made.attrs["threshold"] == "minmax > 0.4 soft"
    assert threshold(values, 0.4, rule="max").attrs["threshold"] == "max >= 0.4 hard"
    assert made.attrs["units"] == "1"
    assert made.dtype == np.float32


def test_inversion_makes_low_high():
    values = grid([[2, 4, 6, 10]])  # normalised 0, .25, .5, 1
    np.testing.assert_allclose(normalize(values, invert=True), [[1, 0.75, 0.5, 0]], rtol=1e-6)
    np.testing.assert_allclose(threshold(values, 0.6, mode="soft", invert=True), [[1, 0.75, 0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(normalize(grid([[3, 3]]), invert=True), [[1, 1]])
    once = normalize(values, invert=True)
    twice = normalize(once, invert=True)
    assert (normalize(values).attrs["invert"], once.attrs["invert"], twice.attrs["invert"]) == (False, True, False)
    # A threshold of an inverted map is of an inverted map, by any rule.
    np.testing.assert_array_equal(threshold(once, 50, rule="percentile"), [[1, 1, 0, 0]])
    assert threshold(once, 50, rule="percentile").attrs["invert"] is True
    for function in (normalize, threshold):
        with pytest.raises(InvalidValueError, match="invert is of rule 'minmax', got '(max|sum)'"):
            function(values, rule="sum" if function is normalize else "max", invert=True)


def test_a_value_equal_to_the_threshold_is_in_or_out_by_name():
    values = grid([[0, 1, 2, 4]])
    for rule, tau in (("minmax", 0.5), ("max", 0.5), ("percentile", 100 * 2 / 3)):
        out, into = (threshold(values, tau, rule=rule, compare=sign) for sign in (">", ">="))
        np.testing.assert_array_equal(out, [[0, 0, 0, 1]])
        np.testing.assert_array_equal(into, [[0, 0, 1, 1]])
        assert (out.attrs["threshold"], into.attrs["threshold"]) == (
            f"{rule} > {tau:g} hard",
            f"{rule} >= {tau:g} hard",
        )
    with pytest.raises(UnknownNameError, match="comparison '=>'"):
        threshold(values, compare="=>")


@given(
    arrays(np.float32, (3, 4), elements=st.integers(-100, 100)),
    st.sampled_from([0.25, 2.0, 8.0]),
    st.integers(-50, 50),
)
def test_minmax_does_not_see_scale_or_offset(values, scale, offset):
    np.testing.assert_allclose(normalize(grid(values * scale + offset)), normalize(grid(values)), atol=1e-6)


def test_minmax_of_a_picture_is_not_that_of_its_map():
    # I2AM's released code scales the map, resamples it by bicubic and scales again: bicubic overshoots.
    values = normalize(grid(np.random.default_rng(1).uniform(size=(4, 4)) ** 3))
    once = resample(values, (16, 16), "bicubic")
    twice = normalize(once)
    assert float(once.min()) < 0 or float(once.max()) > 1
    assert float(abs(twice - once).max()) > 0.01
    np.testing.assert_allclose(normalize(twice), twice, atol=1e-6)  # by itself it is idempotent
    # The first of the two changes nothing in the end: resampling is linear and keeps constants.
    raw = grid(3 + 5 * values.values)
    np.testing.assert_allclose(normalize(resample(raw, (16, 16), "bicubic")), twice, atol=1e-5)


def test_wrong_names():
    values = grid([[0, 1]])
    with pytest.raises(UnknownNameError, match="normalise rule 'minmaxx'; did you mean 'minmax'"):
        normalize(values, "minmaxx")
    with pytest.raises(UnknownNameError, match="threshold rule 'mean'"):
        threshold(values, rule="mean")
    with pytest.raises(UnknownNameError, match="threshold mode 'sof'; did you mean 'soft'"):
        threshold(values, mode="sof")
    with pytest.raises(InvalidValueError, match="threshold 40 is out of range; 0 to 1"):
        threshold(values, 40)
    with pytest.raises(InvalidValueError, match="0 to 100"):
        threshold(values, 101, rule="percentile")

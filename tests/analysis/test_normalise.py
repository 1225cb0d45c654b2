import numpy as np
import pytest
import xarray as xr

from attlas.analysis.maps import normalize, threshold
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
    assert made.attrs["threshold"] == "minmax 0.4 soft"
    assert made.attrs["units"] == "1"
    assert made.dtype == np.float32


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

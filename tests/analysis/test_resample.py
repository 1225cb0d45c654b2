import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr

from attlas.analysis.aggregation.resample import matrix, parse_grid
from attlas.analysis.maps import resample
from attlas.schemas.errors import InvalidValueError, UnknownNameError

TORCH = {"nearest": "nearest-exact", "bilinear": "bilinear", "bicubic": "bicubic", "area": "area"}


def grid(values, dims=("y", "x")):
    return xr.DataArray(np.asarray(values, "f4"), dims=dims)


@pytest.mark.parametrize(
    ("size", "target"), [((4, 4), (16, 16)), ((4, 6), (8, 6)), ((16, 12), (4, 3)), ((5, 5), (5, 5))]
)
@pytest.mark.parametrize("rule", list(TORCH))
def test_rules_are_those_of_torch(rule, size, target):
    values = np.random.default_rng(0).normal(size=(3, *size)).astype("f4")
    options = {"align_corners": False} if rule in ("bilinear", "bicubic") else {}
    expected = F.interpolate(torch.tensor(values)[None], size=target, mode=TORCH[rule], **options)[0]
    made = resample(grid(values, ("run", "y", "x")), target, rule)
    np.testing.assert_allclose(made, expected, atol=2e-6)


@pytest.mark.parametrize("rule", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "target"), [((5, 7), (12, 9)), ((9, 8), (4, 5))])
def test_uneven_factors_are_those_of_torch(rule, size, target):
    values = np.random.default_rng(1).normal(size=(1, *size)).astype("f4")
    options = {} if rule == "nearest" else {"align_corners": False}
    expected = F.interpolate(torch.tensor(values)[None], size=target, mode=TORCH[rule], **options)[0]
    np.testing.assert_allclose(resample(grid(values, ("run", "y", "x")), target, rule), expected, atol=2e-6)


def test_area_by_uneven_factors_averages_overlaps():
    # 3 cells to 2: each takes one cell and half of the middle one.
    np.testing.assert_allclose(matrix("area", 3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], rtol=1e-6)
    # 2 to 3: the middle one takes half of each.
    np.testing.assert_allclose(matrix("area", 2, 3), [[1, 0], [0.5, 0.5], [0, 1]], rtol=1e-6)


def test_clamp_removes_what_bicubic_overshoots():
    spike = np.zeros((4, 4), "f4")
    spike[1, 1] = 1
    free = resample(grid(spike), (16, 16), "bicubic")
    clamped = resample(grid(spike), (16, 16), "bicubic", clamp=True)
    assert float(free.min()) < 0
    assert float(clamped.min()) == 0
    np.testing.assert_array_equal(clamped, np.maximum(free, 0))
    assert float(clamped.sum() / free.sum()) > 1.05  # clamping adds mass


def test_mass_is_kept_on_request():
    values = grid(np.random.default_rng(2).uniform(size=(4, 4)))
    up = resample(values, (8, 12), "bilinear", conserve="mass")
    assert float(up.sum()) == pytest.approx(float(values.sum()), rel=1e-6)
    down = resample(values, (2, 2), "area", conserve="mass")
    assert float(down.sum()) == pytest.approx(float(values.sum()), rel=1e-6)


def test_same_grid_is_untouched_and_described():
    values = grid([[1, -2], [3, 4]])
    made = resample(values.astype("f2"), "2x2", "bicubic")
    np.testing.assert_array_equal(made, values)
    assert made.dtype == np.float32
    assert made.attrs == {"resample": "bicubic", "conserve": "intensity", "clamp": False}
    assert float(resample(values, "2x2", clamp=True).min()) == 0


def test_dims_order_coords_and_attrs_stay(computes):
    values = xr.DataArray(
        np.ones((2, 3, 4, 2), "f4"),
        dims=("run", "query_y", "query_x", "head"),
        coords={"run": ["a", "b"]},
        attrs={"units": "1"},
    )
    with computes(0):
        made = resample(values.chunk({"run": 1}), (6, 8), "bilinear")
    assert made.dims == values.dims
    assert made.sizes == {"run": 2, "query_y": 6, "query_x": 8, "head": 2}
    assert made.attrs["units"] == "1"
    assert made["query_x"].values.tolist() == list(range(8))
    np.testing.assert_allclose(made.compute(), 1, rtol=1e-6)


@pytest.mark.parametrize("wrong", ["64", "axb", (0, 4), (1, 2, 3), "4x-1"])
def test_a_grid_is_rows_by_columns(wrong):
    with pytest.raises(InvalidValueError, match="grid"):
        parse_grid(wrong)


def test_wrong_names_and_dims():
    with pytest.raises(UnknownNameError, match="resample rule 'bicubik'; did you mean 'bicubic'"):
        resample(grid([[1]]), (2, 2), "bicubik")
    with pytest.raises(UnknownNameError, match="conserve 'energy'"):
        resample(grid([[1]]), (2, 2), conserve="energy")
    with pytest.raises(InvalidValueError, match=r"two spatial dims.*got dims key"):
        resample(xr.DataArray(np.zeros(3), dims="key"), (2, 2))

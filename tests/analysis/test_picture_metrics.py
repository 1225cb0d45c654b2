"""Metrics of pictures, against numbers worked by hand and the published formula in plain loops."""

import numpy as np
import pytest
import xarray as xr

from attlas.analysis import metrics
from attlas.schemas.errors import InvalidValueError


def pictures(shape=(2, 14, 13, 3), seed=0):
    rng = np.random.default_rng(seed)
    one = rng.integers(0, 256, shape, dtype=np.uint8)
    other = np.clip(one + rng.normal(scale=40, size=shape), 0, 255).astype(np.uint8)
    dims = ("run", "image_y", "image_x", "rgb")[-len(shape) :]
    return xr.DataArray(one, dims=dims), xr.DataArray(other, dims=dims)


def wang(one, other, y, x):
    """Eq. 13 of Wang et al. 2004 at one pixel whose window lies in the picture; one channel, float64."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    a, b = (own[y - 5 : y + 6, x - 5 : x + 6].astype(float) for own in (one, other))
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
    both = (weights * (a - mean_a) * (b - mean_b)).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def test_ssim_is_the_published_formula_on_every_channel():
    one, other = pictures()
    made = metrics.ssim(one, other)
    assert (made.dims, made.dtype, made.attrs) == (("run",), np.float32, {"units": "1", "long_name": "SSIM"})
    for run in range(2):
        own = [
            wang(one.values[run, ..., c], other.values[run, ..., c], y, x)
            for c in range(3) for y in range(5, 9) for x in range(5, 8)
        ]  # fmt: skip
        assert float(made[run]) == pytest.approx(np.mean(own), abs=1e-6)


def test_ssim_inside_a_mask_of_each_run():
    one, other = pictures()
    mask = np.zeros((2, 14, 13), np.int8)
    mask[0, 6:8, 5] = 1
    mask[1] = -1
    made = metrics.ssim(one, other, xr.DataArray(mask, dims=("run", "y", "x")))
    own = [wang(one.values[0, ..., c], other.values[0, ..., c], y, 5) for c in range(3) for y in (6, 7)]
    assert float(made[0]) == pytest.approx(np.mean(own), abs=1e-6)
    assert np.isnan(made[1])  # not given
    assert np.isnan(metrics.ssim(one, other, np.zeros((14, 13), bool))).all()


def test_ssim_is_lazy_symmetric_and_one_for_equals(computes):
    one, other = pictures()
    with computes(0):
        made = metrics.ssim(one.chunk({"run": 1}), other.chunk({"run": 1}))
    np.testing.assert_array_equal(made.compute(), metrics.ssim(other, one))
    np.testing.assert_array_equal(metrics.ssim(one, one), [1, 1])
    assert metrics.ssim(one[0], other[0]).dims == ()


def test_pictures_that_cannot_be_compared():
    one, other = pictures()
    for metric in (metrics.ssim, metrics.psnr):
        with pytest.raises(InvalidValueError, match="the image is 14x13x3 and the target 14x12x3"):
            metric(one, other.isel(image_x=slice(1, None)))
        with pytest.raises(
            InvalidValueError, match=r"target: a picture \(row, column, rgb\) is needed; got dims run, i"
        ):
            metric(one, other.isel(rgb=0))
        with pytest.raises(InvalidValueError, match="the mask is 4x4 and the map 14x13"):
            metric(one, other, np.ones((4, 4), bool))
    with pytest.raises(InvalidValueError, match="at least 11x11, the size of its window; these are 10x13"):
        metrics.ssim(one[:, :10], other[:, :10])


def test_psnr_by_hand():
    image = xr.DataArray(np.zeros((2, 2, 3), np.uint8), dims=("image_y", "image_x", "rgb"))
    target = image.copy()
    target[0, 0] = 51
    # Mean squared error 51^2 / 4: 10 log10(255^2 * 4 / 51^2) = 20 log10(10) = 20 dB.
    assert float(metrics.psnr(image, target)) == pytest.approx(20, abs=1e-4)
    # Inside the one wrong pixel 20 log10(255 / 51) = 20 log10(5); outside nothing is wrong.
    mask = np.array([[True, False], [False, False]])
    assert float(metrics.psnr(image, target, mask)) == pytest.approx(20 * np.log10(5), abs=1e-4)
    assert float(metrics.psnr(image, target, ~mask)) == np.inf
    assert np.isnan(metrics.psnr(image, target, np.zeros((2, 2), bool)))
    assert metrics.psnr(image, target).attrs["units"] == "dB"

"""Metrics of generated pictures against true ones: PSNR and SSIM, whole or inside a mask."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.resample import spatial_dims
from attlas.analysis.scoring.masked import Mask, inside_of, mean_inside, score
from attlas.schemas.errors import InvalidValueError

__all__ = ["psnr", "ssim"]

WINDOW = 11
"""Rows and columns of the Gaussian window of SSIM: sigma 1.5, cut at 3.5 sigma."""


def psnr(image: xr.DataArray, target: xr.DataArray, mask: Mask | None = None) -> xr.DataArray:
    """Peak signal-to-noise ratio of uint8 pictures, in dB: ``10 log10(255^2 / mean squared error)``.

    Dims ``(run, row, column, rgb)`` or without run; inside `mask` only if one is given. Equal pictures give inf. NaN
    where the mask is empty or not given. Float32.

    Examples
    --------
    >>> black = xr.DataArray(np.zeros((2, 2, 3), "u1"), dims=("y", "x", "rgb"))
    >>> float(psnr(black, black + np.uint8(255)))
    0.0
    """
    _check_alike(image, target)
    squared = (image.astype(np.float32) - target.astype(np.float32)) ** 2
    error = squared.mean("rgb")
    if mask is None:
        mean = error.mean(spatial_dims(error))
    else:
        inside, dims = inside_of(error, mask)
        mean = mean_inside(error, inside, dims)
    ratio: xr.DataArray = xr.apply_ufunc(np.log10, 255**2 / mean.where(mean > 0), dask="parallelized")
    made = (10 * ratio).where(mean != 0, np.inf).where(mean.notnull())
    return score(made.astype(np.float32), "PSNR", units="dB")


def ssim(image: xr.DataArray, target: xr.DataArray, mask: Mask | None = None) -> xr.DataArray:
    """Structural similarity of uint8 pictures, in [-1, 1]; 1 where they are equal.

    Parameters
    ----------
    image, target
        ``(run, row, column, rgb)`` or without run, at least 11x11, values 0 to 255.
    mask
        Where to look, of the pictures' size; see `imacs` for masks. The windows of its pixels reach 5 pixels beyond it.

    Returns
    -------
    ``(run,)``, or a scalar without run; float32, unit 1, lazy where the pictures are. The mean over the pixels whose
    window lies in the picture; inside `mask` over its pixels, with the picture mirrored at its edges. NaN where
    the mask is empty or not given.

    Raises
    ------
    InvalidValueError
        If the pictures differ in size or are smaller than the window, or the mask is of another size.

    Notes
    -----
    The settings of the reference: Gaussian window of 11x11, sigma 1.5, variances over N, K1 0.01, K2 0.03, data
    range 255; on each colour channel by itself, then the mean of the three. Computed by scikit-image in float64.

    References
    ----------
    Wang, Bovik, Sheikh and Simoncelli (2004), eq. 13.

    Examples
    --------
    >>> flat = xr.DataArray(np.full((11, 11, 3), 100, "u1"), dims=("y", "x", "rgb"))
    >>> float(ssim(flat, flat))
    1.0
    >>> c1 = (0.01 * 255) ** 2  # of two flat pictures the luminance term is all
    >>> expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    >>> bool(np.isclose(ssim(flat, flat + np.uint8(50)), expected))
    True
    """
    _check_alike(image, target)
    y, x = spatial_dims(image)
    if min(image.sizes[y], image.sizes[x]) < WINDOW:
        raise InvalidValueError(
            f"SSIM needs pictures of at least {WINDOW}x{WINDOW}, the size of its window; "
            f"these are {image.sizes[y]}x{image.sizes[x]}"
        )
    # Labels of rows and columns may differ by name; the pictures meet pixel by pixel.
    other = target.drop_vars([name for name in target.coords if name != "run"])
    made: xr.DataArray = xr.apply_ufunc(
        _similarity,
        image,
        other.rename(dict(zip(spatial_dims(other), (y, x), strict=True))),
        input_core_dims=[[y, x, "rgb"], [y, x, "rgb"]],
        output_core_dims=[[y, x]],
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    if mask is None:
        edge = slice(WINDOW // 2, -(WINDOW // 2))
        mean = made.isel({y: edge, x: edge}).mean((y, x), skipna=False)
    else:
        inside, dims = inside_of(made, mask)
        mean = mean_inside(made, inside, dims)
    return score(mean.astype(np.float32), "SSIM")


def _similarity(images: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    """SSIM at each pixel ``(..., row, column)`` of pictures ``(..., row, column, rgb)``, mean over the channels."""
    from skimage.metrics import structural_similarity

    images, targets = np.broadcast_arrays(images.astype(np.float64), targets.astype(np.float64))
    made = np.empty(images.shape[:-1])
    for place in np.ndindex(images.shape[:-3]):
        _, own = structural_similarity(
            images[place], targets[place], data_range=255, channel_axis=-1, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, K1=0.01, K2=0.03, full=True,
        )  # fmt: skip
        made[place] = own.mean(-1)
    return made


def _check_alike(image: xr.DataArray, target: xr.DataArray) -> None:
    """Refuse pictures that differ in size, and what is no picture in colour."""
    shapes = []
    for what, picture in (("image", image), ("target", target)):
        if "rgb" not in picture.dims:
            shown = ", ".join(str(dim) for dim in picture.dims) or "none"
            raise InvalidValueError(f"{what}: a picture (row, column, rgb) is needed; got dims {shown}")
        shapes.append("x".join(str(picture.sizes[dim]) for dim in (*spatial_dims(picture), "rgb")))
    if shapes[0] != shapes[1]:
        raise InvalidValueError(f"the image is {shapes[0]} and the target {shapes[1]}; pictures of one size are needed")

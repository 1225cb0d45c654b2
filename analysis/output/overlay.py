"""A map laid over its picture, as uint8 RGB."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.resample import check_picture, resample, spatial_dims
from attlas.analysis.normalise import normalize
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["COLOURS", "colour", "overlay"]

COLOURS: dict[str, tuple[tuple[int, int, int], ...]] = {
    # Nine steps of matplotlib's perceptually uniform maps (CC0), linearly joined.
    "inferno": (
        (0, 0, 4),
        (31, 12, 72),
        (85, 15, 109),
        (136, 34, 106),
        (186, 54, 85),
        (227, 89, 51),
        (249, 140, 10),
        (249, 201, 50),
        (252, 255, 164),
    ),
    "viridis": (
        (68, 1, 84),
        (72, 40, 120),
        (62, 74, 137),
        (49, 104, 142),
        (38, 130, 142),
        (31, 158, 137),
        (53, 183, 121),
        (110, 206, 88),
        (253, 231, 37),
    ),
    "grey": ((0, 0, 0), (255, 255, 255)),
}


def overlay(
    values: xr.DataArray, image: xr.DataArray | NDArray[np.uint8], *, opacity: float = 0.6, colours: str = "inferno"
) -> xr.DataArray:
    """`values`, min-max normalised and coloured, laid over `image`.

    Parameters
    ----------
    values
        Maps with two spatial dims; each is normalised by itself. Any grid: resampled bilinearly to the picture.
    image
        uint8 ``(row, column, rgb)``, or with a run dim as `values` has it.
    opacity
        Weight of the map, 0 to 1.
    colours
        ``inferno``, ``viridis`` or ``grey``.

    Returns
    -------
    Dims of `values` on the picture's grid, then ``rgb``; uint8, lazy if either input is. A map with a NaN is black.

    Raises
    ------
    InvalidValueError
        If `opacity` or the image's shape is out of range, or the maps are of a video.

    Examples
    --------
    >>> m = xr.DataArray([[0.0, 1.0]], dims=("y", "x"))
    >>> overlay(m, np.zeros((1, 2, 3), "u1"), opacity=1.0, colours="grey").values.tolist()
    [[[0, 0, 0], [255, 255, 255]]]
    """
    if not 0 <= opacity <= 1:
        raise InvalidValueError(f"opacity {opacity!r} is out of range; 0 to 1 is accepted")
    if colours not in COLOURS:
        raise unknown_name("colours", colours, COLOURS)
    check_picture(values, "an overlay")
    y, x = spatial_dims(values)
    picture = image if isinstance(image, xr.DataArray) else xr.DataArray(image)
    if picture.ndim not in (3, 4) or picture.shape[-1] != 3:
        raise InvalidValueError(f"an image (row, column, rgb) is needed; got shape {picture.shape}")
    names = dict(zip(picture.dims[-3:], (y, x, "rgb"), strict=True))
    picture = picture.rename(names).drop_vars([name for name in (y, x) if name in picture.coords])
    shown = normalize(resample(values, (picture.sizes[y], picture.sizes[x]), "bilinear"))
    painted: xr.DataArray = xr.apply_ufunc(
        colour,
        shown.drop_vars([y, x]),
        kwargs={"colours": colours},
        output_core_dims=[["rgb"]],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {"rgb": 3}},
    )
    mixed = opacity * painted + (1 - opacity) * picture.astype(np.float32)
    made: xr.DataArray = mixed.transpose(*values.dims, "rgb").round().clip(0, 255).fillna(0).astype(np.uint8)
    made.attrs = {**values.attrs, "units": "", "opacity": opacity, "colours": colours}
    return made.rename(values.name)


def colour(values: NDArray[Any], colours: str = "inferno") -> NDArray[np.float32]:
    """Colours of values in [0, 1]: float32 RGB, 0 to 255, in a new last axis. NaN stays NaN."""
    table = np.asarray(COLOURS[colours], dtype=np.float64)
    steps = np.linspace(0, 1, len(table))
    return np.stack([np.interp(values, steps, table[:, channel]) for channel in range(3)], -1).astype(np.float32)

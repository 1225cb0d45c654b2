"""An answer as a file: picture, moving picture over the calls, or labelled data."""

import io
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from attlas.analysis import Trace
from attlas.analysis.output.pictures import save_map
from attlas.dashboards.colours import blend, enlarge, relative
from attlas.dashboards.page import png_bytes

__all__ = ["gif", "netcdf", "overlaid", "png"]

SIDE = 512
"""Longer side of an exported picture, at least; small pictures are enlarged by whole pixels."""


def overlaid(
    image: xr.DataArray,
    attention: xr.DataArray,
    *,
    colours: str = "inferno",
    opacity: float = 0.85,
    threshold: float = 0.0,
    limits: tuple[float, float] | None = None,
    side: int = SIDE,
) -> NDArray[np.uint8]:
    """Picture with a map over it as pixels, uint8 (rows, columns, RGB); the look is that of `plots.overlay`.

    The picture is enlarged by whole pixels until its longer side is at least `side`.

    Examples
    --------
    >>> image = xr.DataArray(np.zeros((8, 8, 3), np.uint8), dims=("y", "x", "rgb"))
    >>> overlaid(image, xr.DataArray(np.eye(4), dims=("key_y", "key_x"))).shape
    (512, 512, 3)
    """
    pixels = np.asarray(image.values, np.uint8)
    factor = max(1, -(-side // max(pixels.shape[:2])))
    large = enlarge(pixels, (pixels.shape[0] * factor, pixels.shape[1] * factor))
    fraction = relative(np.asarray(attention.values), threshold=threshold, limits=limits)
    return blend(large, fraction, colours=colours, opacity=opacity)


def png(image: xr.DataArray, attention: xr.DataArray, **style: object) -> bytes:
    """Picture with a map over it as PNG; `style` as in `overlaid`."""
    return png_bytes(overlaid(image, attention, **style))  # type: ignore[arg-type]


def gif(image: xr.DataArray, maps: xr.DataArray, dim: str = "t", *, milliseconds: int = 300, **style: object) -> bytes:
    """Make a moving picture of the maps along `dim`, a GIF that repeats; each frame has its own range."""
    frames = [
        Image.fromarray(overlaid(image, maps.isel({dim: place}), **style))  # type: ignore[arg-type]
        for place in range(maps.sizes[dim])
    ]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    return buffer.getvalue()


def netcdf(trace: Trace, attention: xr.DataArray) -> bytes:
    """Map of a run of `trace`, with its coordinates and attributes, as a NetCDF file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "map.nc"
        save_map(trace, attention, path)
        return path.read_bytes()

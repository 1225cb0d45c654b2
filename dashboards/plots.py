"""Labelled array -> HoloViews element: pure functions, usable in a notebook without the dashboard.

All elements use pixel coordinates of the picture that they belong to: x to the right from 0 to its width, y
**down** from 0 to its height, so that a map of any resolution lies on its picture and a click is a place in it.
"""

from collections.abc import Sequence
from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.dashboards.colours import blend, colour_table, enlarge, relative, transparency
from attlas.dashboards.frame import framed, load
from attlas.dashboards.patches import check_patch, patch_at, patch_box
from attlas.dashboards.tiles import Tiles
from attlas.schemas.errors import InvalidValueError

__all__ = [
    "brightest",
    "check_patch",
    "framed",
    "heat",
    "outline",
    "overlay",
    "patch_at",
    "patch_box",
    "picture",
    "strip",
    "tile_layout",
]

SIZE = 420
"""Longer side of a picture on the page, in screen pixels."""


def _plane(array: xr.DataArray, what: str) -> NDArray[Any]:
    if array.ndim != 2:
        raise InvalidValueError(
            f"{what} has dims {', '.join(map(str, array.dims)) or 'none'}; rows and columns are needed, "
            "select or average the others first"
        )
    return np.asarray(array.values, np.float32)


def picture(image: xr.DataArray, *, size: int = SIZE) -> hv.RGB:
    """Picture as an RGB element, its longer side `size` screen pixels.

    Parameters
    ----------
    image
        uint8 (rows, columns, RGB), under any names of dims.
    size
        Longer side on the screen.

    Returns
    -------
    `hv.RGB` with kdims x, y in pixels of the picture, y down.

    Raises
    ------
    InvalidValueError
        If `image` has not three dims with three colours last.

    Examples
    --------
    >>> element = picture(xr.DataArray(np.zeros((4, 6, 3), np.uint8), dims=("y", "x", "rgb")))
    >>> [str(dim) for dim in element.kdims], element.range("x"), element.range("y")
    (['x', 'y'], (0, 6), (0, 4))
    """
    load()
    if image.ndim != 3 or image.shape[-1] != 3:
        raise InvalidValueError(f"picture has shape {image.shape}; (rows, columns, 3) is needed")
    return framed(_rgb(np.asarray(image.values, np.uint8)), (image.shape[0], image.shape[1]), size)


def _rgb(pixels: NDArray[np.uint8]) -> hv.RGB:
    # HoloViews puts row 0 at the highest y; y runs down here, so the rows are turned once.
    return hv.RGB(pixels[::-1], bounds=(0, 0, pixels.shape[1], pixels.shape[0]), kdims=["x", "y"])


def heat(
    attention: xr.DataArray,
    *,
    extent: tuple[int, int] | None = None,
    colours: str = "inferno",
    opacity: float = 0.85,
    threshold: float = 0.0,
    limits: tuple[float, float] | None = None,
) -> hv.Image:
    """Map as a translucent image; colour and opacity grow with the value.

    Parameters
    ----------
    attention
        Map with two dims (rows, columns), any resolution. NaN is transparent.
    extent
        Rows and columns of the picture that it lies on; its own shape by default.
    colours, opacity
        One of `COLOUR_MAPS`, and the opacity of the brightest value.
    threshold
        Fraction of the range below which a value is not shown.
    limits
        Values that get the ends of the colour map; the map's own range by default.

    Returns
    -------
    `hv.Image` with kdims x, y as in `picture` and vdims ``relative`` (0 to 1, NaN where not shown) and ``value``.

    Examples
    --------
    >>> attention = xr.DataArray([[0.1, 0.2], [0.3, 0.5]], dims=("key_y", "key_x"))
    >>> element = heat(attention, extent=(64, 64), threshold=0.5)
    >>> element.range("x"), [str(dim) for dim in element.vdims]
    ((0, 64), ['relative', 'value'])
    >>> relative_values = element.dimension_values("relative")
    >>> float(np.nanmax(relative_values)), int(np.isnan(relative_values).sum())
    (1.0, 2)
    """
    load()
    values = _plane(attention, "map")
    return _heat(values, relative(values, threshold=threshold, limits=limits), extent or values.shape, colours, opacity)


def _heat(
    values: NDArray[Any], fraction: NDArray[Any], extent: tuple[float, float], colours: str, opacity: float
) -> hv.Image:
    height, width = extent
    alphas = np.rint(255 * transparency(np.linspace(0, 1, 256), opacity)).astype(int)
    palette = [f"#{r:02x}{g:02x}{b:02x}{a:02x}" for (r, g, b), a in zip(colour_table(colours), alphas, strict=True)]
    layers = np.stack([fraction[::-1], values[::-1]], -1)
    seen = values[np.isfinite(values)]
    # Ranges are said, not searched for: a map may be NaN everywhere, where nothing reaches the threshold.
    value = hv.Dimension("value", range=(float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0))
    vdims = [hv.Dimension("relative", range=(0, 1)), value]
    element = hv.Image(layers, bounds=(0, 0, width, height), kdims=["x", "y"], vdims=vdims)
    return element.opts(cmap=palette, clim=(0, 1), clipping_colors={"NaN": "#00000000"})


def outline(patch: tuple[int, int] | None, grid: tuple[int, int], extent: tuple[int, int]) -> hv.Overlay:
    """Frame around one patch of a grid over a picture of `extent` (rows, columns); empty for None.

    Raises
    ------
    InvalidValueError
        If the patch is not in the grid.

    Examples
    --------
    >>> outline((0, 1), (2, 2), (64, 64)).Rectangles.I.data.values.tolist()
    [[32.0, 0.0, 64.0, 32.0]]
    """
    load()
    if patch is None:
        return _boxes([])
    check_patch(patch, grid)
    return _boxes([patch_box(patch, grid, extent)])


def _boxes(boxes: Sequence[tuple[float, float, float, float]]) -> hv.Overlay:
    """Frames that are seen on dark and on bright pictures."""
    dark = hv.Rectangles(boxes).opts(line_color="#10131a", line_width=4, fill_alpha=0)
    return dark * hv.Rectangles(boxes).opts(line_color="#ffffff", line_width=2, fill_alpha=0)


def overlay(
    image: xr.DataArray,
    attention: xr.DataArray,
    *,
    patch: tuple[int, int] | None = None,
    grid: tuple[int, int] | None = None,
    size: int = SIZE,
    **style: Any,
) -> hv.Overlay:
    """Picture with a map over it, and one patch framed on request.

    `style` goes to `heat` (colours, opacity, threshold, limits); `grid` is the map's own by default.

    Examples
    --------
    >>> image = xr.DataArray(np.zeros((8, 8, 3), np.uint8), dims=("y", "x", "rgb"))
    >>> attention = xr.DataArray(np.eye(4), dims=("key_y", "key_x"))
    >>> [type(layer).__name__ for layer in overlay(image, attention, patch=(0, 0))]
    ['RGB', 'Image', 'Rectangles', 'Rectangles']
    """
    extent = (image.shape[0], image.shape[1])
    layers = picture(image, size=size) * heat(attention, extent=extent, **style)
    if patch is not None:
        layers = layers * outline(patch, grid or (attention.shape[0], attention.shape[1]), extent)
    return framed(layers, extent, size)


def strip(
    maps: xr.DataArray,
    dim: str,
    *,
    labels: Sequence[str] | None = None,
    image: xr.DataArray | None = None,
    columns: int = 10,
    tile: int = 88,
    colours: str = "inferno",
    opacity: float = 0.85,
    threshold: float = 0.0,
    shared: bool = False,
) -> hv.Overlay:
    """Small multiples of a map along one dim: calls, heads or layers side by side, each over the picture.

    Parameters
    ----------
    maps
        Dims `dim`, rows, columns; `dim` may stand anywhere.
    dim
        What differs from tile to tile.
    labels
        Text above each tile; the coordinate of `dim` by default.
    image
        Picture under each tile, uint8 (rows, columns, RGB); black without it.
    columns, tile
        Tiles in a row, and the longer side of one in screen pixels.
    colours, opacity, threshold
        As in `heat`.
    shared
        One range for all tiles, so that brightness compares between them; else each tile has its own.

    Returns
    -------
    One plot, whatever the number of tiles. x and y are screen pixels of the strip, y down.

    Examples
    --------
    >>> maps = xr.DataArray(np.random.default_rng(0).random((3, 4, 4)), dims=("head", "y", "x"))
    >>> [type(layer).__name__ for layer in strip(maps, "head")]
    ['RGB', 'Labels']
    """
    load()
    if dim not in maps.dims or maps.ndim != 3:
        raise InvalidValueError(f"maps have dims {', '.join(map(str, maps.dims))}; {dim}, rows and columns are needed")
    ordered = maps.transpose(dim, ...)
    stack = np.asarray(ordered.values, np.float32)
    names = [str(value) for value in ordered[dim].values] if labels is None else list(labels)
    seen = stack[np.isfinite(stack)]
    limits = (float(seen.min()), float(seen.max())) if shared and seen.size else None
    extent = stack.shape[1:] if image is None else image.shape[:2]
    tiles = tile_layout(len(stack), (extent[0], extent[1]), columns=columns, tile=tile)
    below = np.zeros((tiles.height, tiles.width, 3), np.uint8)
    if image is not None:
        below = enlarge(np.asarray(image.values, np.uint8), below.shape[:2])
    pixels = np.zeros((*tiles.extent, 4), np.uint8)
    for index, plane in enumerate(stack):
        y, x = tiles.origin(index)
        fraction = relative(plane, threshold=threshold, limits=limits)
        mixed = blend(below, fraction, colours=colours, opacity=opacity)
        pixels[y : y + tiles.height, x : x + tiles.width] = np.dstack([mixed, np.full(mixed.shape[:2], 255, np.uint8)])
    text = hv.Labels([(*tiles.label(index), name) for index, name in enumerate(names)]).opts(
        text_font_size="8.5pt", text_color="#4b5563", text_align="left", text_baseline="middle"
    )
    return framed(_rgb(pixels) * text, tiles.extent, max(tiles.extent))


def tile_layout(count: int, extent: tuple[int, int], *, columns: int = 10, tile: int = 88) -> Tiles:
    """Geometry of a strip of pictures of `extent`, the longer side of each `tile` screen pixels."""
    scale = tile / max(extent)
    return Tiles(count, columns, max(1, round(extent[0] * scale)), max(1, round(extent[1] * scale)))


def brightest(attention: xr.DataArray) -> tuple[int, int, float]:
    """Row, column and value of the largest element of a map; NaN is passed over.

    Examples
    --------
    >>> brightest(xr.DataArray([[0.1, 0.2], [0.5, np.nan]]))
    (1, 0, 0.5)
    """
    values = _plane(attention, "map")
    if not np.isfinite(values).any():
        raise InvalidValueError("the map has no finite value, so that no patch is the brightest")
    row, column = np.unravel_index(int(np.nanargmax(values)), values.shape)
    return int(row), int(column), float(values[row, column])

"""Figures of a report as pixels: maps over pictures, frames around patches, contours of masks. By numpy."""

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.dashboards.colours import enlarge
from attlas.dashboards.export import overlaid
from attlas.dashboards.patches import patch_box

__all__ = ["contoured", "framed_patch", "large", "map_figure", "spread_patches"]

Pixels = NDArray[np.uint8]
Grid = tuple[int, int]

WHITE = (255, 255, 255)
GREEN = (34, 255, 120)
SIDE = 256


def large(image: xr.DataArray) -> Pixels:
    """Picture enlarged by whole pixels to at least 256 on its longer side, uint8 (rows, columns, RGB)."""
    pixels = np.asarray(image.values, np.uint8)
    factor = max(1, -(-SIDE // max(pixels.shape[:2])))
    return enlarge(pixels, (pixels.shape[0] * factor, pixels.shape[1] * factor))


def map_figure(image: xr.DataArray, attention: xr.DataArray) -> Pixels:
    """Map over its picture, uint8 (rows, columns, RGB)."""
    return overlaid(image, attention, side=SIDE)


def framed_patch(pixels: Pixels, patch: Grid, grid: Grid, colour: tuple[int, int, int] = WHITE) -> Pixels:
    """Copy of `pixels` with a frame of three pixels around one patch of a grid over it.

    Examples
    --------
    >>> framed_patch(np.zeros((8, 8, 3), np.uint8), (0, 0), (2, 2)).sum(-1)[0].tolist()
    [765, 765, 765, 765, 0, 0, 0, 0]
    """
    left, top, right, bottom = (round(edge) for edge in patch_box(patch, grid, pixels.shape[:2]))
    inside = np.zeros(pixels.shape[:2], bool)
    inside[top:bottom, left:right] = True
    inner = inside.copy()
    inner[top + 3 : bottom - 3, left + 3 : right - 3] = False
    return _painted(pixels, inside & inner, colour)


def contoured(pixels: Pixels, mask: NDArray[np.bool_], colour: tuple[int, int, int] = WHITE) -> Pixels:
    """Copy of `pixels` with the outline of a mask of any resolution, two pixels wide."""
    shape = (pixels.shape[0], pixels.shape[1])
    inside = enlarge(np.asarray(mask, bool), shape)
    core = inside.copy()
    for axis in (0, 1):
        for shift in (-2, -1, 1, 2):
            core &= np.roll(inside, shift, axis)
    return _painted(pixels, inside & ~core, colour)


def _painted(pixels: Pixels, where: NDArray[np.bool_], colour: tuple[int, int, int]) -> Pixels:
    made = pixels.copy()
    made[where] = colour
    return made


def spread_patches(known: NDArray[np.bool_], count: int) -> list[Grid]:
    """At most `count` patches (row, column) of those that are known, far from each other, from the top.

    The first is the one nearest the middle of all; each other is the one farthest from those before it.

    Examples
    --------
    >>> spread_patches(np.ones((3, 3), dtype=bool), 3)
    [(0, 0), (0, 2), (1, 1)]
    """
    places = np.argwhere(known)
    if not len(places):
        return []
    chosen = [int(np.square(places - places.mean(0)).sum(1).argmin())]
    while len(chosen) < min(count, len(places)):
        distance = np.square(places[:, None] - places[chosen]).sum(-1).min(1)
        chosen.append(int(distance.argmax()))
    return sorted((int(row), int(column)) for row, column in places[chosen])

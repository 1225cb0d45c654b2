"""Colours of attention: from values to opaque and transparent pixels, by numpy alone.

The screen, the exported pictures and the report use one rule, so that a map looks the same in all three:
the colour and the opacity of a pixel both grow with its value, relative to the map's own range.
"""

from typing import Any

import bokeh.palettes
import numpy as np
from numpy.typing import NDArray

from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["COLOUR_MAPS", "blend", "colour_table", "enlarge", "relative", "transparency"]

COLOUR_MAPS = ("inferno", "magma", "viridis", "cividis", "turbo")
"""Accepted colour maps; each runs from dark to bright."""

_STEEPNESS = 0.6


def colour_table(name: str) -> NDArray[np.uint8]:
    """RGB of 256 relative values from 0 to 1, uint8 (256, 3).

    Raises
    ------
    UnknownNameError
        If `name` is not in `COLOUR_MAPS`.

    Examples
    --------
    >>> colour_table("inferno")[[0, 255]].tolist()
    [[0, 0, 3], [252, 254, 164]]
    """
    if name not in COLOUR_MAPS:
        raise unknown_name("colour map", name, COLOUR_MAPS)
    hexadecimal = getattr(bokeh.palettes, name.capitalize() + "256")
    return np.array([[int(h[i : i + 2], 16) for i in (1, 3, 5)] for h in hexadecimal], np.uint8)


def transparency(values: NDArray[Any], opacity: float) -> NDArray[np.float32]:
    """Opacity of relative `values` in 0..1: 0 at 0, rising quickly, `opacity` at 1; NaN is invisible.

    Examples
    --------
    >>> transparency(np.array([0.0, 1.0, np.nan]), 0.8).round(2).tolist()
    [0.0, 0.800000011920929, 0.0]
    """
    if not 0 <= opacity <= 1:
        raise InvalidValueError(f"opacity is {opacity!r}; a number from 0 to 1 is needed")
    return np.asarray(opacity * np.nan_to_num(values, nan=0.0) ** _STEEPNESS, np.float32)


def relative(
    values: NDArray[Any], *, threshold: float = 0.0, limits: tuple[float, float] | None = None
) -> NDArray[Any]:
    """`values` as a fraction of their range (or of `limits`), float32; NaN below `threshold`.

    A constant map is 0 everywhere: it points nowhere.

    Examples
    --------
    >>> relative(np.array([2.0, 3.0, 4.0]), threshold=0.4).tolist()
    [nan, 0.5, 1.0]
    """
    if not 0 <= threshold <= 1:
        raise InvalidValueError(f"threshold is {threshold!r}; a number from 0 to 1 is needed")
    values = np.asarray(values, np.float32)
    seen = values[np.isfinite(values)]
    low, high = limits or ((float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0))
    fraction = np.clip((values - low) / (high - low), 0, 1) if high > low else np.where(np.isfinite(values), 0, np.nan)
    return np.asarray(np.where(fraction >= threshold, fraction, np.nan), np.float32)


def enlarge(plane: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """`plane` (rows, columns, ...) by nearest neighbour to `shape`, whatever the ratio.

    Examples
    --------
    >>> enlarge(np.array([[1, 2]]), (2, 4)).tolist()
    [[1, 1, 2, 2], [1, 1, 2, 2]]
    """
    rows = ((np.arange(shape[0]) + 0.5) * plane.shape[0] / shape[0]).astype(int)
    columns = ((np.arange(shape[1]) + 0.5) * plane.shape[1] / shape[1]).astype(int)
    return np.asarray(plane[rows][:, columns])


def blend(
    image: NDArray[np.uint8], fraction: NDArray[Any], *, colours: str = "inferno", opacity: float = 0.85
) -> NDArray[np.uint8]:
    """Picture with a map over it, uint8 of the picture's shape.

    Parameters
    ----------
    image
        uint8 (rows, columns, RGB).
    fraction
        Relative values from `relative`, at any resolution; NaN leaves the picture as it is.
    colours, opacity
        Colour map, and the opacity of the brightest value.
    """
    plane = enlarge(fraction, (image.shape[0], image.shape[1]))
    index = np.clip(np.nan_to_num(plane, nan=0.0) * 255, 0, 255).astype(np.uint8)
    alpha = transparency(plane, opacity)[..., None]
    mixed = image[..., :3] * (1 - alpha) + colour_table(colours)[index] * alpha
    return np.asarray(np.rint(mixed), np.uint8)

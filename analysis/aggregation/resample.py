"""Resampling of maps on their two spatial dims, by named linear rules written as two small matrices.

Every rule is ``rows @ map @ columns^T``. So resampling commutes with sums and with scaling, and sums over
tokens stay what they were; only ``clamp`` breaks this.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["CONSERVE", "RULES", "check_picture", "matrix", "parse_grid", "resample", "resample_values", "spatial_dims"]

RULES = ("nearest", "bilinear", "bicubic", "area")
CONSERVE = ("intensity", "mass")
SPATIAL = (
    ("query_y", "query_x"),
    ("key_y", "key_x"),
    ("image_y", "image_x"),
    ("reference_y", "reference_x"),
    ("y", "x"),
)
CUBIC = -0.75
"""Free parameter of the cubic kernel; torch and OpenCV use this value, and DAAM's released code with them."""


def resample(
    values: xr.DataArray,
    grid: str | tuple[int, int],
    rule: str = "bicubic",
    *,
    conserve: str = "intensity",
    clamp: bool = False,
) -> xr.DataArray:
    """`values` on another grid of their two spatial dims.

    Parameters
    ----------
    values
        Map with a pair of spatial dims (``query_y, query_x``, ``key_y, key_x``, ``image_y, image_x``,
        ``reference_y, reference_x`` or ``y, x``), one chunk along them. Any unit.
    grid
        Rows and columns to make, such as ``(64, 48)`` or ``"64x48"``.
    rule
        ``nearest``, ``bilinear``, ``bicubic`` (pixel centres at half integers, edges repeated, no
        antialiasing: torch's ``interpolate`` with ``align_corners=False``) or ``area`` (mean over the
        overlapped part of each pixel).
    conserve
        ``intensity`` keeps values: a constant stays. ``mass`` divides by the change of area, so that upsampling
        by c weighs 1/c^2 (DAAM eq. 6).
    clamp
        Set negative values to 0 afterwards, as DAAM's released code does: bicubic overshoots.

    Returns
    -------
    Same dims, float32. Lazy if `values` is lazy. NaN spreads over the rows and columns that it touches.

    Raises
    ------
    UnknownNameError
        For another `rule` or `conserve`.
    InvalidValueError
        If there is no pair of spatial dims, or `grid` is no grid.

    Examples
    --------
    >>> m = xr.DataArray([[0.0, 4.0]], dims=("y", "x"))
    >>> resample(m, "1x4", "nearest").values.tolist()
    [[0.0, 0.0, 4.0, 4.0]]
    >>> resample(m, "1x4", "nearest", conserve="mass").values.tolist()
    [[0.0, 0.0, 2.0, 2.0]]
    """
    check_rule(rule, conserve)
    rows, columns = parse_grid(grid)
    y, x = spatial_dims(values)
    if (values.sizes[y], values.sizes[x]) == (rows, columns) and rule != "area":
        made = values.astype(np.float32)
        made = made.clip(min=0) if clamp else made
    else:
        made = xr.apply_ufunc(
            resample_values,
            values,
            kwargs={"shape": (rows, columns), "rule": rule, "conserve": conserve, "clamp": clamp},
            input_core_dims=[[y, x]],
            output_core_dims=[[y, x]],
            exclude_dims={y, x},
            dask="parallelized",
            output_dtypes=[np.float32],
            dask_gufunc_kwargs={"output_sizes": {y: rows, x: columns}},
            keep_attrs=True,
        )
    made = made.transpose(*values.dims).assign_coords({y: np.arange(rows), x: np.arange(columns)})
    made.attrs = {**values.attrs, "resample": rule, "conserve": conserve, "clamp": clamp}
    return made.rename(values.name)


def resample_values(
    values: NDArray[Any], shape: tuple[int, int], rule: str, conserve: str = "intensity", clamp: bool = False
) -> NDArray[np.float32]:
    """`values` ``(..., row, column)`` on the grid `shape`, float32; the numpy kernel of `resample`."""
    height, width = values.shape[-2:]
    rows, columns = matrix(rule, height, shape[0]), matrix(rule, width, shape[1])
    made = rows @ values.astype(np.float32, copy=False) @ columns.T
    if conserve == "mass":
        made *= np.float32(height * width / (shape[0] * shape[1]))
    if clamp:
        np.maximum(made, 0, out=made)
    return np.asarray(made, dtype=np.float32)


@lru_cache(maxsize=256)
def matrix(rule: str, size: int, target: int) -> NDArray[np.float32]:
    """Weights ``(target, size)`` of one axis; every row sums to 1. Shared: do not write into it."""
    made = np.zeros((target, size))
    scale = size / target
    centres = (np.arange(target) + 0.5) * scale - 0.5
    if rule == "area":
        edges = np.arange(target)[:, None] * scale
        pixels = np.arange(size)[None]
        overlap = np.minimum(edges + scale, pixels + 1) - np.maximum(edges, pixels)
        made = np.clip(overlap, 0, None) / scale
    else:
        first = np.floor(centres).astype(int)
        for offset in range(-1, 3):
            weight = _kernel(rule, centres - (first + offset))
            if rule == "nearest":
                weight = (offset == np.floor(centres + 0.5) - first).astype(float)
            np.add.at(made, (np.arange(target), np.clip(first + offset, 0, size - 1)), weight)
    rounded: NDArray[np.float32] = made.astype(np.float32)
    rounded.setflags(write=False)
    return rounded


def _kernel(rule: str, distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weight of a pixel at `distance` (Keys 1981, eq. 4, for bicubic)."""
    d = np.abs(distance)
    if rule == "bilinear":
        return np.asarray(np.maximum(1 - d, 0))
    near = (CUBIC + 2) * d**3 - (CUBIC + 3) * d**2 + 1
    far = CUBIC * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def parse_grid(grid: str | tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a grid given as ``"64x48"`` or ``(64, 48)``.

    Examples
    --------
    >>> parse_grid("64x48")
    (64, 48)
    """
    parts = grid.split("x") if isinstance(grid, str) else list(grid)
    try:
        rows, columns = (int(part) for part in parts)
    except (ValueError, TypeError) as err:
        raise InvalidValueError(f"grid {grid!r} is no grid; 'rows x columns' such as '64x48' is accepted") from err
    if rows < 1 or columns < 1:
        raise InvalidValueError(f"grid {grid!r} has no cell; at least 1x1 is needed")
    return rows, columns


def spatial_dims(values: xr.DataArray) -> tuple[str, str]:
    """Names of the row and the column dim of a map; `InvalidValueError` where it has none."""
    for pair in SPATIAL:
        if set(pair) <= set(values.dims):
            return pair
    shown = ", ".join(str(dim) for dim in values.dims) or "none"
    raise InvalidValueError(f"a map with two spatial dims such as (query_y, query_x) is needed; got dims {shown}")


def check_picture(values: xr.DataArray, what: str) -> None:
    """Refuse maps of a video where one picture is needed."""
    for dim in ("query_frame", "key_frame"):
        if dim in values.dims:
            raise InvalidValueError(
                f"{what} needs maps of one picture; these have {values.sizes[dim]} frames: choose one by "
                f".isel({dim}={values.sizes[dim] // 2})"
            )


def check_rule(rule: str, conserve: str) -> None:
    """Refuse an unknown resampling rule or conservation."""
    if rule not in RULES:
        raise unknown_name("resample rule", rule, RULES)
    if conserve not in CONSERVE:
        raise unknown_name("conserve", conserve, CONSERVE)

"""What metrics share: masks on the grid of a map, means inside them, and the form of a score."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.resample import spatial_dims
from attlas.schemas.errors import InvalidValueError

__all__ = ["Mask", "inside_of", "mean_inside", "plain_dims", "score"]

Mask = xr.DataArray | NDArray[Any]
"""Rows and columns, with a run dim or without: boolean; or numbers, above 0 in, -1 or NaN not given."""


def inside_of(values: xr.DataArray, mask: Mask) -> tuple[xr.DataArray, tuple[str, str]]:
    """Give the mask as 1 and 0 (NaN: not given) on the spatial dims of `values`, and those dims.

    Raises
    ------
    InvalidValueError
        If the mask is of another size than `values`.
    """
    dims = spatial_dims(values)
    own = mask if isinstance(mask, xr.DataArray) else xr.DataArray(mask, dims=plain_dims(np.ndim(mask), dims))
    theirs = spatial_dims(own)
    size, wanted = tuple(own.sizes[dim] for dim in theirs), tuple(values.sizes[dim] for dim in dims)
    if size != wanted:
        raise InvalidValueError(
            f"the mask is {size[0]}x{size[1]} and the map {wanted[0]}x{wanted[1]} (rows x columns); "
            "resample the map first"
        )
    own = own.drop_vars([name for name in own.coords if name != "run"]).rename(dict(zip(theirs, dims, strict=True)))
    own = own.astype(np.float32)
    inside = (own > 0).astype(np.float32).where(own >= 0)
    return inside.assign_coords({dim: values[dim] for dim in dims if dim in values.coords}), dims


def mean_inside(values: xr.DataArray, weights: xr.DataArray, dims: tuple[str, str]) -> xr.DataArray:
    """Mean of `values` where `weights` is 1; NaN where there is no such cell."""
    total = weights.sum(dims, skipna=False)
    return (values.astype(np.float32) * weights).sum(dims, skipna=False) / total.where(total > 0)


def score(
    values: xr.DataArray, name: str, *, of: xr.DataArray | None = None, units: str = "1", **attrs: Any
) -> xr.DataArray:
    """`values` with the attributes of a score, after those of the map `of` which they are: how it was made, inert."""
    values.attrs = {**({} if of is None else of.attrs), "units": units, "long_name": name, **attrs}
    return values


def plain_dims(ndim: int, dims: tuple[str, str]) -> tuple[str, ...]:
    """Dims of a mask that is a plain array: rows and columns, after runs where it has three axes."""
    if ndim not in (2, 3):
        raise InvalidValueError(f"a mask (row, column) or (run, row, column) is needed; got {ndim} dims")
    return dims if ndim == 2 else ("run", *dims)

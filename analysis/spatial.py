"""From tokens to a map: laying a leaf's term out in rows and columns, on the map's grid."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.resample import parse_grid, resample_values
from attlas.analysis.selection import Part
from attlas.schemas import Leaf
from attlas.schemas.errors import InvalidValueError

__all__ = ["AXES", "Plan", "target_grid"]

AXES = {"key": ("key_y", "key_x"), "query": ("query_y", "query_x")}


class Plan:
    """How one leaf's term becomes its part of the map."""

    def __init__(
        self,
        part: Part,
        keep: tuple[str, ...],
        onto: str,
        keys: Any,
        target: tuple[int, int] | None,
        rule: str,
        conserve: str,
        clamp: bool,
    ) -> None:
        self.part, self.keep, self.onto, self.target = part, keep, onto, target
        self.options = {"rule": rule, "conserve": conserve, "clamp": clamp}
        self.cells = None if target is None else _cells(part.leaf, onto, keys)

    def apply(self, term: xr.DataArray) -> xr.DataArray:
        """Sum over the axes that are not kept, and resample; with clamp, before layers and heads meet."""
        gone = [dim for dim in ("t", "layer", "head") if dim in term.dims and dim not in self.keep]
        if self.options["clamp"]:
            first = [dim for dim in gone if dim == "t"]
            rest = [dim for dim in gone if dim != "t"]
            clamped = self._spatial(term.sum(first, skipna=False))
            return self._weighed(clamped).sum(rest, skipna=False)
        return self._spatial(self._weighed(term).sum(gone, skipna=False))

    def _weighed(self, term: xr.DataArray) -> xr.DataArray:
        return term if (self.part.values == 1).all() else term * self.part.weights

    def total(self, calls: int, term: xr.DataArray) -> xr.DataArray:
        """Count the (t, layer, head) that were summed, each by its head's weight."""
        gone = [dim for dim in ("layer", "head") if dim not in self.keep]
        made = self.part.weights.sum(gone) * np.float32(1 if "t" in self.keep else calls)
        return made.expand_dims(branch=term["branch"].values)

    def _spatial(self, term: xr.DataArray) -> xr.DataArray:
        if self.target is None or self.cells is None:
            return term
        names = AXES[self.onto]
        laid: xr.DataArray = xr.apply_ufunc(
            _to_grid,
            term.chunk({self.onto: -1}),
            kwargs={"cells": self.cells, "target": self.target, **self.options},
            input_core_dims=[[self.onto]],
            output_core_dims=[list(names)],
            dask="parallelized",
            output_dtypes=[np.float32],
            dask_gufunc_kwargs={"output_sizes": dict(zip(names, self.target, strict=True))},
        )
        return laid


def _to_grid(
    values: NDArray[Any], *, cells: NDArray[np.int64], target: tuple[int, int], rule: str, conserve: str, clamp: bool
) -> NDArray[np.float32]:
    """Tokens ``(..., n)`` laid out in rows and columns by `cells`, then resampled."""
    laid = np.ascontiguousarray(values[..., cells.ravel()]).reshape(*values.shape[:-1], *cells.shape)
    if cells.shape == target:
        return np.maximum(laid, 0) if clamp else laid
    return resample_values(laid, target, rule, conserve, clamp)


def _cells(leaf: Leaf, onto: str, keys: Any) -> NDArray[np.int64]:
    """Token of each cell of the leaf's own grid."""
    if onto == "query":
        return np.arange(leaf.queries).reshape(leaf.query_grid)
    rows, columns = leaf.key_grid or (0, 0)
    cells = np.full((rows, columns), -1)
    for key, (y, x, segment) in enumerate(zip(leaf.key_y, leaf.key_x, leaf.key_segments, strict=True)):
        if y < 0 or (isinstance(keys, str) and segment != keys):
            continue
        if cells[y, x] >= 0:
            raise InvalidValueError(
                f"two keys of {leaf.kind}/{leaf.grid} lie at row {y}, column {x}, in segments "
                f"{leaf.key_segments[cells[y, x]]!r} and {segment!r}; choose one by keys="
            )
        cells[y, x] = key
    if (cells < 0).any():
        raise InvalidValueError(f"the patch keys of {leaf.kind}/{leaf.grid} do not fill their {rows}x{columns} grid")
    return cells


def target_grid(parts: list[Part], onto: str, grid: str | tuple[int, int] | None) -> tuple[int, int] | None:
    """Grid of the map; None where it lives on tokens."""
    grids = [part.leaf.query_grid if onto == "query" else part.leaf.key_grid for part in parts]
    if None in grids:
        if grid is not None:
            raise InvalidValueError(f"keys of kind {parts[0].leaf.kind!r} are tokens, which have no grid; drop grid=")
        counts = sorted({part.leaf.keys for part in parts})
        if len(counts) > 1:
            raise InvalidValueError(f"layers differ in their number of keys, {counts}; choose layers=")
        return None
    if grid is not None:
        return parse_grid(grid)
    return max((size for size in grids if size is not None), key=lambda size: size[0] * size[1])

"""From tokens to a map: laying a leaf's term out in rows and columns, on the map's grid."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.key_parts import KeyPart
from attlas.analysis.aggregation.resample import parse_grid, resample_values
from attlas.analysis.aggregation.selection import Part
from attlas.analysis.blockwise.folding import folded
from attlas.schemas.errors import InvalidValueError

__all__ = ["ORDERS", "Plan", "axes", "target_grid", "to_grid"]

ORDERS = ("last", "heads", "tokens")
"""Where resampling (and ``clamp``) stands among the sums."""


def axes(onto: str, grid: tuple[int, ...]) -> tuple[str, ...]:
    """Dims of a map on a grid: row and column, after the frame where the grid has frames."""
    names = (f"{onto}_frame", f"{onto}_y", f"{onto}_x")
    return names[-len(grid) :]


class Plan:
    """How one leaf's term becomes its part of the map."""

    def __init__(
        self,
        part: Part,
        keep: tuple[str, ...],
        onto: str,
        key_part: KeyPart,
        target: tuple[int, ...] | None,
        rule: str,
        conserve: str,
        clamp: bool,
        order: str,
    ) -> None:
        self.part, self.keep, self.onto, self.target, self.order = part, keep, onto, target, order
        self.options: dict[str, Any] = {"rule": rule, "conserve": conserve, "clamp": clamp}
        self.places = key_part.places(part.leaf) if onto == "key" and key_part.segment is not None else None
        self.cells = None if target is None else _cells(part, onto, key_part)

    def apply(self, term: xr.Variable) -> xr.Variable:
        """Sum over the axes that are not kept, and resample in the order that is asked."""
        gone = [dim for dim in ("t", "layer", "head") if dim in term.dims and dim not in self.keep]
        weights = None if (self.part.values == 1).all() else self.part.values
        if self.order == "last":
            return self._laid(term, gone, weights)
        rest = [dim for dim in gone if dim != "t"]
        laid = term if self.order == "tokens" else self._laid(term, [dim for dim in gone if dim == "t"], None)
        return folded(laid, rest, weights, None, (), ())

    def _laid(self, term: xr.Variable, gone: Sequence[str], weights: NDArray[np.float32] | None) -> xr.Variable:
        """Weighed sum over `gone`, laid out on the map's grid."""
        if self.target is None or self.cells is None or term.data.numblocks[-1] > 1:
            return self._spatial(folded(term, gone, weights, None, (), ()))
        layout = partial(to_grid, cells=self.cells, target=self.target, **self.options)
        return folded(term, gone, weights, layout, axes(self.onto, self.target), self.target)

    def total(self, calls: int) -> xr.Variable:
        """Count the (t, layer, head) that were summed, each by its head's weight."""
        gone = [dim for dim in ("layer", "head") if dim not in self.keep]
        weights = xr.Variable(("layer", "head"), self.part.values)
        return weights.sum(gone) * np.float32(1 if "t" in self.keep else calls)

    def _spatial(self, term: xr.Variable) -> xr.Variable:
        if self.target is None or self.cells is None:
            return term if self.places is None else term.isel(key=self.places)
        names = axes(self.onto, self.target)
        laid: xr.Variable = xr.apply_ufunc(
            to_grid,
            term.chunk({self.onto: -1}),
            kwargs={"cells": self.cells, "target": self.target, **self.options},
            input_core_dims=[[self.onto]],
            output_core_dims=[list(names)],
            dask="parallelized",
            output_dtypes=[np.float32],
            dask_gufunc_kwargs={"output_sizes": dict(zip(names, self.target, strict=True))},
        )
        return laid


def to_grid(
    values: NDArray[Any], *, cells: NDArray[np.int64], target: tuple[int, ...], rule: str, conserve: str, clamp: bool
) -> NDArray[np.float32]:
    """Tokens ``(..., n)`` laid out in frames, rows and columns by `cells`, then each frame resampled."""
    laid = np.ascontiguousarray(values[..., cells.ravel()]).reshape(*values.shape[:-1], *cells.shape)
    if cells.shape == target:
        return np.maximum(laid, 0) if clamp else laid
    return resample_values(laid, (target[-2], target[-1]), rule, conserve, clamp)


def _cells(part: Part, onto: str, key_part: KeyPart) -> NDArray[np.int64]:
    """Token of each cell of the leaf's own grid."""
    if onto == "query":
        return np.arange(part.leaf.queries).reshape(part.leaf.query_grid)
    return key_part.cells(part.leaf)


def target_grid(
    parts: list[Part], onto: str, grid: str | tuple[int, int] | None, key_part: KeyPart
) -> tuple[int, ...] | None:
    """Rows and columns of the map, after its frames where it has any; None where it lives on tokens."""
    grids = [part.leaf.query_grid if onto == "query" else key_part.grid(part.leaf) for part in parts]
    known = [size for size in grids if size is not None]
    if len(known) < len(grids):
        if grid is not None:
            raise InvalidValueError(f"keys of kind {parts[0].leaf.kind!r} are tokens, which have no grid; drop grid=")
        counts = sorted({len(key_part.places(part.leaf)) for part in parts})
        if len(counts) > 1:
            raise InvalidValueError(f"layers differ in their number of keys, {counts}; choose layers=")
        return None
    frames = {size[:-2] for size in known}
    if len(frames) > 1:
        shown = ", ".join(part.leaf.grid for part in parts)
        raise InvalidValueError(f"layers differ in their frames, and no map lies on all of {shown}; choose layers=")
    finest = max(known, key=lambda size: size[-2] * size[-1])
    return finest if grid is None else (*finest[:-2], *parse_grid(grid))

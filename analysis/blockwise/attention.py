"""The lazy labelled attention of a leaf, from either encoding, and its means, in blocks."""

from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.aggregation.selection import check_direction, pick_kind, warn_inert
from attlas.analysis.aggregation.together import Mean, Pass, means_of
from attlas.analysis.blockwise.blocks import DIMS, Inputs, attention_block
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["DIMS", "attention", "recomputed_summaries", "run_coords"]

BLOCK_BYTES = 64 * 2**20
"""Bytes that one lazy block of an attention array aims at; a single matrix may be larger and is never split."""


def attention(trace: Trace, kind: str, direction: str = "g2r", grid: str | None = None) -> xr.DataArray:
    """Attention of one leaf as a lazy array, the same from either encoding.

    Parameters
    ----------
    trace
        From `open_trace`.
    kind
        ``text``, ``image``, ``self`` or ``joint``.
    direction
        ``g2r``: softmax over keys, each row sums to 1, or to less where the store holds a part of the keys.
        ``r2g``: softmax over queries of the same logits, each column sums to 1 (I2AM eq. 6), or to 0 where a key is
        masked for every query.
    grid
        Query grid of the leaf, such as ``"16x16"``, frames first in a video (or the end of its group path, where
        heads or keys are appended); needed where the kind has several.

    Returns
    -------
    ``(run, branch, t, layer, head, query, key)``, float32, in [0, 1], dask-backed, one chunk along query and
    key. Rows of g2r (columns of r2g) sum to 1 within 1e-6 even where the stored values were rounded: the softmax is
    taken of what is stored; where ``attrs["partial"]``, of all keys as it was recorded, and of those that are kept
    shown. Coordinates name tokens or key patches, query patches, clocks, seed and prompt. An incomplete run is NaN
    where it lacks data.

    Raises
    ------
    UnknownNameError
        For an unknown kind, direction or grid.
    InvalidValueError
        If the kind has several grids and none is chosen.
    NotRecordedError
        If the store holds summaries only.

    Warns
    -----
    InertAttentionWarning
        If the leaf has one key only.

    References
    ----------
    I2AM (Park et al. 2025), eq. 3 and 6.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> a = open_trace(simulate_store(runs=1)).attention("text")
    >>> a.sizes["query"], a.sizes["key"], a.dtype.name, float(a.sum("key").mean().compute().round(2))
    (16, 10, 'float32', 1.0)
    """
    check_direction(direction)
    kind = pick_kind(trace, kind)
    name = _one_leaf(trace, kind, grid)
    inert = warn_inert([trace.leaves[name]])
    inputs = Inputs(trace, name, (direction,), branches=trace.branches)
    shape = tuple(inputs.sizes[dim] for dim in DIMS)
    chunks = _split(shape, inputs.chunks)
    data = inputs.blockwise(attention_block, DIMS, shape, chunks, direction=direction, normalised=inputs.normalised)
    made = xr.DataArray(data, dims=DIMS, coords=_coords(trace, trace.dataset(name), DIMS), name="attention")
    made.attrs = {
        "units": "1",
        "long_name": f"attention, {direction}",
        "direction": direction,
        "kind": kind,
        "leaf": name,
    }
    return made.assign_attrs(inert=inert, partial=trace.leaves[name].partial)


def recomputed_summaries(trace: Trace, kind: str, grid: str | None = None) -> xr.Dataset:
    """Both summaries of a leaf computed anew from its full arrays, by one shared exponential.

    What the recorder wrote as ``g2r`` and ``r2g`` must equal this: a check of a store, and the way to have both
    directions at the price of one.

    Returns
    -------
    ``g2r (run, branch, t, layer, head, key)`` and ``r2g (..., query)``, float32, unit 1, lazy.
    """
    name = _one_leaf(trace, pick_kind(trace, kind), grid)
    wanted = (Mean("g2r", "key"), Mean("r2g", "query"))
    made = {}
    for mean, values in zip(wanted, means_of(Pass(trace, name, trace.branches, None, {}), wanted), strict=True):
        dims = (*DIMS[:5], mean.onto)
        own = xr.DataArray(values, dims=dims, coords=_coords(trace, trace.dataset(name), dims))
        made[mean.direction] = own.assign_attrs(units="1", source="full")
    return xr.Dataset(made)


def _one_leaf(trace: Trace, kind: str, grid: str | None) -> str:
    names = {name: leaf for name, leaf in trace.leaves.items() if leaf.kind == kind}
    suffixes = {name.partition("/")[2]: name for name in names}
    if grid is None:
        if len(names) == 1:
            return next(iter(names))
        shown = ", ".join(repr(suffix) for suffix in suffixes)
        raise InvalidValueError(f"kind {kind!r} of {trace.where} has several grids, {shown}; choose one by grid=")
    twins = [name for name, leaf in names.items() if leaf.grid == grid]
    if grid in suffixes:
        return suffixes[grid]
    if len(twins) == 1:
        return twins[0]
    raise unknown_name("grid", str(grid), suffixes, where=f"{trace.where}, kind {kind!r}")


def _split(shape: tuple[int, ...], chunks: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Chunks of the attention itself: the inputs' own, cut along branch, t and head until a block is small enough."""
    made = [list(sizes) for sizes in chunks[:5]]
    block = [max(sizes, default=1) for sizes in made]
    matrix = 4 * shape[5] * shape[6]
    for axis in (1, 2, 4):
        if matrix * int(np.prod(block)) <= BLOCK_BYTES:
            break
        others = matrix * int(np.prod(block)) // block[axis]
        size = max(1, BLOCK_BYTES // others)
        made[axis] = [part for whole in made[axis] for part in _pieces(whole, size)]
        block[axis] = min(size, block[axis])
    return (*(tuple(sizes) for sizes in made), (shape[5],), (shape[6],))


def _pieces(whole: int, size: int) -> list[int]:
    return [min(size, whole - start) for start in range(0, whole, size)] or [0]


def run_coords(trace: Trace) -> dict[str, xr.Variable]:
    """Coordinates along the run that every result keeps: label, seed and prompt."""
    return {name: trace.runs.variables[name] for name in ("run", "seed", "prompt")}


def _coords(trace: Trace, dataset: xr.Dataset, dims: tuple[str, ...]) -> dict[str, Any]:
    """Labels of the result: the leaf's own, and those of the runs and their clocks."""
    held = {str(name): coord for name, coord in dataset.coords.items() if set(coord.dims) <= set(dims)}
    for name in ("step", "timestep", "sigma"):
        held[name] = trace.runs[name].sel(t=dataset["t"].values)
    return {name: coord.reset_coords(drop=True) for name, coord in held.items()} | run_coords(trace)

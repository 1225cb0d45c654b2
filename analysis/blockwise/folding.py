"""Sums of a leaf's term over t, layers and heads, block by block, in a graph as small as can be.

Graph building is most of what a map of a summary costs, so that weighing, summing and laying out are one task a block.
"""

from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

__all__ = ["SPLIT_EVERY", "folded", "sum_of"]

SPLIT_EVERY = 4
"""Blocks that are added at a time: a tree this narrow holds few of them, whatever the number of calls and layers."""


def folded(
    term: xr.Variable,
    gone: Sequence[str],
    weights: NDArray[np.float32] | None,
    layout: Callable[[NDArray[Any]], NDArray[Any]] | None,
    names: tuple[str, ...],
    sizes: tuple[int, ...],
) -> xr.Variable:
    """Sum of `term` over the axes `gone`, weighed by layer and head, then its last axis laid out by `layout`.

    Parameters
    ----------
    term
        Lazy, its last axis the tokens in one chunk.
    gone
        Axes to sum, NaN where anything of it is NaN.
    weights
        ``(layer, head)``, or None for 1.
    layout
        From ``(..., n)`` to ``(..., *sizes)``; None leaves the tokens.
    names, sizes
        Dims that `layout` makes.

    Returns
    -------
    Dims of `term` less `gone`, the last of them `names`; float32, lazy.
    """
    dims = tuple(str(dim) for dim in term.dims)
    data = term.data
    axes = tuple(dims.index(dim) for dim in gone)
    single = all(data.numblocks[axis] == 1 for axis in axes)
    pairs: list[Any] = [data, dims]
    if weights is not None:
        chunks = tuple(data.chunks[dims.index(dim)] for dim in ("layer", "head"))
        pairs += [da.from_array(weights, chunks=chunks), ("layer", "head")]
    made = _block(_fold, dims, pairs, gone, single, (layout, names, sizes) if single else None)
    left = tuple(dim for dim in dims if dim not in gone)
    if not single:
        made = made.sum(axis=axes, split_every=SPLIT_EVERY)
        if layout is not None:
            made = _block(_fold, left, [made, left], (), True, (layout, names, sizes))
    if layout is not None:
        left = (*left[:-1], *names)
    return xr.Variable(left, made)


def _block(
    function: Callable[..., NDArray[np.float32]],
    dims: tuple[str, ...],
    pairs: list[Any],
    gone: Sequence[str],
    drop: bool,
    laid: tuple[Callable[[NDArray[Any]], NDArray[Any]] | None, tuple[str, ...], tuple[int, ...]] | None,
) -> da.Array:
    """Apply `function` block by block; axes that are summed are dropped, or left with one entry a block."""
    layout, names, sizes = (None, (), ()) if laid is None else laid
    out = tuple(dim for dim in dims if not (drop and dim in gone))
    if layout is not None:
        out = (*out[:-1], *names)
    return da.blockwise(
        function,
        out,
        *pairs,
        axes=tuple(dims.index(dim) for dim in gone),
        lead=None if len(pairs) < 4 else tuple(dims.index(dim) for dim in ("layer", "head")),
        drop=drop,
        layout=layout,
        new_axes=dict(zip(names, sizes, strict=True)) if layout is not None else None,
        adjust_chunks=None if drop else dict.fromkeys(gone, 1),
        concatenate=True,
        align_arrays=False,
        dtype=np.float32,
        meta=np.empty((0,) * len(out), np.float32),
    )


def _fold(
    values: NDArray[Any],
    weights: NDArray[np.float32] | None = None,
    *,
    axes: tuple[int, ...],
    lead: tuple[int, int] | None,
    drop: bool,
    layout: Callable[[NDArray[Any]], NDArray[Any]] | None,
) -> NDArray[np.float32]:
    own = values.astype(np.float32, copy=False)
    if weights is not None and lead is not None:
        shape = [1] * own.ndim
        shape[lead[0]], shape[lead[1]] = weights.shape
        own = own * weights.reshape(shape)
    own = own.sum(axes, keepdims=not drop) if axes else own
    return np.asarray(own if layout is None else layout(own), dtype=np.float32)


def sum_of(made: Sequence[xr.Variable]) -> xr.Variable:
    """Sum of terms with the same dims and labels."""
    first = made[0]
    if len(made) == 1:
        return first
    if all(isinstance(own.data, da.Array) and own.dims == first.dims and own.chunks == first.chunks for own in made):
        data = da.map_blocks(_add, *(own.data for own in made), dtype=np.float32, meta=first.data._meta)
        return xr.Variable(first.dims, data)
    total = first
    for own in made[1:]:
        total = total + own
    return total


def _add(*values: NDArray[np.float32]) -> NDArray[np.float32]:
    total = values[0] + values[1]
    for own in values[2:]:
        total += own
    return total

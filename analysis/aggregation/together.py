"""Maps that need the same attention, computed in one pass over it.

Every mean that is taken of a leaf's full arrays leaves a note with its dask layer of what it is. `together` finds
these layers in the graphs of lazy results, whatever was done with them since, and puts one pass that gives all means
of a leaf in the place of one pass each.
"""

import weakref
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import is_dask_collection
from dask.highlevelgraph import HighLevelGraph

from attlas.analysis.blockwise.blocks import DIMS, Inputs, means_block
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError

__all__ = ["Mean", "Pass", "means_of", "together"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T", xr.DataArray, xr.Dataset, Any)


@dataclass(frozen=True, eq=False)
class Mean:
    """A mean of a leaf's attention: the softmax's direction, the axis that it is for, and weights along the other."""

    direction: str
    onto: str
    weights: da.Array | None = None


@dataclass(frozen=True, eq=False)
class Pass:
    """One reading of a leaf's full arrays; None takes all calls, and all of an axis that `place` lacks."""

    trace: Trace
    leaf: str
    branches: tuple[str, ...]
    calls: tuple[int, ...] | None
    place: Mapping[str, Sequence[int]]

    @property
    def reads(self) -> Hashable:
        """Passes that agree in this may be one."""
        return (
            self.trace.identity,
            str(self.trace.device),
            self.leaf,
            self.branches,
        )

    def cover(self, others: Iterable["Pass"]) -> "Pass":
        """Give the smallest pass that reads all that this and the others read."""
        every = [self, *others]
        calls = _cover([own.calls for own in every])
        places = {axis: _cover([own.place.get(axis) for own in every]) for axis in ("layer", "head")}
        return replace(self, calls=calls, place={axis: own for axis, own in places.items() if own is not None})

    def inside(self, whole: "Pass") -> dict[str, list[int]]:
        """Where this pass lies in one that covers it; axes of which it takes all are left out."""
        pairs: dict[str, tuple[Sequence[int] | None, Sequence[int] | None]] = {"t": (self.calls, whole.calls)}
        pairs |= {axis: (self.place.get(axis), whole.place.get(axis)) for axis in ("layer", "head")}
        return {
            axis: [list(all_).index(one) for one in own] if all_ is not None else list(own)
            for axis, (own, all_) in pairs.items()
            if own is not None and (all_ is None or list(own) != list(all_))
        }


Note = tuple[Pass, Mean, tuple[tuple[int, ...], ...]]

_NOTES: dict[int, Note] = {}
"""What was asked, and the chunks of the answer, by the identity of a living dask layer."""


def means_of(reading: Pass, wanted: Sequence[Mean]) -> list[da.Array]:
    """Weighted means of a leaf's attention over one of its token axes, from the full arrays, in one pass over them.

    Lazy, ``(run, branch, t, layer, head, onto)`` each, float32; the attention is never held beyond one block.
    """
    data, sizes = _blocks(reading, wanted)
    ends = np.cumsum(sizes).tolist()
    if len(wanted) > 1:
        return [data[..., end - size : end] for end, size in zip(ends, sizes, strict=True)]
    layer = data.dask.layers[data.name]
    _NOTES[id(layer)] = (reading, wanted[0], data.chunks)
    weakref.finalize(layer, _NOTES.pop, id(layer), None)
    return [data]


def together(maps: Mapping[K, T]) -> dict[K, T]:
    """Lazy maps that read the same attention, so that it is read and computed once for all of them.

    Where maps, or anything computed from them, take means of the same leaf's full arrays (the two directions, other
    words, layers, heads, steps or weights, whatever axes are kept), the returned ones share one pass: every shard is
    read once, its logits and their exponential are computed once, and each mean is a product with them. What a
    summary answers is left as it is. The numbers are those of the maps by themselves to 1e-6.

    Parameters
    ----------
    maps
        Lazy results by name, each an `xarray.DataArray` or `xarray.Dataset` that was made from traces. What is in
        memory already, or shares nothing, comes back as it was.

    Returns
    -------
    The same names and lazy results; nothing is computed. Compute them in one call, such as ``dask.compute(made)``:
    each computed by itself reads for itself.

    Raises
    ------
    InvalidValueError
        If `maps` is no mapping.

    Notes
    -----
    Only attention of one leaf, branch and choice of runs is shared; a trace and its `Trace.sel` differ in their runs.
    Memory: that of one map and its results; the block that is held is the same.

    Examples
    --------
    >>> import dask
    >>> from attlas.analysis import maps, open_trace
    >>> from attlas.schemas import simulate_store
    >>> trace = open_trace(simulate_store(runs=1, kinds=("image",)))
    >>> made = together({d: maps.ulam(trace, d, source="full") for d in ("g2r", "r2g")})
    >>> (read,) = dask.compute(made)
    >>> read["g2r"].dims, read["r2g"].dims
    (('run', 'key_y', 'key_x'), ('run', 'query_y', 'query_x'))
    >>> round(float(read["r2g"].sum()), 4)  # 3 calls x 2 layers x 2 heads, each summing to 1
    12.0
    """
    if not isinstance(maps, Mapping):
        raise InvalidValueError(
            f"together takes lazy maps by name, such as {{'g2r': maps.ulam(trace, 'g2r')}}; got {type(maps).__name__}"
        )
    graphs = {name: _graph(made) for name, made in maps.items()}
    noted: dict[str, Note] = {}
    for graph in graphs.values():
        noted |= {name: _NOTES[id(layer)] for name, layer in graph.layers.items() if id(layer) in _NOTES}
    shared: dict[Hashable, dict[str, Note]] = {}
    for name, note in noted.items():
        shared.setdefault(note[0].reads, {})[name] = note
    new: dict[str, da.Array] = {}
    for group in shared.values():
        if len(group) > 1:
            new |= _one_pass(group)
    return {name: _replaced(made, graphs[name], new) for name, made in maps.items()}


def _blocks(reading: Pass, wanted: Sequence[Mean]) -> tuple[da.Array, list[int]]:
    """All means side by side along the last axis, and the length of each."""
    inputs = Inputs(
        reading.trace,
        reading.leaf,
        {mean.direction for mean in wanted},
        branches=reading.branches,
        calls=None if reading.calls is None else list(reading.calls),
        place={axis: list(own) for axis, own in reading.place.items()},
    )
    lead = tuple(inputs.sizes[dim] for dim in DIMS[:5])
    sizes = [inputs.sizes[mean.onto] for mean in wanted]
    weights = [mean.weights for mean in wanted if mean.weights is not None]
    places = iter(range(len(weights)))
    data = inputs.blockwise(
        means_block,
        (*DIMS[:5], "means"),
        (*lead, sum(sizes)),
        None,
        weights=weights,
        asks=tuple((mean.direction, mean.onto, None if mean.weights is None else next(places)) for mean in wanted),
        normalised=inputs.normalised,
    )
    return data, sizes


def _one_pass(group: Mapping[str, Note]) -> dict[str, da.Array]:
    """Arrays by the names of the layers whose place they take, all from one pass."""
    readings = [reading for reading, _, _ in group.values()]
    whole = readings[0].cover(readings[1:])
    data, sizes = _blocks(whole, [mean for _, mean, _ in group.values()])
    ends = np.cumsum(sizes).tolist()
    made = {}
    for (name, (reading, _, chunks)), end, size in zip(group.items(), ends, sizes, strict=True):
        options = {"name": name, "dtype": np.float32, "meta": np.empty((0,) * data.ndim, np.float32)}
        own, first = data, end - size
        inside = reading.inside(whole)
        if inside or data.chunks[:-1] != chunks[:-1]:
            own, first = data[..., end - size : end], 0
            for axis, places in inside.items():
                own = da.take(own, places, axis=DIMS.index(axis))
            own = own.rechunk(chunks)
        made[name] = own.map_blocks(_cut, first, first + size, chunks=chunks, **options)
    return made


def _cut(block: Any, first: int, last: int) -> Any:
    return block[..., first:last]


def _cover(choices: Sequence[Sequence[int] | None]) -> tuple[int, ...] | None:
    if any(own is None for own in choices):
        return None
    return tuple(sorted({one for own in choices if own is not None for one in own}))


def _graph(made: Any) -> HighLevelGraph:
    graph = made.__dask_graph__() if is_dask_collection(made) else None
    return graph if isinstance(graph, HighLevelGraph) else HighLevelGraph({}, {})


def _replaced(made: T, graph: HighLevelGraph, new: Mapping[str, da.Array]) -> T:
    """Give `made` with other layers of the same names below it."""
    own = {name: array for name, array in new.items() if name in graph.layers}
    if not own:
        return made
    layers, dependencies = dict(graph.layers), dict(graph.dependencies)
    for array in own.values():
        layers |= array.dask.layers
        dependencies |= array.dask.dependencies
    rebuild, arguments = made.__dask_postpersist__()  # type: ignore[no-untyped-call]
    rebuilt: T = rebuild(HighLevelGraph(layers, dependencies), *arguments)
    return rebuilt

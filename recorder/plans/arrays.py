"""The arrays of a store as they will be with all of its runs: shapes, bytes and files."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from attlas.recorder.plans.planned import PlannedArray
from attlas.recorder.requests import Request
from attlas.schemas import Store
from attlas.schemas.root import has_runs, is_column
from attlas.schemas.variables import LEAF_VARIABLES

__all__ = ["fill_table", "planned_arrays"]


def fill_table(store: Store, todo: Sequence[tuple[Request, list[str]]]) -> None:
    """Write the rows of all runs into the run table, whose blocks are compressed as a whole.

    What no request says is taken to be that of the first run, which is there.
    """
    rows = [(request, request.ids.index(run)) for request, wanted in todo for run in wanted]
    own: Mapping[str, Callable[[Request, int], Any]] = {
        "run": lambda request, place: request.ids[place],
        "prompt": lambda request, place: request.prompts[place] or "",
        "request": lambda request, _: request.text,
        "seed": lambda request, place: request.seeds[place],
        "complete": lambda _request, _place: True,
    }
    table, complete = store.snapshot.table, store.complete
    for name, node in store.snapshot.doc.nodes.items():
        if is_column(node):
            first = table.column(name, complete)[0]
            entry = own.get(name, lambda _request, _place, first=first: first)
            table.write(name, {row: entry(*asked) for row, asked in enumerate(rows)}, complete)


def planned_arrays(
    store: Store, sizes: Mapping[str, int] | None, runs: int, measured: int, before: int | None
) -> tuple[PlannedArray, ...]:
    """Every array of a store for `runs` runs.

    Parameters
    ----------
    store
        Laid out as it will be.
    sizes
        Bytes of its files, with `measured` of the runs and the whole run table; None where nothing was measured.
    before
        Rows that the real store has already, so that only arrays with a row a run are given; None where it is new.
    """
    made = []
    nodes = store.snapshot.doc.nodes
    for name in sorted(nodes, key=lambda name: _place(store, name)):
        node = nodes[name]
        if node["node_type"] != "array" or (before is not None and not has_runs(node)):
            continue
        array = store.snapshot.array(name)
        dims, shape = tuple(node["dimension_names"]), tuple(array.shape)
        blocks = [math.ceil(size / part) for size, part in zip(shape, array.shards or array.chunks, strict=True)]
        own = [] if sizes is None else [size for file, size in sizes.items() if file.startswith(f"{name}/c.")]
        stored = None if sizes is None else sum(own)
        if has_runs(node):
            shape = (runs, *shape[1:])
            rows, first = (array.shards or array.chunks)[0], before or 0
            blocks[0] = math.ceil((first + runs) / rows) - math.ceil(first / rows)
            if stored is not None and not is_column(node):
                # What the measured runs lack, such as a reference, the others lack too.
                blocks[0] = blocks[0] if own else 0
                stored = round(stored * runs / measured)
        dtype = "str" if array.dtype.kind in "TO" else str(np.dtype(array.dtype))
        made.append(PlannedArray.of(name, dims, shape, dtype, stored, math.prod(blocks)))
    return tuple(made)


def _place(store: Store, name: str) -> tuple[int, int, str]:
    """Where an array stands in the table: what belongs to no leaf first, then leaf by leaf as the registry has them."""
    leaf, _, variable = name.rpartition("/")
    leaves, variables = list(store.leaves), list(LEAF_VARIABLES)
    if leaf not in leaves:
        return -1, 0, name
    return leaves.index(leaf), variables.index(variable), name

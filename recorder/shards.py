"""Arrays gathered until a whole shard of the store is full, then written once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.schemas import Store
from attlas.schemas.layout import ArrayLayout

__all__ = ["ShardBuffers"]

_Place = tuple[str, str, int, int, int, int]


class ShardBuffers:
    """Open shards of the runs that are being recorded.

    Memory is one shard for each array, and for each layer and branch where these have shards of their own.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._layouts: dict[tuple[str, str], ArrayLayout] = {}
        self._open: dict[_Place, tuple[NDArray[Any], int]] = {}

    def put(
        self, leaf: str, variable: str, row: int, values: NDArray[Any], *, branch: int, t: int = 0, layer: int = 0
    ) -> None:
        """Add one branch, call and layer; `values` has the variable's other dims, without run.

        Every place must be put once. The shard is written when its last place is.
        """
        with self.place(leaf, variable, row, branch=branch, t=t, layer=layer) as room:
            room[...] = values

    @contextmanager
    def place(
        self, leaf: str, variable: str, row: int, *, branch: int, t: int = 0, layer: int = 0
    ) -> Iterator[NDArray[Any]]:
        """Give the room for one branch, call and layer, to be filled inside the ``with``."""
        layout = self._layout(leaf, variable)
        t0 = t - t % layout.t_block
        layer0 = layer - layer % layout.layer_block
        branch0 = branch - branch % layout.branch_block
        place = (leaf, variable, row, branch0, t0, layer0)
        if place not in self._open:
            self._open[place] = self._empty(layout, {"branch": branch0, "t": t0, "layer": layer0})
        shard, missing = self._open[place]
        at = {"branch": branch - branch0, "t": t - t0, "layer": layer - layer0}
        yield shard[tuple(at.get(dim, slice(None)) for dim in layout.dims[1:])]
        self._open[place] = (shard, missing - 1)
        if missing == 1:
            del self._open[place]
            self._store.write(leaf, variable, row, shard, t0=t0, layer0=layer0, branch0=branch0)

    @property
    def unfinished(self) -> list[str]:
        """Name the arrays that have a shard which is not full."""
        return sorted({f"{leaf}/{variable}" for leaf, variable, *_ in self._open})

    def _layout(self, leaf: str, variable: str) -> ArrayLayout:
        if (leaf, variable) not in self._layouts:
            self._layouts[leaf, variable] = self._store.layout(leaf, variable)
        return self._layouts[leaf, variable]

    @staticmethod
    def _empty(layout: ArrayLayout, starts: Mapping[str, int]) -> tuple[NDArray[Any], int]:
        """Return an empty shard, cut at the ends of its axes, and the number of places that it waits for."""
        shape = []
        places = 1
        for dim, size, block in list(zip(layout.dims, layout.shape, layout.shard, strict=True))[1:]:
            length = min(block, size - starts.get(dim, 0))
            shape.append(length)
            places *= length if dim in starts else 1
        return np.empty(shape, layout.dtype), places

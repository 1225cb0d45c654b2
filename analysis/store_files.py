"""Open arrays and small labels of one store, each read once and shared by all traces of it."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.reading import WeightReader, attrs_of, dims_of, is_text
from attlas.analysis.stored_order import StoredOrder
from attlas.schemas import Store
from attlas.schemas.notes import Notes
from attlas.schemas.records import Claim, RunRecord
from attlas.schemas.runs import holds_of
from attlas.schemas.storage.cached import Cached

if TYPE_CHECKING:
    import zarr

__all__ = ["StoreFiles", "at_once"]


T = TypeVar("T")
R = TypeVar("R")

THREADS = 16
"""Files that are read at once: a far one is waited for, not worked on."""


def at_once(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Give ``function(item)`` of all items, in their order, some at a time."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(THREADS, len(items))) as pool:
        return list(pool.map(function, items))


class StoreFiles:
    """What is open of a store, as it was at one moment.

    Attributes
    ----------
    store
        The store.
    where
        Its name in messages.
    complete
        Flag of each row.
    """

    def __init__(self, store: Store, *, incomplete: bool = False) -> None:
        self.store = store
        self.where = store.path or "the store in memory"
        # Runs under way may stand behind the last complete one, with which the run axis ends.
        seen = store.snapshot.wide if incomplete else store.snapshot
        # The flags are read first: what they call complete stands in every column by then, and does not change.
        self.complete: NDArray[np.bool_] = seen.table.complete()
        self.snapshot = seen.through(Cached(store.storage)) if store.storage.far else seen
        self._incomplete = incomplete
        self._stored: dict[tuple[str, bool], StoredOrder] = {}
        self._labels: dict[str, xr.Variable] = {}

    def __contains__(self, name: str) -> bool:
        """Whether the store has the array `name`."""
        return self.snapshot.doc.nodes.get(name, {}).get("node_type") == "array"

    @property
    def rows(self) -> list[int]:
        """Rows of the runs that are to be shown: complete ones, or all that have a label."""
        labels = self.label("run").values
        return [row for row, label in enumerate(labels) if label and (self._incomplete or self.complete[row])]

    @property
    def incomplete(self) -> int:
        """How many runs were begun and are not complete."""
        labels = self.snapshot.table.column("run", self.complete)
        return len({row for row, label in enumerate(labels) if label and not self.complete[row]} | set(self._noted))

    @cached_property
    def annotations(self) -> tuple[str, ...]:
        """Paths of the annotations, sorted."""
        return tuple(sorted(name for name in self.snapshot.doc.nodes if name.startswith("annotations/")))

    def array(self, name: str) -> "zarr.Array[Any]":
        """Return the array `name`, which must be there."""
        return self.snapshot.array(name)

    def stored(self, name: str, *, lenient: bool = False) -> StoredOrder | None:
        """Return what reads the array `name` fastest, or None where the store lacks it.

        A chunk that is not there is an error, or fill values where reading is `lenient`.
        """
        if name not in self:
            return None
        if (name, lenient) not in self._stored:
            array = self.snapshot.lenient(name) if lenient else self.snapshot.array(name)
            self._stored[name, lenient] = StoredOrder(array)
        return self._stored[name, lenient]

    def weights(self, name: str) -> xr.Variable:
        """Dask-backed variable of an array without runs, one chunk along its first axis, which is the layer."""
        array = self.array(name)
        chunks = (1, *array.shape[1:])
        lazy = da.from_array(WeightReader(array, self.where), chunks=chunks, asarray=False, fancy=False)
        return xr.Variable(dims_of(array), lazy, attrs_of(array))

    def label(self, name: str) -> xr.Variable:
        """Read a column of the run table, or labels that are the same for every run; text as fixed-width unicode."""
        if name not in self._labels:
            array = self.array(name)
            dims = dims_of(array)
            runs = dims[:1] == ("run",)
            values = self.snapshot.table.column(name, self.complete) if runs else self.snapshot.read(name)
            if runs and self._incomplete:
                values = self._with_notes(name, values)
            values = values.astype(object).astype(str) if is_text(array) else values
            self._labels[name] = xr.Variable(dims, values, attrs_of(array))
        return self._labels[name]

    def holds(self, row: int) -> frozenset[str]:
        """Names of the pictures and annotations of a run that is complete."""
        text = str(self.label("holds").values[row])
        if text not in self._holds:
            self._holds[text] = holds_of(text, f"holds of row {row} in {self.where}")
        return self._holds[text]

    @cached_property
    def _holds(self) -> dict[str, frozenset[str]]:
        return {}

    @cached_property
    def _noted(self) -> Mapping[int, Claim | RunRecord]:
        """Notes of runs under way, by row: they have no entry in the run table."""
        if not self.store.storage.writable:
            return {}
        notes = Notes(self.store.storage)
        found: dict[int, Claim | RunRecord] = {**notes.claims(), **notes.finished()}
        return {row: own for row, own in found.items() if row >= len(self.complete) or not self.complete[row]}

    def _with_notes(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """Put into a column what is noted of runs under way."""
        made = values.astype(object) if values.dtype.kind in "OTU" else values.copy()
        for row, own in self._noted.items():
            known = {**vars(own), **getattr(own, "clock", {})}
            if name in known and name != "holds" and row < len(made):
                made[row] = known[name]
        return made

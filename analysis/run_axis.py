"""One run axis over one or several stores: which store a run is of, and at which of its rows it stands."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.reading import Rows, ShardReader
from attlas.analysis.store_files import StoreFiles, at_once
from attlas.schemas import ROOT_VARIABLES

__all__ = ["PICTURES", "RunAxis"]

PICTURES = tuple(name for name, own in ROOT_VARIABLES.items() if own.group in ("image", "video", "reference"))
"""Arrays of pictures, which a run may have or not."""


@dataclass(frozen=True)
class RunAxis:
    """Runs of some stores of one model, in any order.

    Attributes
    ----------
    files
        The stores.
    stores, rows
        Of each run: the place of its store, and its row there.
    prefixes
        What stands before the labels of each store's runs; empty where they stand by themselves.
    forms
        Stores, maybe others, that tell the form of pictures and annotations which not all of ``files`` have.
    """

    files: tuple[StoreFiles, ...]
    stores: tuple[int, ...]
    rows: tuple[int, ...]
    prefixes: tuple[str, ...]
    forms: tuple[StoreFiles, ...] = ()

    def __contains__(self, name: str) -> bool:
        """Whether any of the stores has the array `name`."""
        return any(name in own for own in (*self.files, *self.forms))

    @property
    def first(self) -> StoreFiles:
        """The store that answers for all where they agree."""
        return self.files[0]

    @property
    def where(self) -> str:
        """The stores in messages."""
        names = [own.where for own in self.files]
        return ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]} and {len(names) - 2} more stores"

    @property
    def identity(self) -> Hashable:
        """Two axes that agree in this have the same runs of the same stores."""
        return (tuple(own.store.path or id(own.store) for own in self.files), self.stores, self.rows)

    @property
    def annotations(self) -> tuple[str, ...]:
        """Names of what the user gave with any run, sorted."""
        paths = sorted({path for own in (*self.files, *self.forms) for path in own.annotations})
        return tuple(path.removeprefix("annotations/") for path in paths)

    @property
    def reference_shape(self) -> tuple[int, int] | None:
        """Rows and columns of the reference pictures; None where no store has any."""
        stores = (own.store for own in (*self.files, *self.forms))
        return next((own.reference_shape for own in stores if own.reference_shape is not None), None)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Labels of the runs."""
        if not any(self.prefixes):
            return tuple(self._column("run").values.tolist())
        labels = zip(self.stores, self._column("run").values.tolist(), strict=True)
        return tuple(f"{self.prefixes[store]}{label}" for store, label in labels)

    def columns(self, names: Sequence[str]) -> dict[str, xr.Variable]:
        """Read columns of the run table, in memory."""
        at_once(lambda one: one[0].label(one[1]), [(own, name) for own in self.files for name in names])
        return {name: self._column(name) for name in names}

    def _column(self, name: str) -> xr.Variable:
        whole = [own.label(name) for own in self.files]
        if len(whole) == 1:
            return whole[0].isel(run=list(self.rows))
        starts = np.cumsum([0, *(own.sizes["run"] for own in whole)])
        joined: xr.Variable = xr.Variable.concat(whole, "run")  # type: ignore[no-untyped-call]
        return joined.isel(run=[int(starts[store]) + row for store, row in zip(self.stores, self.rows, strict=True)])

    def take(self, places: Iterable[int]) -> "RunAxis":
        """Axis of the runs at these places; stores of which none is left go, unless that would be all."""
        chosen = [range(len(self.rows))[place] for place in places]
        kept = sorted({self.stores[place] for place in chosen}) or range(len(self.files))
        new = {store: place for place, store in enumerate(kept)}
        return RunAxis(
            tuple(self.files[store] for store in kept),
            tuple(new[self.stores[place]] for place in chosen),
            tuple(self.rows[place] for place in chosen),
            tuple(self.prefixes[store] for store in kept),
            self.forms,
        )

    def apart(self) -> list[tuple[tuple[int, ...], "RunAxis"]]:
        """Take the axis apart by store: places of the runs of each, and their own axis."""
        made = []
        for store, own in enumerate(self.files):
            places = tuple(place for place, of in enumerate(self.stores) if of == store)
            rows = tuple(self.rows[place] for place in places)
            made.append((places, RunAxis((own,), (0,) * len(rows), rows, (self.prefixes[store],), self.forms)))
        return made

    def reader(self, name: str, branch: int | None = None) -> ShardReader:
        """Return what reads an array with a run axis."""
        runs = self._runs
        strict = tuple(own.stored(name) for own in self.files)
        lenient = strict if all(self.complete) else tuple(own.stored(name, lenient=True) for own in self.files)
        held = self._held(name) if name in PICTURES or name.startswith("annotations/") else None
        form = next(own for own in (*self.files, *self.forms) if name in own).array(name)
        return ShardReader(form, strict, lenient, runs, held, branch)

    def _held(self, name: str) -> tuple[bool, ...]:
        """Whether each run has a picture or annotation; one that is not complete may have it without saying so."""
        runs = zip(self.stores, self.rows, self.complete, strict=True)
        return tuple(not complete or name in self.files[store].holds(row) for store, row, complete in runs)

    @cached_property
    def complete(self) -> tuple[bool, ...]:
        """Whether each run is complete."""
        runs = zip(self.stores, self.rows, strict=True)
        return tuple(bool(self.files[store].complete[row]) for store, row in runs)

    @cached_property
    def _runs(self) -> Rows:
        return Rows(self.stores, self.rows, self.ids, self.complete, tuple(own.where for own in self.files))

    @classmethod
    def over(
        cls, files: Sequence[StoreFiles], rows: Sequence[Sequence[int]], prefixes: Sequence[str] | None = None
    ) -> "RunAxis":
        """Put the given rows of each store one behind the other."""
        places: list[Any] = [(place, row) for place, own in enumerate(rows) for row in own]
        optional = dict.fromkeys((*PICTURES, *(name for own in files for name in own.annotations)))
        holders = [[own for own in files if name in own] for name in optional]
        return cls(
            tuple(files),
            tuple(place for place, _ in places),
            tuple(row for _, row in places),
            tuple(prefixes or [""] * len(files)),
            tuple(dict.fromkeys(own[0] for own in holders if 0 < len(own) < len(files))),
        )

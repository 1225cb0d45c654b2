"""The store of a recorder: opened or waited for, the rows claimed in it, and what becomes of it at the end."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from attlas.recorder.destination import Target, open_matching, storing
from attlas.recorder.first_run import FirstRun
from attlas.schemas import Manifest, Store
from attlas.schemas.errors import AttlasError, RunTakenError
from attlas.schemas.records import RunRecord
from attlas.schemas.storage import open_storage
from attlas.schemas.storage.opening import scheme_of

__all__ = ["Claims"]


class Claims:
    """Rows that a recorder holds for runs which it has not begun.

    Parameters
    ----------
    path, durable
        See `Recorder`.

    Attributes
    ----------
    store
        None until there is one.
    """

    def __init__(self, path: Target, *, durable: bool) -> None:
        self.store: Store | None = None
        self._path = path
        self._durable = durable
        self._manifest: Manifest | None = None
        self._rows: dict[str, int] = {}
        self._first: FirstRun | None = None
        self._made = False

    @property
    def far(self) -> bool:
        """Whether each look at the store is a request to a server."""
        path = self._path.path if isinstance(self._path, Store) else self._path
        return isinstance(path, str | Path) and scheme_of(path) not in (None, "file")

    def open(self, manifest: Manifest) -> None:
        """Look what is at the path, and whether recordings of `manifest` fit there."""
        self._manifest = manifest
        self.store = open_matching(self._path, manifest, durable=self._durable)

    def wait(self, waiting: Callable[[], None]) -> bool:
        """Return whether the store is there; if not, its first run is this recorder's. See `FirstRun`."""
        shared = isinstance(self._path, str | Path)
        if self.store is None and self._first is None and shared and self._manifest is not None:
            with storing(self._path, "the beginning"):
                self._first = FirstRun.get(open_storage(str(self._path), durable=self._durable), waiting)
            if self._first is None:
                self.open(self._manifest)
        return self.store is not None

    def claim(self, records: Sequence[RunRecord], capacity: int) -> dict[str, RunTakenError]:
        """Claim rows for runs; return by id why one cannot be had."""
        wanted = [record for record in records if record.run not in self._rows]
        refused: dict[str, RunTakenError] = {}
        if self.store is None or not wanted:
            return refused
        with storing(self._path, f"a row for run {wanted[0].run!r}"):
            rows = self.store.claim_all(wanted, capacity=capacity)
        for record, row in zip(wanted, rows, strict=True):
            if isinstance(row, RunTakenError):
                refused[record.run] = row
            else:
                self._rows[record.run] = row
        return refused

    def take(self, records: Sequence[RunRecord], capacity: int) -> dict[str, int | None]:
        """Hand over the rows of runs that begin, claimed here if they are not yet; None where a store is to be made.

        Raises
        ------
        RunTakenError
            If one of them cannot be had; the others are given back.
        """
        wanted = [record.run for record in records]
        if self.store is None:
            return dict.fromkeys(wanted)
        refused = self.claim(records, capacity)
        if refused:
            self.give_back(wanted)
            raise next(iter(refused.values()))
        return {run: self._rows.pop(run) for run in wanted}

    def give_back(self, runs: Collection[str] | None = None) -> None:
        """Give back rows of runs that are not begun; all of them where none are named."""
        for run in list(self._rows if runs is None else runs):
            row = self._rows.pop(run, None)
            if row is not None and self.store is not None:
                self.store.release(row)

    def opened(self, store: Store) -> None:
        """Note that a run has its store, and let others begin who wait for it."""
        self._made = self._made or self.store is None
        self.store = store
        self.end_first()

    def end_first(self) -> None:
        """Give the right to the first run back."""
        first, self._first = self._first, None
        if first is not None:
            first.end()

    def end(self, *, quietly: bool) -> None:
        """Finish the store, or remove it where this recorder made it and no run came of it."""
        if self.store is None:
            return
        try:
            with storing(self._path, "the end"):
                if not (self._made and isinstance(self._path, str | Path) and self.store.discard()):
                    self.store.finish()
        except (OSError, KeyError, AttlasError):
            # The error that is on its way says more than this one would.
            if not quietly:
                raise

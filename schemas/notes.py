"""What writers note beside a store that is being recorded: who is at work on which row, and runs that are finished."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from attlas.schemas.records import Claim, RunRecord, from_note, to_note
from attlas.schemas.root import ROOT
from attlas.schemas.storage import Storage
from attlas.schemas.storage.local import RECORDING

__all__ = ["Notes"]

CREATING = "creating"

Entry = TypeVar("Entry", Claim, RunRecord)


class Notes:
    """Notes of one writer and its fellows; everything but `finished` is for who has the turn."""

    def __init__(self, store: Storage) -> None:
        self._store = store
        self._storage = store.beside(RECORDING)
        self._coordinator = self._storage.coordinator()
        self._name: str | None = None

    @property
    def writer(self) -> str:
        """Name of this writer; it lives from when it is asked for."""
        if self._name is None:
            self._name = self._coordinator.join()
        return self._name

    def turn(self, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Be the only writer; see `Coordinator.turn`."""
        return self._coordinator.turn(wait=wait)

    def lives(self, claim: Claim) -> bool:
        """Whether who claimed is still there."""
        return claim.writer == self._name or self._coordinator.alive(claim.writer)

    @property
    def alone(self) -> bool:
        """Whether no other writer lives."""
        return not self._coordinator.others(self._name or "")

    def leave(self) -> None:
        """End as a writer."""
        if self._name is not None:
            self._coordinator.leave(self._name)
            self._name = None

    def claims(self) -> dict[int, Claim]:
        """Read the claims by row, of the living and the dead."""
        return dict(self._entries("claims", Claim))

    def claim(self, row: int, run: str, request: str) -> Claim:
        """Claim a row for a run."""
        claim = Claim(run, request, self.writer)
        self._storage.put(f"claims/{row}.json", to_note(claim), sync=False)
        return claim

    def drop(self, row: int) -> None:
        """Give a row up."""
        self._storage.delete(f"claims/{row}.json")

    def unfinish(self, row: int) -> None:
        """Take back that a run is finished, where that was noted and yet could not be made sure."""
        self._storage.delete(f"done/{row}.json")

    def finished(self) -> dict[int, RunRecord]:
        """Read the records of runs that are finished and not in the run table yet, by row."""
        return dict(self._entries("done", RunRecord))

    def finish(self, row: int, record: RunRecord) -> None:
        """Note a finished run, for good: it is never made again."""
        self._storage.put(f"done/{row}.json", to_note(record))

    def forget(self, row: int) -> None:
        """Take the notes of a row away that stands in the run table."""
        self._storage.delete(f"claims/{row}.json")
        self._storage.delete(f"done/{row}.json")

    def begin_store(self, lay_out: Callable[[], None]) -> None:
        """Lay a new store out; a note says meanwhile that what is at its place is unfinished."""
        self._storage.put(CREATING, b"")
        lay_out()
        self._storage.delete(CREATING)

    @property
    def half_made(self) -> bool:
        """Whether a writer died while it laid the store out, before the store was there."""
        return self._storage.size(CREATING) is not None and self._store.size(ROOT) is None

    def tidy(self) -> None:
        """Remove all notes where nobody needs them: no other writer lives, and none left anything."""
        if self.alone and not self.claims() and not self.finished() and not self.half_made:
            self.leave()
            self._storage.clear()

    def _entries(self, folder: str, kind: type[Entry]) -> Iterator[tuple[int, Entry]]:
        for key in sorted(self._storage.keys(f"{folder}/")):
            number = key.removeprefix(f"{folder}/").removesuffix(".json")
            data = self._storage.get(key) if number.isdecimal() else None
            entry = None if data is None else from_note(kind, data)
            if entry is not None:
                yield int(number), entry
            elif data is not None:
                self._storage.delete(key)

"""The first run of a store that is not there: one recorder draws it and makes the store, the others wait for that."""

import time
from collections.abc import Callable

from attlas.schemas.notes import Notes
from attlas.schemas.root import ROOT
from attlas.schemas.storage import Storage
from attlas.schemas.storage.local import RECORDING

__all__ = ["FirstRun"]

NOTE = "first"
"""Who draws it, beside the store."""

POLLS = {True: (0.05, 1.0), False: (0.5, 5.0)}
"""Seconds between two looks, at first and at most: in a folder, and elsewhere."""


class FirstRun:
    """The right to draw the first run; it ends with `end`, or with this process."""

    def __init__(self, storage: Storage) -> None:
        self._store = storage
        self._notes = storage.beside(RECORDING)
        self._turns = self._notes.coordinator()
        self._name = ""

    @classmethod
    def get(cls, storage: Storage, waiting: Callable[[], None]) -> "FirstRun | None":
        """Get it, or wait until another recorder has made the store, and return None; `waiting` is called meanwhile."""
        made = cls(storage)
        pause, longest = POLLS[storage.folder is not None]
        while not made._take():
            if storage.size(ROOT) is not None and made._free():
                return None
            waiting()
            time.sleep(pause)
            pause = min(1.5 * pause, longest)
        return made

    def _take(self) -> bool:
        if self._store.size(ROOT) is not None or not self._free():
            return False
        with self._turns.turn():
            if self._store.size(ROOT) is not None or not self._free():
                return False
            self._name = self._turns.join()
            self._notes.put(NOTE, self._name.encode(), sync=False)
        return True

    def _free(self) -> bool:
        """Whether nobody who lives has it."""
        held = self._notes.get(NOTE)
        return held is None or not self._turns.alive(held.decode("ascii", "replace"))

    def end(self) -> None:
        """Let others begin, and leave nothing where there is no store."""
        if not self._name:
            return
        with self._turns.turn():
            self._notes.delete(NOTE)
            self._turns.leave(self._name)
            self._name = ""
            if self._store.size(ROOT) is None and not self._turns.others(""):
                Notes(self._store).tidy()

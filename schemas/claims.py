"""Who may write which run: locks beside the store, so that several recorders never meet in one row.

The operating system drops a lock when its process dies, whatever killed it, so that an unfinished run can be
taken over at once and a living one never can.
"""

import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

__all__ = ["Claims"]


class Claims:
    """Locks of one store; in memory (``path`` None) only threads of this process compete."""

    def __init__(self, path: Path | None) -> None:
        self._folder = None if path is None else path.with_name(path.name + ".locks")
        self._table: FileLock | threading.RLock
        if self._folder is None:
            self._table = threading.RLock()
        else:
            self._table = FileLock(self._folder / "table.lock", thread_local=False)
        self._held: dict[int, FileLock | None] = {}

    def __enter__(self) -> Self:
        """Hold the run table: rows are added and flags are set by one writer at a time."""
        while self._folder is not None:
            self._folder.mkdir(exist_ok=True)
            try:
                self._table.acquire()
            except FileNotFoundError:
                # Another recorder ended and took the folder away in between.
                continue
            return self
        self._table.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._table.release()

    def take(self, row: int) -> bool:
        """Take `row` for this recorder; False where another living recorder has it."""
        if row in self._held:
            return False
        if self._folder is None:
            self._held[row] = None
            return True
        lock = FileLock(self._folder / f"run-{row}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        self._held[row] = lock
        return True

    def holds(self, row: int) -> bool:
        """Whether this recorder holds `row`."""
        return row in self._held

    def drop(self, row: int) -> None:
        """Give `row` back."""
        if row not in self._held:
            return
        # Rows are taken under the table's lock, so that nobody waits for the file that goes.
        with self:
            lock = self._held.pop(row)
            if lock is not None:
                lock.release()
                Path(lock.lock_file).unlink(missing_ok=True)

    def clear(self) -> None:
        """Give every row back, and remove the folder of locks when nobody else holds a row."""
        if self._folder is None or self._folder.exists():
            with self:
                for row in list(self._held):
                    self.drop(row)
                self._remove_folder()

    def tidy(self) -> None:
        """Remove the folder of locks if nobody holds a row."""
        if not self._held and self._folder is not None and self._folder.exists():
            with self:
                self._remove_folder()

    def _remove_folder(self) -> None:
        """Remove the table's lock, which is held here: who waits for it finds its file gone, and makes a new one."""
        table = "table.lock"
        if self._folder is not None and all(path.name == table for path in self._folder.iterdir()):
            (self._folder / table).unlink(missing_ok=True)
            # Another recorder may be faster, and have its new lock there.
            with suppress(OSError):
                self._folder.rmdir()

"""What every place of bytes can do, and how writers of one store agree."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Coordinator", "Data", "Storage"]

Data: TypeAlias = bytes | bytearray | memoryview


class Coordinator(ABC):
    """How the writers of one store take turns, and tell who of them lives."""

    @abstractmethod
    def turn(self, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Be the only writer inside the ``with``; a thread that has the turn may take it again.

        Gives False, without the turn, where `wait` is False and another writer has it.
        """

    @abstractmethod
    def join(self) -> str:
        """Register a writer, which lives as long as this process does or until it leaves; return its name."""

    @abstractmethod
    def leave(self, name: str) -> None:
        """Say that a writer has ended."""

    @abstractmethod
    def alive(self, name: str) -> bool:
        """Whether the writer lives."""

    @abstractmethod
    def others(self, name: str) -> bool:
        """Whether any writer but `name` lives."""


class Storage(ABC):
    """Bytes by name below one root.

    Names are relative, with ``/`` between parts. A failure is raised as `StorageError`, in words of ours.

    Attributes
    ----------
    url
        The root, as messages name it.
    writable
        Whether `put` and `delete` work.
    folder
        The root where it is a local folder, else None.
    far
        Whether each call is a request to a server, and nothing of what was read is kept.
    """

    url: str
    writable: bool
    folder: Path | None = None
    far: bool = False

    @abstractmethod
    def get(self, key: str, start: int | None = None, length: int | None = None) -> bytes | None:
        """Return the bytes of `key`, or None where nothing is.

        `length` bytes from `start`, or all that follow; the last ``-start`` bytes where `start` is negative.
        """

    async def fetch(self, key: str, start: int | None, length: int | None) -> bytes | None:
        """Do as `get` does, in a thread."""
        return await asyncio.to_thread(self.get, key, start, length)

    @abstractmethod
    def put(self, key: str, data: Data, *, sync: bool = True) -> None:
        """Store or replace `key` in one atomic act; without `sync` it is sure to last only after `flush`."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove `key`; nothing happens where nothing is."""

    @abstractmethod
    def keys(self, prefix: str = "") -> Iterator[str]:
        """Give every name that begins with `prefix`, in any order."""

    def children(self, prefix: str = "") -> list[str]:
        """Give the names one level below the folder `prefix`, of files and folders, sorted."""
        start = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        return sorted({key.removeprefix(start).partition("/")[0] for key in self.keys(start)})

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Return the number of bytes of `key`, or None where nothing is."""

    @abstractmethod
    def beside(self, suffix: str) -> "Storage":
        """Return the place whose name is this one's with `suffix`."""

    @abstractmethod
    def coordinator(self) -> Coordinator:
        """Make what the writers agree by; what it notes is kept here."""

    @abstractmethod
    def clear(self) -> None:
        """Remove everything, and the root itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as a URL, which is opened there."""
        return (_opened, (self.url,))

    def flush(self) -> None:  # noqa: B027 - most places need nothing
        """Make everything that was put last through a loss of power."""

    def free(self) -> int | None:
        """Return the number of bytes that can still be stored, or None where nobody knows."""
        return None


def _opened(url: str) -> Storage:
    from attlas.schemas.storage.opening import open_storage

    return open_storage(url)

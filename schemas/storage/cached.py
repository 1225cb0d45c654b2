"""A distant storage whose answers are kept: for reading what does not change under its reader."""

from collections.abc import Iterator
from pathlib import Path

from attlas.schemas.storage.base import Storage
from attlas.schemas.storage.read_only import ReadOnlyStorage
from attlas.schemas.storage.recent import Recent

__all__ = ["Cached"]

BOUND = 64 * 2**20
"""Bytes that are kept at most."""

LARGEST = 8 * 2**20
"""Bytes of an answer at most that is kept."""

ROOT = "zarr.json"


class Cached(ReadOnlyStorage):
    """Reads through another storage and keeps what was read last: labels, indexes of shards, chunks.

    The root document is read anew each time it is asked for.

    Parameters
    ----------
    storage
        Where the bytes are.
    bound
        Bytes that are kept at most.
    """

    def __init__(self, storage: Storage, *, bound: int = BOUND) -> None:
        self._storage = storage
        self.why = storage.why if isinstance(storage, ReadOnlyStorage) else "it is open for reading"
        self._bound = bound
        self._recent = Recent(bound, LARGEST)
        self._sizes = Recent(bound // 16, LARGEST)
        self.url = storage.url
        self.folder: Path | None = storage.folder

    def __reduce__(self) -> tuple[type["Cached"], tuple[Storage]]:
        """Begin with nothing in another process."""
        return Cached, (self._storage,)

    def get(self, key: str, start: int | None = None, length: int | None = None) -> bytes | None:
        """Return what is kept, or ask."""
        if key == ROOT:
            return self._storage.get(key, start, length)
        return self._recent.get((key, start, length), lambda: self._storage.get(key, start, length))

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Ask."""
        return self._storage.keys(prefix)

    def children(self, prefix: str = "") -> list[str]:
        """Ask."""
        return self._storage.children(prefix)

    def size(self, key: str) -> int | None:
        """Return what is kept, or ask."""

        def asked() -> bytes | None:
            size = self._storage.size(key)
            return None if size is None else str(size).encode()

        found = self._sizes.get(key, asked)
        return None if found is None else int(found)

    def beside(self, suffix: str) -> Storage:
        """Return the place itself, of which nothing is kept: what is noted there changes."""
        return self._storage.beside(suffix)

    def forget(self) -> None:
        """Ask for everything anew from here on."""
        self._recent.forget()
        self._sizes.forget()

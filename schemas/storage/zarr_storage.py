"""A storage over a zarr store object of the user's own, which this process alone writes."""

from collections.abc import Iterator
from typing import Any

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from attlas.schemas.storage.base import Coordinator, Data, Storage
from attlas.schemas.storage.memory import MemoryStorage

__all__ = ["ZarrStorage"]


class ZarrStorage(Storage):
    """Reads and writes through zarr; what its writers note stays in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._notes = MemoryStorage("notes")
        self.url = str(store)
        self.writable = not store.read_only

    def get(self, key: str, start: int | None = None, length: int | None = None) -> bytes | None:
        """Read through zarr."""
        found: bytes | None = sync(self.fetch(key, start, length))
        return found

    async def fetch(self, key: str, start: int | None, length: int | None) -> bytes | None:
        """Read through zarr where its loop is: a thread that waited for the loop could be one that the loop needs."""
        asked: RangeByteRequest | OffsetByteRequest | SuffixByteRequest | None = None
        if start is not None and start < 0:
            asked = SuffixByteRequest(-start)
        elif length is not None:
            asked = RangeByteRequest(start or 0, (start or 0) + length)
        elif start is not None:
            asked = OffsetByteRequest(start)
        found = await self._store.get(key, default_buffer_prototype(), asked)
        return None if found is None else bytes(found.to_bytes())

    def put(self, key: str, data: Data, *, sync: bool = True) -> None:  # noqa: ARG002 - the store's own affair
        """Write through zarr."""
        _wait(self._store.set(key, default_buffer_prototype().buffer.from_bytes(bytes(data))))

    def delete(self, key: str) -> None:
        """Remove through zarr."""
        sync(self._store.delete(key))

    def keys(self, prefix: str = "") -> Iterator[str]:
        """List through zarr."""

        async def listed() -> list[str]:
            return [key async for key in self._store.list_prefix(prefix)]

        yield from sync(listed())

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the zarr store does."""
        return (ZarrStorage, (self._store,))

    def size(self, key: str) -> int | None:
        """Ask zarr."""
        try:
            return int(sync(self._store.getsize(key)))
        except FileNotFoundError:
            return None

    def beside(self, suffix: str) -> Storage:
        """Return notes in memory, the same each time."""
        return self._notes.beside(suffix)

    def coordinator(self) -> Coordinator:
        """Let threads of this process agree."""
        return self._notes.coordinator()

    def clear(self) -> None:
        """Remove everything through zarr."""
        sync(self._store.clear())


_wait = sync

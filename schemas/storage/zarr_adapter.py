"""A storage as zarr sees it: metadata from a snapshot, and a chunk that is not there is an error unless it may be."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Self

import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import StorePath

from attlas.schemas.errors import CorruptDataError, StorageError
from attlas.schemas.storage.base import Storage

__all__ = ["StorageAdapter", "is_chunk"]

ROOT = "zarr.json"


def is_chunk(key: str) -> bool:
    """Whether `key` names a chunk of an array.

    Examples
    --------
    >>> is_chunk("text/8x8/g2r/c.0.0"), is_chunk("text/8x8/g2r/zarr.json")
    (True, False)
    """
    name = key.rpartition("/")[2]
    return name == "c" or name.startswith("c.")


class StorageAdapter(Store):  # type: ignore[misc]  # zarr is not typed for us
    """zarr's view of a storage.

    Parameters
    ----------
    storage
        Where the bytes are.
    root
        The root's metadata, with that of every array; zarr reads no other.
    strict
        Whether reading a chunk that is not there raises `CorruptDataError`; zarr would take it for fill values.
    """

    supports_writes: ClassVar[bool] = True
    supports_deletes: ClassVar[bool] = True
    supports_partial_writes: ClassVar[bool] = False
    supports_listing: ClassVar[bool] = True

    def __init__(self, storage: Storage, root: bytes, *, strict: bool) -> None:
        super().__init__(read_only=not storage.writable)
        self._is_open = True
        self.storage = storage
        self.root = root
        self.strict = strict

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorageAdapter) and (self.storage, self.root, self.strict) == (
            other.storage,
            other.root,
            other.strict,
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process without the root's metadata, which may be megabytes: arrays bring their own."""
        return (partial(StorageAdapter, strict=self.strict), (self.storage, b""))

    def __str__(self) -> str:
        return self.storage.url

    def array(self, path: str, node: Mapping[str, Any]) -> "zarr.Array[Any]":
        """Open an array by its metadata document."""
        array = zarr.Array(zarr.AsyncArray.from_dict(StorePath(self, path), dict(node)))
        # A shard is data even where it holds nothing but the fill value; looking for that costs more than zstd.
        return array.with_config({"write_empty_chunks": True})

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return the same view; what can be written is the storage's to say."""
        made = type(self)(self.storage, self.root, strict=self.strict)
        made._read_only = read_only
        return made

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read, in a thread where zarr has one for that."""
        if key == ROOT:
            root: bytes | None = self.root or await self.storage.fetch(ROOT, None, None)
            return None if root is None else prototype.buffer.from_bytes(root)
        data = await self.storage.fetch(key, *_span(byte_range))
        if not data and is_chunk(key):
            # Of an empty file too zarr would make fill values.
            if self.strict:
                raise CorruptDataError(f"{key} of {self.storage.url} is {'missing' if data is None else 'empty'}")
            return None
        if data is None:
            return None
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read several."""
        return list(await asyncio.gather(*(self.get(key, prototype, own) for key, own in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether something is there."""
        return key == ROOT or await asyncio.to_thread(self.storage.size, key) is not None

    async def set(self, key: str, value: Buffer) -> None:
        """Write a chunk; it is durable once the storage is flushed."""
        if not is_chunk(key):
            raise StorageError(
                f"writing {key} of {self.storage.url} failed: metadata change by growth of the store only"
            )
        await asyncio.to_thread(self.storage.put, key, value.as_buffer_like(), sync=False)

    async def delete(self, key: str) -> None:
        """Remove a chunk."""
        await asyncio.to_thread(self.storage.delete, key)

    async def list(self) -> AsyncIterator[str]:
        """Give every name."""
        for key in await asyncio.to_thread(_listed, self.storage, ""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Give every name that begins so."""
        for key in await asyncio.to_thread(_listed, self.storage, prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Give the names one level below."""
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        found = await asyncio.to_thread(_listed, self.storage, start)
        for name in sorted({key.removeprefix(start).split("/")[0] for key in found}):
            yield name


def _listed(storage: Storage, prefix: str) -> Any:
    return [*storage.keys(prefix)]


def _span(asked: ByteRequest | None) -> tuple[int | None, int | None]:
    """Start and length of what zarr asks for."""
    if asked is None:
        return None, None
    if isinstance(asked, RangeByteRequest):
        return asked.start, asked.end - asked.start
    if isinstance(asked, OffsetByteRequest):
        return asked.offset, None
    if isinstance(asked, SuffixByteRequest):
        return (-asked.suffix, None) if asked.suffix else (0, 0)
    raise TypeError(f"zarr asks for {asked!r}; ranges, offsets and suffixes are known")

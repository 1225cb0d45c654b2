"""From zarr arrays to dask arrays: one dask chunk a shard, complete runs only, damage named.

The one place of the package that touches zarr.
"""

import struct
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from attlas.analysis.stored_order import StoredOrder
from attlas.schemas.errors import CorruptDataError

__all__ = ["Files", "ShardReader", "lazy_variable"]

DECODE_ERRORS = (ValueError, RuntimeError, IndexError, EOFError, OSError, struct.error)
"""What zarr and its codecs raise for a flipped bit, a truncated or an unreadable file."""


@dataclass(frozen=True)
class ShardReader:
    """Array-like view of chosen rows, and maybe one branch, of a stored array; a read decodes and checks whole chunks.

    A chunk that fails its checksum, or that a complete run lacks, raises `CorruptDataError` with the array and
    the run's label: it never yields a number.
    """

    stored: StoredOrder
    where: str
    rows: tuple[int, ...]
    ids: tuple[str, ...]
    complete: tuple[bool, ...]
    branch: int | None = None

    @property
    def array(self) -> "zarr.Array[Any]":
        """The array itself."""
        return self.stored.array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape with the chosen rows, and the one branch if one is chosen."""
        own = self.array.shape
        return (len(self.rows), *(own[1:] if self.branch is None else (1, *own[2:])))

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return len(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype that reads give: text comes as objects."""
        return np.dtype(object) if _is_text(self.array) else np.dtype(self.array.dtype)

    def __dask_tokenize__(self) -> Any:
        """Name of the graph: the same rows of the same array."""
        return ("attlas", self.where, id(self.array.store), self.array.path, self.rows, self.branch)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read; `key` is a slice or number of the run and slices of all other dims, or of none.

        The axes lie in memory in the order in which they are stored.
        """
        key = key if isinstance(key, tuple) else (key,)
        picked, rest = key[0], tuple(key[1:])
        if isinstance(picked, (int, np.integer)):
            return self._read(int(picked), rest)
        wanted = np.arange(len(self.rows))[picked]
        parts = [self._read(int(place), rest) for place in wanted]
        if len(parts) == 1:
            return parts[0][np.newaxis]
        return np.stack(parts) if parts else np.empty((0, *self.array[(slice(0, 0), *rest)].shape[1:]), self.dtype)

    def _read(self, place: int, rest: tuple[Any, ...]) -> NDArray[Any]:
        name = f"{self.array.path} of run {self.ids[place]!r} in {self.where}"
        if self.branch is not None:
            rest = (slice(self.branch, self.branch + 1), *rest[1:])
        row = self.rows[place]
        try:
            values: NDArray[Any] = np.asarray(self.stored[(slice(row, row + 1), *rest)][0])
        except DECODE_ERRORS as err:
            raise CorruptDataError(
                f"{name} cannot be read: {err}; `attlas validate --deep` lists all damage, "
                "recording the run again repairs it"
            ) from err
        if self.complete[place] and _absent(values):
            raise CorruptDataError(
                f"{name} holds only NaN though the run is complete: its shard is missing, or the model gave NaN; "
                "`attlas validate` tells which"
            )
        return values.astype(object) if _is_text(self.array) else values


@dataclass(frozen=True)
class WeightReader:
    """Array-like view of an array that is the same for every run; damage raises `CorruptDataError`."""

    array: "zarr.Array[Any]"
    where: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as stored."""
        return tuple(self.array.shape)

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return len(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype as stored."""
        made: np.dtype[Any] = np.dtype(self.array.dtype)
        return made

    def __dask_tokenize__(self) -> Any:
        """Name of the graph."""
        return ("attlas", self.where, id(self.array.store), self.array.path)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read whole chunks and check them."""
        try:
            return np.asarray(self.array[key])
        except DECODE_ERRORS as err:
            raise CorruptDataError(
                f"{self.array.path} of {self.where} cannot be read: {err}; `attlas validate --deep` lists all damage"
            ) from err


def lazy_variable(reader: ShardReader) -> xr.Variable:
    """Dask-backed variable of a stored array; a chunk is a shard (inner chunks would be read one by one)."""
    array = reader.array
    shard = tuple(array.shards or array.chunks)
    chunks = (1, *(min(size, length) or 1 for size, length in zip(shard[1:], reader.shape[1:], strict=True)))
    lazy = da.from_array(
        reader, chunks=chunks, asarray=False, fancy=False, meta=np.empty((0,) * reader.ndim, reader.dtype)
    )
    return xr.Variable(_dims(array), lazy, _attrs(array))


class Files:
    """Open arrays and small labels of one store, each read once and shared by all traces of it."""

    def __init__(self, store: "zarr.storage.StoreLike") -> None:
        self.group = zarr.open_group(store, mode="r", use_consolidated=False)
        self._arrays: dict[str, Any] = {}
        self._stored: dict[str, StoredOrder] = {}
        self._labels: dict[str, xr.Variable] = {}

    def __contains__(self, name: str) -> bool:
        """Whether the store has the array or group `name`."""
        if name not in self._arrays:
            self._arrays[name] = self.group.get(name)
        return self._arrays[name] is not None

    def array(self, name: str) -> "zarr.Array[Any]":
        """Return the array `name`, which must be there."""
        if name not in self:
            raise KeyError(name)
        found: zarr.Array[Any] = self._arrays[name]
        return found

    def stored(self, name: str) -> StoredOrder:
        """Return what reads the array `name` fastest."""
        if name not in self._stored:
            self._stored[name] = StoredOrder(self.array(name))
        return self._stored[name]

    def weights(self, name: str, where: str) -> xr.Variable:
        """Dask-backed variable of an array without runs, one chunk along its first axis, which is the layer."""
        array = self.array(name)
        chunks = (1, *array.shape[1:])
        lazy = da.from_array(WeightReader(array, where), chunks=chunks, asarray=False, fancy=False)
        return xr.Variable(_dims(array), lazy, _attrs(array))

    def label(self, name: str) -> xr.Variable:
        """Read a small array whole; text as fixed-width unicode."""
        if name not in self._labels:
            array = self.array(name)
            try:
                values = np.asarray(array[...])
            except DECODE_ERRORS as err:
                raise CorruptDataError(
                    f"{name} cannot be read: {err}; `attlas validate --deep` lists all damage"
                ) from err
            values = values.astype(object).astype(str) if _is_text(array) else values
            self._labels[name] = xr.Variable(_dims(array), values, _attrs(array))
        return self._labels[name]


def _dims(array: "zarr.Array[Any]") -> tuple[str, ...]:
    return tuple(str(dim) for dim in array.metadata.dimension_names or ())


def _attrs(array: "zarr.Array[Any]") -> dict[str, Any]:
    return {name: array.attrs[name] for name in ("units", "description", "role") if name in array.attrs}


def _is_text(array: "zarr.Array[Any]") -> bool:
    return array.dtype.kind in "OTU"


def _absent(values: NDArray[Any]) -> bool:
    """Whether a floating block is all fill (NaN): zarr reads a chunk that is not there as fill."""
    return (
        values.dtype.kind == "f" and values.size > 0 and bool(np.isnan(values.flat[0])) and bool(np.isnan(values).all())
    )

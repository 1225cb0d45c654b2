"""From stored arrays to dask arrays: one dask chunk a shard, damage named, and what a run never had given unread."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.stored_order import StoredOrder
from attlas.schemas.reading import read_array

if TYPE_CHECKING:
    import zarr

__all__ = ["Rows", "ShardReader", "WeightReader", "attrs_of", "dims_of", "is_text", "lazy_variable"]


@dataclass(frozen=True)
class Rows:
    """Runs as readers know them: of which store, at which of its rows, under which label, and whether complete.

    ``where`` is the name of each store in messages.
    """

    stores: tuple[int, ...]
    rows: tuple[int, ...]
    ids: tuple[str, ...]
    complete: tuple[bool, ...]
    where: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Short name of this choice of runs."""
        told = repr((self.stores, self.rows, self.complete)).encode()
        return hashlib.blake2b(told, digest_size=12).hexdigest()

    def named(self, places: Sequence[int]) -> str:
        """Name some runs in a message."""
        first, last = self.ids[places[0]], self.ids[places[-1]]
        return f"run {first!r}" if len(places) == 1 else f"runs {first!r} to {last!r}"


@dataclass(frozen=True)
class ShardReader:
    """Array-like view of chosen runs, and maybe one branch, of a stored array; a read decodes and checks whole chunks.

    A chunk that fails its checksum, or that a complete run lacks, raises `CorruptDataError` with the array and
    the run's label: it never yields a number. Stored numbers are multiplied by the array's ``scale_factor``.

    Attributes
    ----------
    array
        The array in one of the stores, or in another one like them: its shape and dtype.
    strict, lenient
        The array in each store, None in one that lacks it. A run that is not complete is read from the second, where
        a chunk that is not there is all fill.
    runs
        The runs.
    held
        Whether each run has it: one that has not is all fill, and nothing is read. None: all have it.
    branch
        Number of the only branch, or None for all.
    """

    array: "zarr.Array[Any]"
    strict: tuple[StoredOrder | None, ...]
    lenient: tuple[StoredOrder | None, ...]
    runs: Rows
    held: tuple[bool, ...] | None = None
    branch: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape with the chosen runs, and the one branch if one is chosen."""
        own = self.array.shape
        return (len(self.runs.rows), *(own[1:] if self.branch is None else (1, *own[2:])))

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return len(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype that reads give: text comes as objects, float16 with a scale of its own as float32."""
        if is_text(self.array):
            return np.dtype(object)
        own: np.dtype[Any] = np.dtype(self.array.dtype)
        return own if self._scale == 1 else np.result_type(own, np.float32)

    @property
    def _scale(self) -> float:
        return float(self.array.attrs.get("scale_factor", 1))

    def __dask_tokenize__(self) -> Any:
        """Name of the graph: the same runs of the same arrays."""
        stores = tuple(None if own is None else id(own.array.store) for own in self.strict)
        held = None if self.held is None or all(self.held) else self.held
        return ("attlas", self.runs.where, stores, self.array.path, self.runs.digest, held, self.branch)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read; `key` is a slice or number of the run and slices of all other dims, or of none.

        The axes of one run lie in memory in the order in which they are stored.
        """
        key = key if isinstance(key, tuple) else (key,)
        picked, rest = key[0], tuple(key[1:])
        if isinstance(picked, (int, np.integer)):
            one: NDArray[Any] = self._read((int(picked),), rest)[0]
            return one
        wanted = np.arange(len(self.runs.rows))[picked].tolist()
        parts = [self._read(places, rest) for places in self.blocks(wanted)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty((0, *_lengths(self.shape[1:], rest)), self.dtype)

    def blocks(self, places: Sequence[int]) -> list[tuple[int, ...]]:
        """Take runs apart into such that stand in one chunk, one behind the other."""
        runs = self.runs
        lengths = [1 if own is None else (own.array.shards or own.array.chunks)[0] for own in self.strict]

        def block(place: int) -> tuple[Any, ...]:
            store = runs.stores[place]
            if lengths[store] == 1:
                return (place,)
            held = self.held is None or self.held[place]
            return (None, store, runs.rows[place] // lengths[store], held, runs.complete[place])

        return [tuple(own) for _, own in groupby(places, block)]

    def _read(self, places: tuple[int, ...], rest: tuple[Any, ...]) -> NDArray[Any]:
        """Read runs of one chunk."""
        first = places[0]
        store = self.runs.stores[first]
        stored = (self.strict if self.runs.complete[first] else self.lenient)[store]
        if stored is None or (self.held is not None and not self.held[first]):
            shape = (len(places), *_lengths(self.shape[1:], rest))
            return np.full(shape, self.array.fill_value, self.dtype)
        if self.branch is not None:
            rest = (slice(self.branch, self.branch + 1), *rest[1:])
        rows = [self.runs.rows[place] for place in places]
        low = min(rows)
        wanted = (slice(low, max(rows) + 1), *rest)
        values: NDArray[Any] = read_array(stored, wanted, self.runs.where[store], of=self.runs.named(places))
        if len(rows) > 1:
            values = values[[row - low for row in rows]]
        if self._scale != 1:
            values = values.astype(self.dtype) * self.dtype.type(self._scale)
        return values.astype(object) if is_text(stored.array) else values


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
        return read_array(self.array, key, self.where)


def lazy_variable(reader: ShardReader) -> xr.Variable:
    """Dask-backed variable of a stored array; a chunk is a shard (inner chunks would be read one by one)."""
    array = reader.array
    shard = tuple(array.shards or array.chunks)
    runs = tuple(len(block) for block in reader.blocks(range(reader.shape[0]))) or (0,)
    rest = (min(size, length) or 1 for size, length in zip(shard[1:], reader.shape[1:], strict=True))
    lazy = da.from_array(
        reader, chunks=(runs, *rest), asarray=False, fancy=False, meta=np.empty((0,) * reader.ndim, reader.dtype)
    )
    return xr.Variable(dims_of(array), lazy, attrs_of(array))


def dims_of(array: "zarr.Array[Any]") -> tuple[str, ...]:
    """Names of the dims."""
    return tuple(str(dim) for dim in array.metadata.dimension_names or ())


def attrs_of(array: "zarr.Array[Any]") -> dict[str, Any]:
    """Give unit and description, and the role of an annotation."""
    return {name: array.attrs[name] for name in ("units", "description", "role") if name in array.attrs}


def is_text(array: "zarr.Array[Any]") -> bool:
    """Whether the array holds text."""
    return array.dtype.kind in "OTU"


def _lengths(shape: Sequence[int], cuts: Sequence[slice]) -> tuple[int, ...]:
    """Lengths of axes that are cut, of which the last may have no cut."""
    cut = [len(range(*own.indices(length))) for own, length in zip(cuts, shape, strict=False)]
    return (*cut, *shape[len(cut) :])

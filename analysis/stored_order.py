"""Arrays as they are compressed: the same files, with the axes in the order in which their numbers lie.

Attention is stored key by key. zarr puts what it decoded back in order one number after the other, which takes longer
than decoding; numbers that come as they lie are copied whole.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ShardingCodec, TransposeCodec
from zarr.core.chunk_key_encodings import ChunkKeyEncoding, DefaultChunkKeyEncoding
from zarr.core.metadata.v3 import RegularChunkGrid

__all__ = ["StoredOrder"]


@dataclass(frozen=True)
class StoredOrder:
    """Reads an array in its stored order of axes, where its shards allow that, and else as zarr does.

    Selections and what they give have the array's own axes; only the strides are others.
    """

    array: "zarr.Array[Any]"
    _axes: tuple[int, ...] = field(init=False)
    _turned: "zarr.Array[Any]" = field(init=False)

    def __post_init__(self) -> None:
        """Find the order, and open the files in it."""
        axes = _axes(self.array)
        object.__setattr__(self, "_axes", axes)
        object.__setattr__(
            self, "_turned", self.array if axes == tuple(range(self.array.ndim)) else _turned(self.array, axes)
        )

    @property
    def path(self) -> str:
        """Path of the array in its store."""
        return str(self.array.path)

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        """Read; a slice for each of the first axes."""
        whole = (*key, *(slice(None),) * (len(self._axes) - len(key)))
        stored: NDArray[Any] = np.asarray(self._turned[tuple(whole[axis] for axis in self._axes)])
        return stored.transpose(np.argsort(self._axes))


def _axes(array: "zarr.Array[Any]") -> tuple[int, ...]:
    """Order of axes that needs no turning, as they are if there is none.

    Axes along which a chunk has one number may stand anywhere: they stand in front, in their own order. What is left is
    to find the chunks of a shard where they are: in the order of those axes along which a shard has several.
    """
    same = tuple(range(array.ndim))
    codec = next((codec for codec in array.filters if isinstance(codec, TransposeCodec)), None)
    if codec is None:
        return same
    chunk = array.chunks
    axes = (*(axis for axis in same if chunk[axis] == 1), *(axis for axis in codec.order if chunk[axis] > 1))
    several = [axis for axis in axes if array.shards is not None and array.shards[axis] > chunk[axis]]
    return axes if several == sorted(several) else same


def _turned(array: "zarr.Array[Any]", axes: tuple[int, ...]) -> "zarr.Array[Any]":
    """Open the files of `array` with its axes in another order, and without the codec that turns them."""

    def turn(lengths: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(lengths[axis] for axis in axes)

    old = array.metadata
    codecs: list[Any] = []
    for codec in old.codecs:
        if isinstance(codec, ShardingCodec):
            inner = [own for own in codec.codecs if not isinstance(own, TransposeCodec)]
            codecs.append(
                ShardingCodec(
                    chunk_shape=turn(codec.chunk_shape),
                    codecs=inner,
                    index_codecs=codec.index_codecs,
                    index_location=codec.index_location,
                )
            )
        elif not isinstance(codec, TransposeCodec):
            codecs.append(codec)
    metadata = replace(
        old,
        shape=turn(old.shape),
        chunk_grid=RegularChunkGrid(chunk_shape=turn(array.shards or array.chunks)),
        chunk_key_encoding=_TurnedKeys(old.chunk_key_encoding, axes),
        codecs=codecs,
        dimension_names=None if old.dimension_names is None else [old.dimension_names[axis] for axis in axes],
    )
    return zarr.Array(zarr.AsyncArray(metadata, array.store_path))


@dataclass(frozen=True)
class _TurnedKeys(ChunkKeyEncoding):  # type: ignore[misc]  # zarr is not typed for us
    """File names of chunks that are counted with the axes in another order."""

    name: ClassVar[str] = "turned"
    own: ChunkKeyEncoding = field(default_factory=DefaultChunkKeyEncoding)
    axes: tuple[int, ...] = ()

    def encode_chunk_key(self, chunk_coords: tuple[int, ...]) -> str:
        """Give the name of a chunk's file."""
        own = tuple(chunk_coords[self.axes.index(axis)] for axis in range(len(self.axes)))
        return str(self.own.encode_chunk_key(own))

"""Metadata documents of arrays: made by zarr, and checked before anything of their size is read or made."""

import json
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeGuard

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore, StorePath

from attlas.schemas.codecs import codecs
from attlas.schemas.variables import Variable

__all__ = ["array_document", "node_problems"]

LARGEST_CHUNK = 2**30
"""Raw bytes of the largest chunk or shard that is read."""

LARGEST_AXIS = 2**40

CODECS = ("transpose", "bytes", "vlen-utf8", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed")
"""Codecs that a store's arrays may have: those of the zarr specification that stock zarr reads."""

DTYPES = {
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
    "i1": "int8",
    "i4": "int32",
    "i8": "int64",
    "u1": "uint8",
    "bool": "bool",
    "str": "string",
}
"""zarr's name of each stored dtype."""


def array_document(
    variable: Variable,
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    shard: tuple[int, ...] | None = None,
    *,
    attributes: Mapping[str, Any] | None = None,
    fill: float | str | None = None,
) -> dict[str, Any]:
    """Return the metadata document of a stored array; `attributes` stand beside its description and units."""
    told: dict[str, Any] = {"description": variable.meaning, **({"units": variable.unit} if variable.unit else {})}
    if variable.scale != 1:
        # By the CF conventions: xarray multiplies by it.
        told["scale_factor"] = variable.scale
    made: dict[str, Any] = json.loads(_made(variable, shape, chunk, shard, variable.fill if fill is None else fill))
    return {**made, "attributes": {**told, **(attributes or {})}}


@lru_cache(maxsize=1024)
def _made(
    variable: Variable, shape: tuple[int, ...], chunk: tuple[int, ...], shard: tuple[int, ...] | None, fill: Any
) -> bytes:
    # One shard that is one chunk needs no index of its own.
    array = zarr.create_array(
        MemoryStore(),
        shape=shape,
        dtype=variable.dtype,
        chunks=tuple(max(1, size) for size in chunk),
        shards=None if shard is None or shard == chunk else tuple(max(1, size) for size in shard),
        fill_value=fill,
        dimension_names=variable.dims,
        **codecs(variable),
    )
    return bytes(array.metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"].to_bytes())


def node_problems(path: str, node: Any) -> Iterator[str]:
    """Say what is wrong with a metadata document by itself, one line each."""
    if not isinstance(node, dict) or node.get("zarr_format") != 3 or not isinstance(node.get("attributes", {}), dict):
        yield f"{path}: no metadata document of zarr 3"
        return
    kind = node.get("node_type")
    if kind == "group":
        return
    if kind != "array":
        yield f"{path}: node_type is {kind!r}; array or group is needed"
        return
    shape, dims = node.get("shape"), node.get("dimension_names")
    if not _sizes(shape, 0) or not isinstance(dims, list) or len(dims) != len(shape):
        yield f"{path}: shape {_shown(shape)} and dims {_shown(dims)} do not fit"
        return
    if not all(isinstance(dim, str) and dim.isidentifier() for dim in dims) or len(set(dims)) < len(dims):
        yield f"{path}: dims {_shown(dims)} are no different names"
        return
    dtype = node.get("data_type")
    if dtype not in DTYPES.values():
        yield f"{path}: dtype is {_shown(dtype)}; {', '.join(DTYPES.values())} are read"
        return
    problems = list(_layout_problems(path, node, len(shape), 8 if dtype == "string" else np.dtype(str(dtype)).itemsize))
    yield from problems or _zarr_problems(path, node)


def _zarr_problems(path: str, node: Mapping[str, Any]) -> Iterator[str]:
    """Say what zarr has against a document, which it reads by rules of its own."""
    try:
        zarr.AsyncArray.from_dict(StorePath(_NOTHING, path), dict(node))
    except (ValueError, TypeError, KeyError, AttributeError, LookupError, NotImplementedError, OverflowError) as err:
        yield f"{path}: zarr cannot read its metadata: {str(err)[:200]}"


_NOTHING = MemoryStore()


def _layout_problems(path: str, node: Mapping[str, Any], axes: int, itemsize: int) -> Iterator[str]:
    grid, keys = node.get("chunk_grid"), node.get("chunk_key_encoding")
    told = grid.get("configuration") if isinstance(grid, dict) else None
    block = told.get("chunk_shape") if isinstance(told, dict) else None
    if not isinstance(grid, dict) or grid.get("name") != "regular" or not _sizes(block, 1) or len(block) != axes:
        yield f"{path}: chunk grid {_shown(grid)} does not fit {axes} axes"
        return
    if math.prod(block) * itemsize > LARGEST_CHUNK:
        yield f"{path}: a chunk of {block} is larger than {LARGEST_CHUNK} bytes"
    if keys != {"name": "default", "configuration": {"separator": "."}}:
        yield f"{path}: chunk keys are {_shown(keys)}; the default ones with '.' are needed"
    if node.get("storage_transformers"):
        yield f"{path}: has storage transformers, which no store has"
    yield from _codec_problems(path, node.get("codecs"), 2)


def _codec_problems(path: str, chain: Any, depth: int) -> Iterator[str]:
    if not isinstance(chain, list) or not chain or not depth:
        yield f"{path}: codecs are {_shown(chain)}; a list of codecs is needed"
        return
    for codec in chain:
        name = codec.get("name") if isinstance(codec, dict) else codec
        if name not in CODECS or not isinstance(codec.get("configuration", {}), dict):
            yield f"{path}: codec {_shown(name)} is not read; {', '.join(CODECS)} are"
        elif name == "sharding_indexed":
            held = codec.get("configuration", {})
            if not _sizes(held.get("chunk_shape"), 1):
                yield f"{path}: shards have chunks of {_shown(held.get('chunk_shape'))}"
            yield from _codec_problems(path, held.get("codecs"), depth - 1)
            yield from _codec_problems(path, held.get("index_codecs"), depth - 1)


def _sizes(value: Any, least: int) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(size, int) and not isinstance(size, bool) and least <= size <= LARGEST_AXIS for size in value
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."

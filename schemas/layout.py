"""Shapes, chunks, shards and bytes of a leaf: pure arithmetic, no input or output.

One shard holds one run and is written once; no two writers share one. Of attention itself, Q, K and V it holds a block
of t and one layer, all heads, and all branches that come in one pass of the denoiser. Summaries and logsumexp put all
layers in a shard, so that a run does not become many small files.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from attlas.schemas.leaf import Leaf, leaf_names
from attlas.schemas.variables import Variable

__all__ = ["ArrayLayout", "Leaf", "array_layout", "leaf_names"]

SHARD_BYTES = 4 * 2**20
"""Raw bytes that a shard of attention, Q, K or V aims at: the recorder holds about one per layer in memory."""

LEAF_BYTES = 24 * 2**20
"""Raw bytes that the open shards of one such array of a leaf aim at, all layers together."""

SUMMARY_BYTES = 32 * 2**20
"""Raw bytes of a shard of `g2r`, `r2g` or `logsumexp`, which the recorder holds in memory while its calls come.

It has all layers, of as many calls as fit.
"""

MEAN_BYTES = 64 * 2**20
"""Raw bytes of a shard of `attention_mean` or `attention_mean_r2g`: as many layers as fit.

The recorder fills it in the last call of a run, from sums that take twice as much and go as it fills.
"""

CHUNK_BYTES = 4 * 2**20
"""Raw bytes that a chunk aims at."""

MEAN_CHUNK_BYTES = 2**19
"""Raw bytes that a chunk of `attention_mean` aims at: some queries, all their heads and keys.

One patch of five layers is read in 3 ms then, and all of 64x64 queries with 77 keys in twice the time that chunks of
all queries need; chunks of 64 queries take 2 ms and four times as long.
"""

MEAN_QUERIES = 16
"""Least queries in a chunk of `attention_mean`, whatever their bytes."""


@dataclass(frozen=True)
class ArrayLayout:
    """Shape, inner chunk and shard of one array, all in the order of ``dims``."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    dtype: str

    @property
    def t_block(self) -> int:
        """Calls in a shard (1 where the array has no t)."""
        return self.shard[self.dims.index("t")] if "t" in self.dims else 1

    @property
    def layer_block(self) -> int:
        """Layers in a shard (1 where the array has no layer)."""
        return self.shard[self.dims.index("layer")] if "layer" in self.dims else 1

    @property
    def branch_block(self) -> int:
        """Guidance branches in a shard (1 where the array has no branch)."""
        return self.shard[self.dims.index("branch")] if "branch" in self.dims else 1

    @property
    def shards(self) -> int:
        """Number of shards of the whole array."""
        return math.prod(-(-size // own) for size, own in zip(self.shape, self.shard, strict=True))

    @property
    def shard_bytes(self) -> int:
        """Raw bytes of one whole shard."""
        return math.prod(self.shard) * np.dtype(self.dtype).itemsize


def array_layout(variable: Variable, sizes: Mapping[str, int]) -> ArrayLayout:
    """Layout of one array of a leaf that each run has.

    Shards of attention, Q, K and V grow over t up to `SHARD_BYTES` (to twice as much where the leaf has few layers),
    those of summaries over layers and t up to `SUMMARY_BYTES`, those of means over layers up to `MEAN_BYTES`. Chunks
    keep branches and layers apart and never split heads or keys, nor queries but those of means. Where branches have
    shards of their own, the recorder holds as much at a time, in more shards.
    """
    dims = variable.dims
    shard = {dim: sizes[dim] for dim in dims} | {"run": 1}
    if variable.group == "always":
        return _layout(variable, sizes, shard, shard)
    # Shards of several calls are open side by side for all branches, those of one call one after the other.
    call = _bytes(variable, shard, but="t")
    if variable.apart:
        shard["branch"] = 1
    layer = _bytes(variable, shard, but="t") // sizes["layer"]
    if variable.group == "mean":
        shard["layer"] = _even_block(sizes["layer"], max(1, MEAN_BYTES // layer))
    elif variable.group in ("summary", "full"):
        shard["t"] = _even_block(sizes["t"], max(1, SUMMARY_BYTES // call))
        shard["layer"] = _even_block(sizes["layer"], max(1, SUMMARY_BYTES // (layer * shard["t"])))
    else:
        shard["layer"] = 1
        if "t" in dims:
            shard["t"] = _even_block(sizes["t"], max(1, _shard_bytes(sizes["layer"]) * sizes["layer"] // call))
    chunk = shard | {"branch": 1, "layer": 1}
    one = _bytes(variable, chunk, but="t")
    if variable.group == "mean":
        chunk["query"] = _mean_queries(sizes["query"], one)
        shard["query"] = chunk["query"] * math.ceil(sizes["query"] / chunk["query"])
    elif "t" in dims:
        chunk["t"] = _divisor(shard["t"], max(1, CHUNK_BYTES // one))
    return _layout(variable, sizes, chunk, shard)


def _bytes(variable: Variable, block: Mapping[str, int], *, but: str) -> int:
    """Raw bytes of a block, or of one place along the axis `but`."""
    return math.prod(block[dim] for dim in variable.dims if dim != but) * np.dtype(variable.dtype).itemsize


def _layout(
    variable: Variable, sizes: Mapping[str, int], chunk: Mapping[str, int], shard: Mapping[str, int]
) -> ArrayLayout:
    shape, inner, outer = (tuple(own[dim] for dim in variable.dims) for own in (sizes, chunk, shard))
    return ArrayLayout(variable.dims, shape, inner, outer, variable.dtype)


def _mean_queries(queries: int, size: int) -> int:
    """Choose the queries of a chunk of a mean; one of all of them would have `size` bytes.

    They divide their number where such a one is not too small, so that no chunk reaches past the end.
    """
    room = max(MEAN_QUERIES, MEAN_CHUNK_BYTES * queries // size)
    found = _divisor(queries, room)
    return found if found >= min(MEAN_QUERIES, queries) else room


def _shard_bytes(layers: int) -> int:
    """Bytes of a shard: a leaf of few layers has larger ones, which compress better, for the same memory in all."""
    return min(2 * SHARD_BYTES, max(SHARD_BYTES, LEAF_BYTES // layers))


def _even_block(total: int, room: int) -> int:
    """Smallest block that needs no more blocks than `room` does, so that the last block is not a crumb."""
    if room >= total:
        return total
    return math.ceil(total / math.ceil(total / room))


def _divisor(total: int, limit: int) -> int:
    """Largest divisor of `total` that is at most `limit` (a shard must be a whole number of chunks)."""
    return max(d for d in range(1, total + 1) if total % d == 0 and d <= limit)

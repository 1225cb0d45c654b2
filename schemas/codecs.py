"""Which zarr codecs each array has; the one place that knows zarr's codec API.

Only codecs of the zarr specification that zarr-python reads by default. Figures: docs/performance.md.
"""

from typing import Any, Literal

import numpy as np
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec

from attlas.schemas.variables import Variable

__all__ = ["codecs"]

LEVEL = 1
"""Level of zstd: 5 costs five times the time of the writer."""

BLOCK = 2**20
"""Bytes that blosc shuffles and compresses together; level 1 in these is smaller than level 5 in blosc's own."""

Shuffle = Literal["bitshuffle", "shuffle", "noshuffle"]


def codecs(variable: Variable) -> dict[str, Any]:
    """Keyword arguments for `zarr.create_array` that choose filters, compressors and file names of `variable`.

    Before compression t is put last, because neighbouring calls are alike, and queries (keys, where there are no
    queries) before it, because neighbours in the picture are; every key and channel has a level of its own. Then
    blosc shuffles: bits, but bytes of Q and K, whose low bits are noise.
    Every chunk ends in a CRC-32C, because neither blosc nor plain zstd notices a flipped bit. Names of files have a dot
    between their numbers, so that an array is one folder and not a tree of them.
    """
    order = _order(variable.dims)
    blosc = BloscCodec(cname="zstd", clevel=LEVEL, shuffle=_shuffle(variable), blocksize=BLOCK)
    return {
        "filters": [] if order == sorted(order) else [TransposeCodec(order=tuple(order))],
        "compressors": [blosc, Crc32cCodec()],
        "chunk_key_encoding": {"name": "default", "separator": "."},
    }


def _order(dims: tuple[str, ...]) -> list[int]:
    """Axes in the order in which they are compressed."""
    last = ["query" if "query" in dims else "key", "t"]
    return [dims.index(dim) for dim in (*(d for d in dims if d not in last), *(d for d in last if d in dims))]


def _shuffle(variable: Variable) -> Shuffle:
    if variable.dtype == "str" or np.dtype(variable.dtype).itemsize == 1:
        return "noshuffle"
    return "shuffle" if "channel" in variable.dims else "bitshuffle"

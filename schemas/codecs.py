"""Named precisions turned into zarr codecs; the one place that knows zarr's codec API.

Rounding happens on the array before it is written, not in a codec: bits that were set to zero compress away
under any stock codec, so that stock zarr reads every store and no codec outside the zarr specification is needed.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec

from attlas.schemas.errors import unknown_name
from attlas.schemas.variables import PRECISIONS, Variable

__all__ = ["KEEP_BITS", "codecs", "round_mantissa"]

KEEP_BITS: dict[str, dict[str, int]] = {
    "exact": {"log_attention": 10, "query_vectors": 10, "key_vectors": 10, "logsumexp": 13},
    "balanced": {"log_attention": 6, "query_vectors": 6, "key_vectors": 6, "logsumexp": 12},
    "small": {"log_attention": 4, "query_vectors": 4, "key_vectors": 4, "logsumexp": 10},
}
"""Explicit mantissa bits that each precision keeps (float16 has 10, float32 has 23); others are kept whole."""

LEVEL = 1
"""Level of zstd: 5 costs five times the time of the writer."""

BLOCK = 2**20
"""Bytes that blosc shuffles and compresses together; level 1 in these is smaller than level 5 in blosc's own."""

_MANTISSA = {"float16": (10, np.uint16), "float32": (23, np.uint32)}


def round_mantissa(values: NDArray[Any], variable: str, precision: str) -> NDArray[Any]:
    """`values` with the mantissa rounded to the bits that `precision` keeps for `variable`.

    Rounds to nearest, ties to even; relative error at most ``2**-(bits + 1)``. Same shape and dtype; NaN and
    infinities stay as they are; a value whose rounding would overflow keeps its bits.

    Examples
    --------
    >>> round_mantissa(np.array([1.01], "f2"), "log_attention", "small")
    array([1.], dtype=float16)
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    keep = KEEP_BITS[precision].get(variable)
    if keep is None or values.dtype.name not in _MANTISSA:
        return values
    total, unsigned = _MANTISSA[values.dtype.name]
    drop = total - keep
    if drop <= 0:
        return values
    bits = np.ascontiguousarray(values).view(unsigned)
    half = unsigned(2 ** (drop - 1) - 1)
    even = (bits >> unsigned(drop)) & unsigned(1)
    rounded = ((bits + half + even) >> unsigned(drop) << unsigned(drop)).view(values.dtype)
    return np.where(np.isfinite(values) & np.isfinite(rounded), rounded, values)


def codecs(variable: Variable) -> dict[str, Any]:
    """Keyword arguments for `zarr.create_array` that choose filters and compressors of `variable`.

    Attention arrays put t last before compression (neighbouring calls are alike), then blosc bitshuffle with
    zstd; every chunk ends in a CRC-32C, because neither blosc nor plain zstd notices a flipped bit.
    """
    shuffle: Literal["bitshuffle", "noshuffle"] = "noshuffle"
    filters = []
    if variable.dtype != "str":
        if np.dtype(variable.dtype).itemsize > 1:
            shuffle = "bitshuffle"
        if "t" in variable.dims and variable.dims[-1] != "t":
            order = [i for i, dim in enumerate(variable.dims) if dim != "t"] + [variable.dims.index("t")]
            filters.append(TransposeCodec(order=tuple(order)))
    blosc = BloscCodec(cname="zstd", clevel=LEVEL, shuffle=shuffle, blocksize=BLOCK)
    return {"filters": filters, "compressors": [blosc, Crc32cCodec()]}

"""Named precisions: on which grid each array's numbers lie, and the error that follows.

Numbers are rounded before they are written, not by a codec: zeros at the end of the mantissa compress away under
any stock codec, so that stock zarr reads every store and no codec outside the zarr specification is needed.

An error d of ln of the attention, or of a logit, is a relative error d of the attention. So the logarithm lies on
a grid of constant step, and Q and K on grids whose steps follow from each other's length, whatever the model's scale.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.schemas.errors import unknown_name
from attlas.schemas.variables import PRECISIONS

__all__ = ["ERROR", "GRIDS", "LOGIT_NOISE", "Grid", "round_factors", "round_values"]

ERROR = {"exact": 0.002, "balanced": 0.01, "small": 0.04}
"""L1 error of the attention, mean over rows, that a precision stays below in both directions.

In `exact`, numbers are what float16 makes of them: mostly below 0.001; more where ln of the attention lies below
-8, as that of thousands of keys that share one query does.
"""


@dataclass(frozen=True)
class Grid:
    """Numbers that a value is rounded to: the finer of a constant step and so many explicit mantissa bits."""

    step: float | None = None
    bits: int | None = None


GRIDS: dict[str, dict[str, Grid]] = {
    "exact": {
        "logsumexp": Grid(step=2.0**-11),
        "g2r": Grid(bits=16),
        "r2g": Grid(bits=16),
    },
    "balanced": {
        "log_attention": Grid(step=2.0**-5, bits=6),
        "logsumexp": Grid(step=2.0**-7),
        "g2r": Grid(bits=11),
        "r2g": Grid(bits=11),
        "attention_mean": Grid(bits=6),
        "attention_mean_r2g": Grid(bits=6),
    },
    "small": {
        "log_attention": Grid(step=2.0**-3, bits=4),
        "logsumexp": Grid(step=2.0**-5),
        "g2r": Grid(bits=9),
        "r2g": Grid(bits=9),
        "attention_mean": Grid(bits=4),
        "attention_mean_r2g": Grid(bits=4),
    },
}
"""Grid of each array; arrays that are not named keep their numbers."""

LOGIT_NOISE = {"balanced": 0.012, "small": 0.048}
"""Most root mean square error that rounded Q and K may add to a logit, in nat."""

_SMALLEST, _LARGEST = -24, 5
"""Powers of two between which every step of float16 lies: larger steps could round a number to infinity."""

_FLOAT32_BITS = 23

_BLOCK = 2**15


def round_values(values: NDArray[Any], variable: str, precision: str) -> NDArray[Any]:
    """`values` of the array `variable`, float16 or float32, on the grid that `precision` has for it.

    Rounds to nearest, ties to even. Same shape and dtype; NaN and infinities stay as they are, and so does a number
    whose rounding would overflow. `query_vectors` and `key_vectors` stay: `round_factors` needs to see both.

    Examples
    --------
    >>> round_values(np.array([-0.04, -2.52, -9.1], "f2"), "log_attention", "small")
    array([-0.03906, -2.5    , -9.125  ], dtype=float16)
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    grid = GRIDS[precision].get(variable)
    if grid is None:
        return values
    if values.dtype == np.float16:
        return _look_up(values, _float16_table(grid))
    if grid.step is not None:
        return np.rint(values * np.float32(1 / grid.step)) * np.float32(grid.step)
    return values if grid.bits is None else _round_float32(values, grid.bits)


def round_factors(
    query: NDArray[np.float32], key: NDArray[np.float32], precision: str, *, keys_vary: bool, masked: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Q and K of one call on grids that keep the error of their logits below `LOGIT_NOISE`.

    The step of Q follows from the root mean square length of the keys of the same head, and that of K from the
    queries', so that the error is the same for every model, layer and head. Steps are powers of two.

    Parameters
    ----------
    query, key
        ``(..., token, channel)``, the scale inside `query`; leading axes (such as branch and head) have steps of
        their own.
    keys_vary
        Whether K is stored for every call. If not, K weighs little, and is not rounded: all of the error is Q's.
    masked
        Whether the last channel is the mask of the keys, which stays as it is.

    Returns
    -------
    Both in float32, unchanged where `precision` is ``exact``. NaN stays NaN.

    Examples
    --------
    >>> query, key = np.full((1, 4), 0.123, "f4"), np.ones((1, 4), "f4")
    >>> round_factors(query, key, "balanced", keys_vary=False)[0]
    array([[0.125, 0.125, 0.125, 0.125]], dtype=float32)
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    noise = LOGIT_NOISE.get(precision)
    if noise is None:
        return query, key
    if masked:
        rounded = round_factors(query[..., :-1], key[..., :-1], precision, keys_vary=keys_vary)
        return (
            np.concatenate([rounded[0], query[..., -1:]], axis=-1),
            np.concatenate([rounded[1], key[..., -1:]], axis=-1),
        )
    if not keys_vary:
        return _round_to(query, key, noise), key
    share = noise / np.sqrt(2)
    return _round_to(query, key, share), _round_to(key, query, share)


def _round_to(values: NDArray[np.float32], other: NDArray[np.float32], noise: float) -> NDArray[np.float32]:
    """`values` with steps that add `noise` to their dot products with `other`.

    An error that is uniform within a step has a root mean square of step / sqrt(12).
    """
    lengths = np.sqrt(np.einsum("...nc,...nc->...", other, other) / other.shape[-2])
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log2(noise * np.sqrt(12)) - np.log2(lengths))
    # NaN becomes the smallest step, which changes nothing.
    exponent = np.nan_to_num(np.clip(exponent, _SMALLEST, _LARGEST), nan=_SMALLEST).astype(np.int32)
    step = np.ldexp(np.float32(1), exponent)[..., None, None]
    rounded: NDArray[np.float32] = values * (1 / step)
    np.rint(rounded, out=rounded)
    rounded *= step
    return rounded


def _look_up(values: NDArray[np.float16], table: NDArray[np.uint16]) -> NDArray[np.float16]:
    """Entry of `table` for each value: there are only 65,536 float16 numbers, and their arithmetic is slow.

    numpy widens the indices to 8 bytes, so that blocks that fit the cache are much faster than the whole.
    """
    bits = np.ascontiguousarray(values).view(np.uint16).reshape(-1)
    rounded = np.empty_like(bits)
    for start in range(0, bits.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        np.take(table, bits[part], out=rounded[part], mode="wrap")
    return rounded.view(np.float16).reshape(values.shape)


@lru_cache
def _float16_table(grid: Grid) -> NDArray[np.uint16]:
    """Bits of the rounded number for the bits of every float16."""
    bits = np.arange(2**16, dtype=np.uint16)
    values = bits.view(np.float16).astype(np.float64)
    spacing = np.full(values.shape, np.inf)
    # NaN and infinities are among the numbers; they are put back below.
    with np.errstate(over="ignore", invalid="ignore"):
        if grid.bits is not None:
            spacing = np.ldexp(1.0, np.frexp(values)[1] - 1 - grid.bits)
        if grid.step is not None:
            spacing = np.minimum(spacing, grid.step)
        rounded = (np.rint(values / spacing) * spacing).astype(np.float16)
    return np.where(np.isfinite(values) & np.isfinite(rounded), rounded.view(np.uint16), bits)


def _round_float32(values: NDArray[np.float32], keep: int) -> NDArray[np.float32]:
    """`values` with `keep` explicit mantissa bits; in blocks, as every pass over them makes another array."""
    drop = np.uint32(_FLOAT32_BITS - keep)
    half = np.uint32(2 ** (int(drop) - 1) - 1)
    given = np.ascontiguousarray(values).reshape(-1)
    made = np.empty_like(given)
    for start in range(0, given.size, _BLOCK):
        own = given[start : start + _BLOCK]
        bits = own.view(np.uint32)
        even = (bits >> drop) & np.uint32(1)
        rounded = ((bits + half + even) >> drop << drop).view(np.float32)
        made[start : start + _BLOCK] = np.where(np.isfinite(own) & np.isfinite(rounded), rounded, own)
    return made.reshape(values.shape)

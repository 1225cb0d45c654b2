"""Attention from logits or factors: torch blocks without labels, on any device, always in float32.

Shapes are written ``(..., query, key)``; whatever stands before broadcasts. ``logits`` are
``Q_scaled K^T`` plus the mask. g2r is the softmax over keys, r2g the softmax over queries of the same logits
(I2AM eq. 6). A key that no query may see (a column of -inf) has r2g 0; NaN anywhere in a row or column stays NaN.
Where some keys are not kept, g2r is not the softmax of what is left: ``normalised`` logits are ln of the attention.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = [
    "attention",
    "block_elements",
    "blocks",
    "logits_from_factors",
]

UNDERFLOW = 1e-25
"""A row or column sum of the shared exponential below this has lost digits (float32 ends near 1e-38)."""

BLOCK_ELEMENTS = 5 * 2**18
"""Logits computed at a time, 5 MiB in float32: read again from a cache, and so many that torch's calls cost little."""

DEVICE_ELEMENTS = 2**25
"""The same on an accelerator, 128 MiB: small blocks would leave it idle between launches."""


def logits_from_factors(query_vectors: Tensor, key_vectors: Tensor) -> Tensor:
    """Logits ``(..., query, key)`` in float32 from Q ``(..., query, channel)`` and K ``(..., key, channel)``."""
    return query_vectors.float() @ key_vectors.float().transpose(-1, -2)


def attention(logits: Tensor, direction: str, *, normalised: bool = False) -> Tensor:
    """Softmax of `logits` over keys (``g2r``: rows sum to 1) or over queries (``r2g``: columns sum to 1).

    ``normalised``: they are ln of the softmax already.
    """
    if normalised:
        return logits.exp_()
    axis = _softmax_axis(direction)
    exponential, total = _exponential(logits, axis)
    return exponential.mul_(_reciprocal(total).unsqueeze(axis))


def block_elements(device: torch.device | str) -> int:
    """Logits that are computed at a time on `device`."""
    return BLOCK_ELEMENTS if torch.device(device).type == "cpu" else DEVICE_ELEMENTS


def blocks(matrices: int, queries: int, keys: int, device: torch.device | str = "cpu") -> Iterator[slice]:
    """Slices over a flat stack of `matrices`, so that no more than about a block of logits exists at a time."""
    step = max(1, block_elements(device) // (queries * keys))
    for start in range(0, matrices, step):
        yield slice(start, min(start + step, matrices))


def _softmax_axis(direction: str) -> int:
    return -1 if direction == "g2r" else -2


def _exponential(logits: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """exp(S - max) along `axis`, in place, and its sums: the largest entry of each line is 1, so none underflows."""
    top = logits.amax(axis, keepdim=True)
    # A line of -inf only (a masked key) would give inf - inf.
    exponential = logits.sub_(torch.where(top == -torch.inf, 0.0, top)).exp_()
    return exponential, exponential.sum(axis)


def _reciprocal(total: Tensor) -> Tensor:
    return torch.where(total == 0, 0.0, total.reciprocal())

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
    "direction_mean",
    "logits_from_factors",
    "logits_from_log_attention",
]

UNDERFLOW = 1e-25
"""A row or column sum of the shared exponential below this has lost digits (float32 ends near 1e-38)."""

BLOCK_ELEMENTS = 2**20
"""Logits computed at a time, 4 MiB in float32: read again from a cache, and so many that torch's calls cost little."""

DEVICE_ELEMENTS = 2**25
"""The same on an accelerator, 128 MiB: small blocks would leave it idle between launches."""


def logits_from_factors(query_vectors: Tensor, key_vectors: Tensor) -> Tensor:
    """Logits ``(..., query, key)`` in float32 from Q ``(..., query, channel)`` and K ``(..., key, channel)``."""
    return query_vectors.float() @ key_vectors.float().transpose(-1, -2)


def logits_from_log_attention(log_attention: Tensor, logsumexp: Tensor) -> Tensor:
    """Logits in float32 from ln of the softmax over keys and the logsumexp ``(..., query)`` of its rows."""
    return log_attention.float() + logsumexp.float().unsqueeze(-1)


def attention(logits: Tensor, direction: str, *, normalised: bool = False) -> Tensor:
    """Softmax of `logits` over keys (``g2r``: rows sum to 1) or over queries (``r2g``: columns sum to 1).

    ``normalised``: they are ln of the softmax already.
    """
    if normalised:
        return logits.exp_()
    axis = _softmax_axis(direction)
    exponential, total = _exponential(logits, axis)
    return exponential.mul_(_reciprocal(total).unsqueeze(axis))


def direction_mean(
    logits: Tensor, direction: str, onto: str, weights: Tensor | None = None, *, normalised: bool = False
) -> Tensor:
    """Weighted mean of the attention over the axis that is not kept; one exponential, no attention matrix.

    Parameters
    ----------
    logits
        ``(..., query, key)``; overwritten.
    direction
        ``g2r`` or ``r2g``: the softmax's axis.
    onto
        ``key`` averages over queries and keeps keys; ``query`` the other way.
    weights
        ``(..., n)`` along the averaged axis, not negative; they are divided by their sum, so that all
        zeros give NaN. None weighs all alike.
    normalised
        Whether `logits` are ln of the attention already.

    Returns
    -------
    ``(..., key)`` or ``(..., query)``, float32.
    """
    shape = (*logits.shape[:-2], logits.shape[-2 if onto == "key" else -1])
    return _weighted_sum(logits, direction, onto, _share(weights, shape, logits.device), normalised)


def block_elements(device: torch.device | str) -> int:
    """Logits that are computed at a time on `device`."""
    return BLOCK_ELEMENTS if torch.device(device).type == "cpu" else DEVICE_ELEMENTS


def blocks(matrices: int, queries: int, keys: int, device: torch.device | str = "cpu") -> Iterator[slice]:
    """Slices over a flat stack of `matrices`, so that no more than about a block of logits exists at a time."""
    step = max(1, block_elements(device) // (queries * keys))
    for start in range(0, matrices, step):
        yield slice(start, min(start + step, matrices))


def _share(weights: Tensor | None, shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    """Weights divided by their sum."""
    if weights is None:
        return torch.full(shape, 1 / shape[-1], dtype=torch.float32, device=device)
    own = weights.to(device=device, dtype=torch.float32)
    return (own / own.sum(-1, keepdim=True)).expand(shape)


def _weighted_sum(logits: Tensor, direction: str, onto: str, share: Tensor, normalised: bool) -> Tensor:
    """Sum of the attention over the axis that is not `onto`, weighted by `share`; overwrites `logits`."""
    softmax = _softmax_axis(direction)
    averaged = -2 if onto == "key" else -1
    if normalised:
        return _contract(logits.exp_(), share, averaged)
    exponential, total = _exponential(logits, softmax)
    if averaged == softmax:
        return _contract(exponential, share, averaged).mul_(_reciprocal(total))
    return _contract(exponential, share * _reciprocal(total), averaged)


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


def _contract(matrix: Tensor, vector: Tensor, axis: int) -> Tensor:
    """Sum of `matrix` times `vector` over `axis` (-2 or -1)."""
    if axis == -2:
        return (vector.unsqueeze(-2) @ matrix).squeeze(-2)
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)

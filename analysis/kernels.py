"""Attention from logits or factors: torch blocks without labels, on any device, always in float32.

Shapes are written ``(..., query, key)``; whatever stands before broadcasts. ``logits`` are
``Q_scaled K^T`` plus the mask. g2r is the softmax over keys, r2g the softmax over queries of the same logits
(I2AM eq. 6). A key that no query may see (a column of -inf) has r2g 0; NaN anywhere in a row or column stays NaN.
Where some keys are not kept, g2r is not the softmax of what is left: ``normalised`` logits are ln of the attention.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = [
    "attention",
    "blocks",
    "direction_mean",
    "direction_means",
    "logits_from_factors",
    "logits_from_log_attention",
    "tiled_mean",
]

UNDERFLOW = 1e-25
"""A row or column sum of the shared exponential below this has lost digits (float32 ends near 1e-38)."""

BLOCK_ELEMENTS = 2**19
"""Logits computed at a time, 2 MiB in float32: what a core's cache holds while they are read again."""


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


def tiled_mean(
    logits_of: Callable[[slice], Tensor],
    shape: tuple[int, int, int],
    direction: str,
    onto: str,
    weights: Tensor | None,
    device: torch.device | str,
    *,
    normalised: bool = False,
) -> Tensor:
    """`direction_mean` of ``shape`` (matrices, queries, keys) without ever holding them whole.

    ``logits_of(tile)`` computes the logits of some queries (g2r) or keys (r2g): the softmax runs along the other axis,
    so that tiles do not depend on each other.
    """
    count, queries, keys = shape
    size, other = (queries, keys) if direction == "g2r" else (keys, queries)
    share = _share(weights, (count, queries if onto == "key" else keys), device)
    summed = (direction, onto) in (("g2r", "key"), ("r2g", "query"))
    step = max(1, BLOCK_ELEMENTS // (count * other))
    parts = []
    for start in range(0, size, step):
        tile = slice(start, min(start + step, size))
        own = share[..., tile] if summed else share
        parts.append(_weighted_sum(logits_of(tile), direction, onto, own, normalised))
    return torch.stack(parts).sum(0) if summed else torch.cat(parts, -1)


def direction_means(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Means of both directions, g2r ``(..., key)`` and r2g ``(..., query)``, from one shared exponential.

    With ``E = exp(S - max)``, ``r = E 1`` and ``c = E^T 1``: ``g2r = E^T (1/r) / n_query`` and
    ``r2g = E (1/c) / n_key``. A matrix with a row or column far below its maximum, whose sum underflows, is
    done by two softmaxes instead.
    """
    queries, keys = logits.shape[-2:]
    flat = logits.reshape(-1, queries, keys)
    top = flat.amax((-2, -1), keepdim=True)
    exponential = torch.exp(flat - torch.where(top.isinf(), 0.0, top))
    rows, columns = exponential.sum(-1), exponential.sum(-2)
    g2r = _contract(exponential, rows.reciprocal(), -2) / queries
    r2g = _contract(exponential, columns.reciprocal(), -1) / keys
    safe = (rows.amin(-1) > UNDERFLOW) & (columns.amin(-1) > UNDERFLOW)
    for index in torch.nonzero(~safe).flatten().tolist():
        g2r[index] = direction_mean(flat[index].clone(), "g2r", "key")
        r2g[index] = direction_mean(flat[index].clone(), "r2g", "query")
    lead = logits.shape[:-2]
    return g2r.reshape(*lead, keys), r2g.reshape(*lead, queries)


def blocks(matrices: int, queries: int, keys: int) -> Iterator[slice]:
    """Slices over a flat stack of `matrices`, so that no more than about `BLOCK_ELEMENTS` logits exist at a time."""
    step = max(1, BLOCK_ELEMENTS // (queries * keys))
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

"""Attention from Q and K in torch, in blocks that stay small: its logarithm, its normaliser, its two means.

With S = Q K^T (scale inside Q) of one head: g2r is the softmax of S over keys, r2g over queries. Their means share one
exponential: E = exp(S - max S), r = E 1, c = E^T 1; mean over queries of g2r = E^T (1 / r) / n_query, and mean over
keys of r2g = E (1 / c) / n_key. Where a row lies so far below the maximum that its sum underflows, that head is
computed again with a maximum of its own for every row and column.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Encoded", "encode"]

BLOCK = 2**19
"""Elements of S in flight: 2 MiB of float32, so that the passes over it stay in cache."""

SMALLEST = 1e-25
"""Sums below this have lost digits in float32: their terms come near the smallest normal number, 1e-38."""


@dataclass
class Encoded:
    """Arrays of a batch of heads, first axis the head.

    ``log_attention`` (head, query, key) float16 or None; ``logsumexp`` (head, query), ``g2r`` (head, key) and
    ``r2g`` (head, query) float32.
    """

    log_attention: Tensor | None
    logsumexp: Tensor
    g2r: Tensor
    r2g: Tensor


def encode(query: Tensor, key: Tensor, mask: Tensor | None, *, dense: bool, total: Tensor | None = None) -> Encoded:
    """Compute ln of the attention, its normaliser and both means.

    Parameters
    ----------
    query, key
        float32 (head, query, channel) and (head, key, channel); the scale is inside `query`.
    mask
        None, or added to the logits: float32, broadcasts to (head, query, key); -inf takes a key out.
    dense
        Whether ``log_attention`` is wanted.
    total
        Where given, float32 (head, query, key): the attention is added to it.

    Returns
    -------
    NaN in Q or K gives NaN. A key that is masked for every query has no softmax over queries and counts as 0 in
    ``r2g``.

    Examples
    --------
    >>> out = encode(torch.zeros(1, 2, 4), torch.ones(1, 4, 4), None, dense=True)
    >>> out.g2r.tolist(), out.r2g.tolist()
    ([[0.25, 0.25, 0.25, 0.25]], [[0.5, 0.5]])
    """
    heads, queries, keys = query.shape[0], query.shape[1], key.shape[1]
    out = Encoded(
        torch.empty(heads, queries, keys, dtype=torch.float16) if dense else None,
        torch.empty(heads, queries),
        torch.empty(heads, keys),
        torch.empty(heads, queries),
    )
    step = max(1, BLOCK // (queries * keys))
    for start in range(0, heads, step):
        part = slice(start, start + step)
        logits = torch.bmm(query[part], key[part].transpose(1, 2))
        if mask is not None:
            logits += mask if mask.shape[0] == 1 else mask[part]
        _encode_block(logits, out, part, None if total is None else total[part])
    return out


def _encode_block(logits: Tensor, out: Encoded, part: slice, total: Tensor | None) -> None:
    """Fill `out` for the heads of `part`; `logits` is used up."""
    queries, keys = logits.shape[1:]
    top = logits.amax(dim=(1, 2), keepdim=True)
    attention = torch.exp(logits - top)
    rows, columns = attention.sum(2), attention.sum(1)
    # Written so that NaN, too, takes the exact way.
    if not (bool((rows > SMALLEST).all()) and bool((columns > SMALLEST).all())):
        _encode_exactly(logits, out, part, total)
        return
    logsumexp = rows.log().add_(top[..., 0])
    out.logsumexp[part] = logsumexp
    over_rows = rows.reciprocal_()
    out.g2r[part] = torch.bmm(over_rows[:, None], attention)[:, 0] / queries
    out.r2g[part] = torch.bmm(attention, columns.reciprocal_()[..., None])[..., 0] / keys
    if total is not None:
        total += attention.mul_(over_rows[..., None])
    if out.log_attention is not None:
        out.log_attention[part] = logits.sub_(logsumexp[..., None])


def _encode_exactly(logits: Tensor, out: Encoded, part: slice, total: Tensor | None) -> None:
    """Do the same with one softmax for each direction."""
    out.logsumexp[part] = logits.logsumexp(2)
    log_attention = logits.log_softmax(2)
    attention = log_attention.exp()
    out.g2r[part] = attention.mean(1)
    gone = torch.isneginf(logits).all(1, keepdim=True)
    out.r2g[part] = logits.softmax(1).masked_fill(gone, 0.0).mean(2)
    if total is not None:
        total += attention
    if out.log_attention is not None:
        out.log_attention[part] = log_attention

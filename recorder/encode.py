"""Attention from Q and K in torch, in blocks that stay small: its logarithm, its normaliser, its two means.

With S = Q K^T (scale inside Q) of one head: g2r is the softmax of S over keys, r2g over queries. Their means share one
exponential: E = exp(S), r = E 1, c = E^T 1; mean over queries of g2r = E^T (1 / r) / n_query, and mean over keys of
r2g = E (1 / c) / n_key. The maximum of S is taken off first only where the norms of Q and K allow an overflow. Where a
row or column lies so far below the rest that its sum underflows, it is computed again with a maximum of its own.

Logits are in base 2 until they leave: ``exp2`` takes half the time of ``exp``, and ln 2 goes into Q.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Encoded", "encode"]

BLOCK = 2**19
"""Elements of S in flight: 2 MiB of float32, so that the passes over it stay in cache."""

WHOLE = 2**24
"""Elements of S of a head that are kept (64 MiB) for its softmax over queries; more are computed a second time."""

SMALLEST = 1e-25
"""Sums below this have lost digits in float32: their terms come near the smallest normal number, 1e-38."""

HIGHEST = 80.0
"""Base-2 logits up to this need no maximum taken off: 2**80 times a million is well inside float32."""

LOG2_E = 1 / math.log(2)
LN_2 = math.log(2)


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


def encode(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    *,
    dense: bool | Tensor,
    totals: tuple[Tensor, Tensor] | None = None,
    rest: Tensor | None = None,
) -> Encoded:
    """Compute ln of the attention, its normaliser and both means.

    Parameters
    ----------
    query, key
        (head, query, channel) and (head, key, channel), computed with in float32; the scale is inside `query`.
    mask
        None, or added to the logits: float32, broadcasts to (head, query, key); -inf takes a key out.
    dense
        Whether ``log_attention`` is wanted; or where to put it, float16 (head, query, key).
    totals
        Where given, two of float32 (head, query, key): the softmax over keys is added to the first, that over queries
        to the second.
    rest
        Where given, (head, key, channel): keys that the softmax over keys counts, and that nothing is kept of. The
        mask says nothing of them.

    Returns
    -------
    NaN in Q or K gives NaN. A key that is masked for every query has no softmax over queries and counts as 0 in
    ``r2g`` and in the second of `totals`.

    Examples
    --------
    >>> out = encode(torch.zeros(1, 2, 4), torch.ones(1, 4, 4), None, dense=True)
    >>> out.g2r.tolist(), out.r2g.tolist()
    ([[0.25, 0.25, 0.25, 0.25]], [[0.5, 0.5]])
    >>> encode(torch.zeros(1, 2, 4), torch.ones(1, 3, 4), None, dense=False, rest=torch.ones(1, 1, 4)).g2r.tolist()
    [[0.25, 0.25, 0.25]]
    """
    heads, queries, keys = query.shape[0], query.shape[1], key.shape[1]
    log_attention = dense if isinstance(dense, Tensor) else None
    if dense is True:
        log_attention = torch.empty(heads, queries, keys, dtype=torch.float16)
    out = Encoded(
        log_attention,
        torch.empty(heads, queries),
        torch.zeros(heads, keys),
        torch.empty(heads, queries),
    )
    step = max(1, BLOCK // (queries * (keys + (0 if rest is None else rest.shape[1]))))
    memory = _Memory.reserve(min(step, heads), queries, keys, log_attention is not None, rest)
    for start in range(0, heads, step):
        part = slice(start, start + step)
        group = _Heads(
            query[part].float() * LOG2_E,
            key[part].float(),
            None if rest is None else rest[part].float(),
            None if mask is None else (mask if mask.shape[0] == 1 else mask[part]) * LOG2_E,
            Encoded(
                None if log_attention is None else log_attention[part],
                out.logsumexp[part],
                out.g2r[part],
                out.r2g[part],
            ),
            None if totals is None else (totals[0][part], totals[1][part]),
            memory,
        )
        group.encode()
    return out


@dataclass
class _Memory:
    """Room that every group of heads uses again: fresh memory costs as much as a pass over it."""

    exponential: Tensor
    logits: Tensor | None
    rest: Tensor | None
    rows: int

    @classmethod
    def reserve(cls, heads: int, queries: int, keys: int, dense: bool, rest: Tensor | None) -> "_Memory":
        others = 0 if rest is None else rest.shape[1]
        rows = max(1, min(queries, BLOCK // (keys + others)))
        # One block is kept for the softmax over queries in any case.
        whole = queries if queries * keys <= WHOLE else rows
        return cls(
            torch.empty(heads * whole * keys),
            torch.empty(heads * rows * keys) if dense else None,
            torch.empty(heads * rows * others) if others else None,
            rows,
        )


@dataclass
class _Heads:
    """A few heads, encoded in blocks of queries; what comes out goes into views of the caller's arrays."""

    query: Tensor
    key: Tensor
    rest: Tensor | None
    mask: Tensor | None
    out: Encoded
    totals: tuple[Tensor, Tensor] | None
    memory: _Memory

    def encode(self) -> None:
        """Fill `out` and add to `totals`."""
        queries, keys = self.query.shape[1], self.key.shape[1]
        kept = queries * keys <= WHOLE or self.memory.rows >= queries
        shifted = not self._bound() <= HIGHEST
        columns = torch.zeros_like(self.out.g2r)
        highest = torch.full((len(columns), 1), -torch.inf)
        tops: list[Tensor] = []
        exact = False
        for rows in self._blocks():
            exponential, top = self._over_keys(rows, shifted, kept)
            if exponential is None:
                exact = True
                continue
            before, highest = highest, torch.maximum(highest, top)
            ones = exponential.new_ones(1, 1, 1).expand(len(columns), 1, exponential.shape[1])
            sums = torch.bmm(ones, exponential)[:, 0]
            columns = columns * torch.exp2(before - highest) + sums * torch.exp2(top - highest)
            tops.append(top)
        self.out.g2r.div_(queries)
        columns.masked_fill_(self._absent(), torch.inf)
        # Written so that NaN, too, takes the exact way.
        if exact or not bool((columns > SMALLEST).all()):
            highest, columns = self._columns_exactly()
            kept = False
        over_columns = columns.reciprocal_()
        for number, rows in enumerate(self._blocks()):
            if kept:
                exponential, scales = self._room(rows, kept), torch.exp2(tops[number] - highest)
            else:
                exponential, scales = self._logits(rows, self._room(rows, kept)), torch.ones(len(columns), 1)
                exponential.sub_(highest[:, None]).exp2_()
            weights = over_columns * scales
            if self.totals is not None:
                self.totals[1][:, rows].addcmul_(exponential, weights[:, None])
            means = [torch.mv(*pair) for pair in zip(exponential, weights / keys, strict=True)]
            self.out.r2g[:, rows] = torch.stack(means)

    def _over_keys(self, rows: slice, shifted: bool, kept: bool) -> tuple[Tensor | None, Tensor]:
        """Do all that has to do with the softmax over keys; return E and the maximum that was taken off.

        E is None where a row underflowed.
        """
        exponential = self._room(rows, kept)
        logits = exponential if self.memory.logits is None else _shaped(self.memory.logits, exponential.shape)
        self._logits(rows, logits)
        others = None if self.rest is None else self._others(rows, self.rest)
        top = torch.zeros(len(logits), 1)
        if shifted:
            top = logits.amax((1, 2))[:, None]
            top = top if others is None else torch.maximum(top, others.amax((1, 2))[:, None])
            logits.sub_(top[..., None])
            others = None if others is None else others.sub_(top[..., None])
        torch.exp2(logits, out=exponential)
        sums = exponential.sum(2)
        if others is not None:
            sums += others.exp2_().sum(2)
        if not bool((sums > SMALLEST).all()):
            self._over_keys_exactly(rows)
            return None, top
        logarithm = sums.log2()
        torch.mul(logarithm + top, LN_2, out=self.out.logsumexp[:, rows])
        over_sums = sums.reciprocal_()
        self.out.g2r += torch.bmm(over_sums[:, None], exponential)[:, 0]
        if self.totals is not None:
            self.totals[0][:, rows].addcmul_(exponential, over_sums[..., None])
        if self.out.log_attention is not None:
            self.out.log_attention[:, rows] = logits.sub_(logarithm[..., None]).mul_(LN_2)
        return exponential, top

    def _over_keys_exactly(self, rows: slice) -> None:
        """Do the same with a maximum for every row."""
        logits = self._logits(rows, self.query.new_empty(self._shape(rows))).mul_(LN_2)
        others = None if self.rest is None else self._others(rows, self.rest).mul_(LN_2)
        top = logits.amax(2)
        top = top if others is None else torch.maximum(top, others.amax(2))
        logsumexp = logits.sub_(top[..., None]).logsumexp(2)
        if others is not None:
            logsumexp = torch.logaddexp(logsumexp, others.sub_(top[..., None]).logsumexp(2))
        self.out.logsumexp[:, rows] = logsumexp + top
        log_attention = logits.sub_(logsumexp[..., None])
        if self.out.log_attention is not None:
            self.out.log_attention[:, rows] = log_attention
        attention = log_attention.exp_()
        self.out.g2r += attention.sum(1)
        if self.totals is not None:
            self.totals[0][:, rows] += attention

    def _columns_exactly(self) -> tuple[Tensor, Tensor]:
        """Give the highest logit of each key, and its sum over queries with that taken off."""
        highest = torch.full_like(self.out.g2r, -torch.inf)
        columns = torch.zeros_like(highest)
        for rows in self._blocks():
            logits = self._logits(rows, self._room(rows, kept=False))
            before, highest = highest, torch.maximum(highest, logits.amax(1))
            # Finite for a key that nobody has seen yet, so that its differences are -inf and not NaN.
            base = highest.masked_fill(torch.isneginf(highest), 0.0)
            columns = columns * torch.exp2(before - base) + logits.sub_(base[:, None]).exp2_().sum(1)
        # A key that every query leaves out counts as 0.
        gone = torch.isneginf(highest)
        return highest.masked_fill_(gone, 0.0), columns.masked_fill_(gone, 1.0)

    def _blocks(self) -> Iterator[slice]:
        for start in range(0, self.query.shape[1], self.memory.rows):
            yield slice(start, min(start + self.memory.rows, self.query.shape[1]))

    def _shape(self, rows: slice) -> tuple[int, int, int]:
        return self.query.shape[0], rows.stop - rows.start, self.key.shape[1]

    def _room(self, rows: slice, kept: bool) -> Tensor:
        """Memory for E of some queries; each has its own where E is kept."""
        size = math.prod(self._shape(rows))
        start = rows.start * self.query.shape[0] * self.key.shape[1] if kept else 0
        return self.memory.exponential[start : start + size].view(self._shape(rows))

    def _logits(self, rows: slice, room: Tensor) -> Tensor:
        """S of some queries, in base 2."""
        torch.bmm(self.query[:, rows], self.key.transpose(1, 2), out=room)
        if self.mask is not None:
            room += self.mask if self.mask.shape[1] == 1 else self.mask[:, rows]
        return room

    def _others(self, rows: slice, rest: Tensor) -> Tensor:
        """S of some queries and the keys that are not kept, in base 2."""
        shape = (len(rest), rows.stop - rows.start, rest.shape[1])
        room = rest.new_empty(shape) if self.memory.rest is None else _shaped(self.memory.rest, shape)
        return torch.bmm(self.query[:, rows], rest.transpose(1, 2), out=room)

    def _absent(self) -> Tensor:
        """Keys that are seen to be left out by every query: their sums are 0, and rightly so."""
        absent = torch.isneginf(self.key[..., -1])
        if self.mask is not None and self.mask.shape[1] == 1:
            absent = absent | torch.isneginf(self.mask[:, 0])
        return absent

    def _bound(self) -> float:
        """Largest size that a logit can have; NaN and infinity say that it is unknown."""
        if self.mask is not None:
            return math.inf
        longest = self.key.norm(dim=2).max()
        if self.rest is not None:
            longest = torch.maximum(longest, self.rest.norm(dim=2).max())
        return float(self.query.norm(dim=2).max() * longest)


def _shaped(memory: Tensor, shape: tuple[int, ...]) -> Tensor:
    return memory[: math.prod(shape)].view(shape)

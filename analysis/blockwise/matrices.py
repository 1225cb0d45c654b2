"""Stacks of logit matrices from either encoding, computed tile by tile; base 2, as exp2 is faster than exp.

A tile lies in memory key by key, as attention is stored, and as the product of few keys with many queries is fastest.
"""

from typing import Protocol

import torch
from torch import Tensor

from attlas.analysis.blockwise import kernels
from attlas.analysis.blockwise.room import Room

__all__ = ["Factors", "LogAttention", "Matrices"]

LOG2E = 1.4426950408889634

BOUNDED = 60.0
"""Logits in base 2 whose size is below this need no shift: no sum of their exponentials leaves float32."""


class Matrices(Protocol):
    """A stack of logit matrices, computed when a tile of them is asked for."""

    count: int
    queries: int
    keys: int
    device: torch.device
    room: Room
    """Work space of this stack, and of nothing else while it is used."""
    shifted: bool
    """Whether tiles need a shift before their exponential."""
    bounded: bool
    """Whether no sum of a row or column can underflow."""
    normalised: bool
    """Whether exp2 of a tile is the softmax over keys already, of more keys than are kept."""
    row_exponents: Tensor | None
    """What was taken off each row, in base 2, ``(matrices, queries)``; None where nothing was."""

    def tile(self, cut: slice, out: Tensor) -> None:
        """Write the base-2 logits of some queries, less `row_exponents`, into `out`, ``(matrices, key, query)``."""

    def logits(self, axis: int, places: Tensor | slice) -> Tensor:
        """Logits, in base e, of some queries (axis 0) or keys (axis 1)."""


class Factors:
    """Logits from Q ``(matrices, query, channel)`` and K ``(matrices, key, channel)`` of any dtype.

    They live in `room`, until the next are made there.
    """

    normalised = False
    row_exponents: Tensor | None = None

    def __init__(self, query_vectors: Tensor, key_vectors: Tensor, room: Room) -> None:
        self.room = room
        self.query, self.key = _floats(query_vectors, "query", room), _floats(key_vectors, "key", room)
        self.count, self.queries = self.query.shape[:2]
        self.device = self.query.device
        self.keys = self.key.shape[1]
        self._turned = self.query.transpose(-1, -2)
        # No logit is larger than the product of the two lengths (Cauchy-Schwarz). A NaN or a masked key is not bounded.
        longest = [_squares(own, room).amax(-1) for own in (self.query, self.key)]
        self.bounded = bool((longest[0] * longest[1] * LOG2E**2 < BOUNDED**2).all())
        self.shifted = not self.bounded

    def tile(self, cut: slice, out: Tensor) -> None:
        """Write the base-2 logits of some queries into `out`, ``(matrices, key, query)``."""
        torch.baddbmm(out, self.key, self._turned[..., cut], beta=0, alpha=LOG2E, out=out)

    def logits(self, axis: int, places: Tensor | slice) -> Tensor:
        """Logits of some queries (axis 0) or keys (axis 1)."""
        query = self.query[:, places] if axis == 0 else self.query
        key = self.key[:, places] if axis == 1 else self.key
        return kernels.logits_from_factors(query, key)


class LogAttention:
    """Logits from ln of the softmax over keys ``(matrices, query, key)`` and the logsumexp of its rows.

    Without logsumexp only the softmax over keys can be asked.
    """

    shifted = False
    bounded = False

    def __init__(self, log_attention: Tensor, logsumexp: Tensor | None, normalised: bool, room: Room) -> None:
        self.room = room
        self.log_attention, self.logsumexp, self.normalised = log_attention, logsumexp, normalised
        self.count, self.queries, self.keys = log_attention.shape
        self.device = log_attention.device
        self.row_exponents = None if logsumexp is None else logsumexp.float() * LOG2E

    def tile(self, cut: slice, out: Tensor) -> None:
        """Write the log of the attention of some queries, base 2, into `out`, ``(matrices, key, query)``."""
        out.copy_(self.log_attention[:, cut].transpose(-1, -2)).mul_(LOG2E)

    def logits(self, axis: int, places: Tensor | slice) -> Tensor:
        """Logits of some queries (axis 0) or keys (axis 1), less those of their row where logsumexp is not read."""
        own = (slice(None), places) if axis == 0 else (slice(None), slice(None), places)
        stored = self.log_attention[own].float()
        if self.logsumexp is None:
            return stored
        return stored.add_(self.logsumexp[own[:2]].float().unsqueeze(-1))


def _floats(vectors: Tensor, name: str, room: Room) -> Tensor:
    """Vectors in float32, in their own order in memory."""
    if vectors.dtype == torch.float32:
        return vectors
    stored = _as_stored(vectors)
    made = room.of(name, *stored.shape).copy_(stored)
    return made if stored is vectors else made.transpose(-1, -2)


def _squares(vectors: Tensor, room: Room) -> Tensor:
    """Squared lengths of ``(matrices, n, channel)``: a product with ones is faster than a sum of so few."""
    stored = _as_stored(vectors)
    # The space of tiles is free until the first of them is asked for.
    squares = torch.mul(stored, stored, out=room.of("tile", *stored.shape))
    by_channel = squares.transpose(-1, -2) if stored is vectors else squares
    return torch.bmm(by_channel.new_ones((len(by_channel), 1, by_channel.shape[1])), by_channel).squeeze(1)


def _as_stored(vectors: Tensor) -> Tensor:
    """Vectors as they lie in memory: token by token ``(..., n, channel)``, or channel by channel, turned."""
    return vectors.transpose(-1, -2) if vectors.stride(-1) > vectors.stride(-2) else vectors

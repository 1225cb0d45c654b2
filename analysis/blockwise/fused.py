"""Several means of the same attention at once: logits and their exponential are computed once and used by all.

With ``E = exp2(S')``, where S' is the logits in base 2 less a shift of their own for each tile of queries, w the
weights that undo the shifts, ``r = E 1`` and ``c = E^T w``: the softmax over keys is ``E / r``, that over queries
``w E / c``. So every weighted mean of either over either axis is a product of E with a few vectors. Rows and columns
so far below the largest logit that their sum has lost digits are computed anew by a softmax of their own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from attlas.analysis.blockwise import kernels
from attlas.analysis.blockwise.matrices import Matrices

__all__ = ["HELD_ELEMENTS", "Ask", "several_means", "share_of"]

HELD_ELEMENTS = 2**24
"""Largest matrix, 64 MiB in float32, whose exponential is held whole so that both directions share it."""


@dataclass(frozen=True)
class Ask:
    """One mean: of the softmax along ``direction``, over the axis that is not ``onto``.

    ``share`` is the weights along that axis, ``(matrices, n)`` with sum 1; None weighs all alike.
    """

    direction: str
    onto: str
    share: Tensor | None = None


def share_of(weights: Tensor) -> Tensor:
    """Weights ``(..., n)`` divided by their sum; all zeros give NaN."""
    return weights / weights.sum(-1, keepdim=True)


def several_means(matrices: Matrices, asks: Sequence[Ask]) -> list[Tensor]:
    """Answer every ask about a stack of matrices, ``(matrices, key)`` or ``(matrices, query)`` each, float32.

    Memory: the exponential of one tile, `kernels.block_elements`, or of the matrix where the softmax over
    queries is asked for onto queries: that needs all column sums first. Where the matrix is larger than
    `HELD_ELEMENTS`, such asks are computed by themselves, tile after tile of keys.

    Parameters
    ----------
    matrices
        The logits; more than one matrix only where all together are a block.
    asks
        What is wanted.
    """
    if matrices.queries * matrices.keys > HELD_ELEMENTS:
        alone = [(ask.direction, ask.onto) == ("r2g", "query") for ask in asks]
    else:
        alone = [False] * len(asks)
    shared = [ask for ask, single in zip(asks, alone, strict=True) if not single]
    together = iter(_Pass(matrices, shared).run() if shared else ())
    return [_by_columns(matrices, ask) if single else next(together) for ask, single in zip(asks, alone, strict=True)]


class _Pass:
    """One pass over the tiles of a stack of matrices."""

    def __init__(self, matrices: Matrices, asks: Sequence[Ask]) -> None:
        self.matrices, self.asks = matrices, asks
        self.size = {"key": matrices.keys, "query": matrices.queries}
        self.groups: dict[tuple[str, str], list[int]] = {}
        for number, ask in enumerate(asks):
            self.groups.setdefault((ask.direction, ask.onto), []).append(number)
        count = matrices.count
        # Tiles of one size: a last one of few queries costs as many calls as a whole one.
        most = max(1, kernels.block_elements(matrices.device) // (count * matrices.keys))
        self.step = ceil(matrices.queries / ceil(matrices.queries / most))
        self.columns = any(direction == "r2g" for direction, _ in self.groups)
        self.held = ("r2g", "query") in self.groups

    def run(self) -> list[Tensor]:
        matrices, (count, queries, keys) = self.matrices, self._shape
        like = matrices.room.of("tile", 0)
        self.shares = {group: self._stacked(group, like) for group in self.groups}
        self.made = {
            group: like.new_zeros((count, len(numbers), self.size[group[1]])) for group, numbers in self.groups.items()
        }
        weights = self._row_weights()
        work = matrices.room.of("tile", count * keys * (queries if self.held else self.step))
        tiles = [slice(start, min(start + self.step, queries)) for start in range(0, queries, self.step)]
        tops, sums, places = [], [], []
        for cut in tiles:
            rows = cut.stop - cut.start
            start = count * keys * cut.start if self.held else 0
            exponential = work[start : start + count * rows * keys].view(count, keys, rows)
            matrices.tile(cut, exponential)
            if matrices.shifted:
                top = exponential.amax((-2, -1), keepdim=True)
                top = torch.where(top.isinf(), 0.0, top)
                exponential.sub_(top)
                tops.append(top.view(count, 1))
            exponential.exp2_()
            sums.append(self._rows(exponential, cut, weights))
            places.append((exponential, cut))
        if self.columns:
            self._finish_columns(tops, sums, places if self.held else [], weights)
        return [self.made[ask.direction, ask.onto][:, self._row_of(number)] for number, ask in enumerate(self.asks)]

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.matrices.count, self.matrices.queries, self.matrices.keys

    def _row_of(self, number: int) -> int:
        ask = self.asks[number]
        return self.groups[ask.direction, ask.onto].index(number)

    def _stacked(self, group: tuple[str, str], like: Tensor) -> Tensor:
        """Shares of the asks of one group, ``(matrices, ask, n)``."""
        length = self.size["query" if group[1] == "key" else "key"]
        numbers = self.groups[group]
        even = like.new_full((self.matrices.count, 1, length), 1 / length)
        shares = [self.asks[number].share for number in numbers]
        return torch.cat([even if share is None else share.unsqueeze(1) for share in shares], 1)

    def _row_weights(self) -> Tensor | None:
        """Weights that undo the shifts of single rows, at most 1."""
        exponents = self.matrices.row_exponents
        if not self.columns or exponents is None:
            return None
        top = exponents.amax(-1, keepdim=True)
        return torch.exp2(exponents - torch.where(top.isinf(), 0.0, top))

    def _rows(self, exponential: Tensor, cut: slice, weights: Tensor | None) -> list[Tensor]:
        """Answer what is asked of the softmax over keys, for some rows.

        Returned are the sums that the softmax over queries needs, relative to the tile: of the columns, and of the
        columns as the asks weigh their rows.
        """
        inverse, bad = self._inverse_rows(exponential)
        if ("g2r", "query") in self.groups:
            mean = torch.bmm(self.shares["g2r", "query"], exponential)
            self.made["g2r", "query"][:, :, cut] = mean if inverse is None else mean.mul_(inverse)
        weigh = None if weights is None else weights[:, cut].unsqueeze(1)
        vectors = []
        if ("g2r", "key") in self.groups:
            own = self.shares["g2r", "key"][:, :, cut]
            vectors.append(own if inverse is None else own * inverse)
        if self.columns:
            vectors.append(
                exponential.new_ones((len(exponential), 1, exponential.shape[2])) if weigh is None else weigh
            )
        if ("r2g", "key") in self.groups:
            own = self.shares["r2g", "key"][:, :, cut]
            vectors.append(own if weigh is None else own * weigh)
        turned = exponential.transpose(-1, -2)
        parts = [torch.bmm(own, turned) for own in vectors]
        if ("g2r", "key") in self.groups:
            self.made["g2r", "key"] += parts.pop(0)
        if bad is not None:
            self._mend_rows(bad, cut)
        return parts

    def _inverse_rows(self, exponential: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """One over the sums of the rows ``(matrices, 1, rows)``, 0 where a sum has lost digits, and where that is."""
        if self.matrices.normalised or all(direction == "r2g" for direction, _ in self.groups):
            return None, None
        total = torch.bmm(exponential.new_ones((len(exponential), 1, exponential.shape[1])), exponential)
        inverse = total.reciprocal()
        if self.matrices.bounded:
            return inverse, None
        bad = total <= kernels.UNDERFLOW
        inverse.masked_fill_(bad, 0.0)
        return inverse, bad.squeeze(1) if bool(bad.any()) else None

    def _mend_rows(self, bad: Tensor, cut: slice) -> None:
        for places in self._few(bad, self.matrices.keys):
            own = kernels.attention(self.matrices.logits(0, places + cut.start), "g2r")
            own *= bad[:, places].unsqueeze(-1)
            for group in (group for group in self.groups if group[0] == "g2r"):
                share, made = self.shares[group], self.made[group]
                if group[1] == "key":
                    made += torch.bmm(share[:, :, places + cut.start], own)
                else:
                    made[:, :, places + cut.start] += torch.bmm(share, own.transpose(-1, -2))

    def _finish_columns(
        self, tops: list[Tensor], sums: list[list[Tensor]], places: list[tuple[Tensor, slice]], weights: Tensor | None
    ) -> None:
        """Answer what is asked of the softmax over queries, now that all columns are summed."""
        scales: list[Tensor | None] = [None] * len(sums)
        if len(tops) > 1:
            stacked = torch.stack(tops)
            scales = list(torch.exp2(stacked - stacked.amax(0)).unsqueeze(-1))
        parts = [
            own if scale is None else [part * scale for part in own] for own, scale in zip(sums, scales, strict=True)
        ]
        total = _sum([own[0] for own in parts])
        inverse = total.reciprocal()
        bad: Tensor | None = None
        if not self.matrices.bounded:
            bad = (total <= kernels.UNDERFLOW).squeeze(1)
            bad = bad if bool(bad.any()) else None
            inverse = inverse if bad is None else inverse.masked_fill_(bad.unsqueeze(1), 0.0)
        if ("r2g", "key") in self.groups:
            self.made["r2g", "key"] = _sum([own[1] for own in parts]) * inverse
        if self.held:
            vectors = self.shares["r2g", "query"] * inverse
            made = self.made["r2g", "query"]
            for (exponential, cut), scale in zip(places, scales, strict=True):
                mean = torch.bmm(vectors if scale is None else vectors * scale, exponential)
                made[:, :, cut] = mean if weights is None else mean.mul_(weights[:, cut].unsqueeze(1))
        if bad is not None:
            self._mend_columns(bad)

    def _mend_columns(self, bad: Tensor) -> None:
        for places in self._few(bad, self.matrices.queries):
            own = kernels.attention(self.matrices.logits(1, places), "r2g")
            own *= bad[:, places].unsqueeze(1)
            for group in (group for group in self.groups if group[0] == "r2g"):
                share, made = self.shares[group], self.made[group]
                if group[1] == "query":
                    made += torch.bmm(share[:, :, places], own.transpose(-1, -2))
                else:
                    made[:, :, places] += torch.bmm(share, own)

    def _few(self, bad: Tensor, length: int) -> Iterator[Tensor]:
        """Lines that are bad in any matrix, no more at a time than make a block."""
        step = max(1, kernels.block_elements(self.matrices.device) // (self.matrices.count * length))
        lines = torch.nonzero(bad.any(0)).flatten()
        for start in range(0, len(lines), step):
            yield lines[start : start + step]


def _sum(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def _by_columns(matrices: Matrices, ask: Ask) -> Tensor:
    """Mean over keys of the softmax over queries, some keys at a time, without the other asks."""
    step = max(1, kernels.block_elements(matrices.device) // (matrices.count * matrices.queries))
    made = torch.zeros(matrices.count, matrices.queries, device=matrices.device)
    for start in range(0, matrices.keys, step):
        cut = slice(start, min(start + step, matrices.keys))
        attention = kernels.attention(matrices.logits(1, cut), "r2g")
        if ask.share is None:
            made += attention.sum(-1) / matrices.keys
        else:
            made += torch.bmm(attention, ask.share[:, cut].unsqueeze(-1)).squeeze(-1)
    return made

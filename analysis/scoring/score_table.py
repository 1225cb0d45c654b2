"""Scores with their number of samples and spread, as a table, JSON or a Dataset."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from attlas.schemas.errors import unknown_name

__all__ = ["Score", "ScoreTable", "beside", "score_of"]


@dataclass(frozen=True)
class Score:
    """One number: its mean over ``n`` samples, half its 95 % interval, and what it means."""

    name: str
    value: float
    n: int
    ci95: float
    meaning: str


@dataclass(frozen=True)
class ScoreTable:
    """Scores by name, with what could not be scored and why; printing gives a table."""

    title: str
    scores: Mapping[str, Score]
    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """What is scored, without the store: the same for tables that can stand side by side."""
        return self.title.partition(" of ")[0]

    def __getitem__(self, name: str) -> Score:
        """Score by name; `UnknownNameError` if it is not there."""
        if name not in self.scores:
            raise unknown_name("score", name, self.scores, where=self.title)
        return self.scores[name]

    def __contains__(self, name: object) -> bool:
        """Whether the score is there."""
        return name in self.scores

    def __iter__(self) -> Iterator[Score]:
        """Scores in order."""
        return iter(self.scores.values())

    def __str__(self) -> str:
        """Table of name, value with its interval, n and meaning."""
        width = max((len(name) for name in self.scores), default=0)
        lines = [self.title]
        for score in self:
            spread = f" +- {score.ci95:.3f}" if math.isfinite(score.ci95) else " " * 9
            lines.append(f"  {score.name:<{width}}  {score.value:8.3f}{spread}  n={score.n:<5} {score.meaning}")
        lines += [f"  not scored: {reason}" for reason in self.left_out]
        lines += [f"  {name}: {value}" for name, value in self.settings.items()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values; a number that is not finite is None."""
        scores = {
            score.name: {key: _plain(value) for key, value in asdict(score).items() if key != "name"} for score in self
        }
        return {
            "title": self.title,
            "scores": scores,
            "settings": dict(self.settings),
            "left_out": list(self.left_out),
        }

    def to_dataset(self) -> xr.Dataset:
        """``value``, ``n`` and ``ci95`` along ``score``, with ``meaning`` as coordinate."""
        listed = list(self)
        columns = {name: ("score", [getattr(score, name) for score in listed]) for name in ("value", "n", "ci95")}
        coords = {
            "score": [score.name for score in listed],
            "meaning": ("score", [score.meaning for score in listed]),
        }
        return xr.Dataset(columns, coords, {"title": self.title})


def beside(tables: Mapping[str, ScoreTable]) -> str:
    """Tables of several stores as one, a column for each store in the order given.

    A score that a store lacks is shown as a dash; the meaning is that of the first store that has it.

    Examples
    --------
    >>> one = ScoreTable("a", {"iou": Score("iou", 0.5, 4, 0.1, "mean IoU")})
    >>> two = ScoreTable("b", {"iou": Score("iou", 0.1, 4, 0.02, "mean IoU")})
    >>> print(beside({"trained": one, "random": two}))
           trained             random              meaning
    iou    0.500 +-0.100 n=4   0.100 +-0.020 n=4   mean IoU
    """
    rows = {score.name: score.meaning for table in reversed(list(tables.values())) for score in reversed(list(table))}
    lines = [["", *tables, "meaning"]]
    for name in reversed(rows):
        cells = [_cell(table[name]) if name in table else "-" for table in tables.values()]
        lines.append([name, *cells, rows[name]])
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    padded = ("   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def _cell(score: Score) -> str:
    spread = f" +-{score.ci95:.3f}" if math.isfinite(score.ci95) else ""
    return f"{score.value:.3f}{spread} n={score.n}"


def score_of(name: str, samples: Iterable[float], meaning: str) -> Score:
    """Mean of `samples` (NaN ones do not count) with 1.96 standard errors.

    Examples
    --------
    >>> score_of("iou", [0.2, 0.4, float("nan")], "mean IoU")
    Score(name='iou', value=0.3, n=2, ci95=0.196, meaning='mean IoU')
    """
    values = np.asarray([value for value in samples if not math.isnan(value)], dtype=np.float64)
    if not len(values):
        return Score(name, math.nan, 0, math.nan, meaning)
    spread = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Score(name, round(float(values.mean()), 6), len(values), round(spread, 6), meaning)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

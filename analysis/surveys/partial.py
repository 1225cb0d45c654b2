"""A survey of some runs, which adds up with that of others; it can be saved in between."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from attlas.analysis.statistics.partials import Comoments, Histogram, Moments
from attlas.analysis.statistics.sketch import Sketch
from attlas.schemas.errors import InvalidValueError

if TYPE_CHECKING:
    from attlas.analysis.surveys.result import Survey

__all__ = ["Part", "Partial"]

Pair = tuple[str, str]


@dataclass(frozen=True)
class Part:
    """What is known of one statistic: everything adds up. ``scores`` holds the numbers of each run, if they are few."""

    moments: Moments = field(default_factory=Moments)
    sketch: Sketch = field(default_factory=Sketch)
    histogram: Histogram = field(default_factory=Histogram)
    scores: tuple[xr.DataArray, ...] = ()

    def __add__(self, other: "Part") -> "Part":
        return Part(
            self.moments + other.moments,
            self.sketch + other.sketch,
            self.histogram + other.histogram,
            self.scores + other.scores,
        )


@dataclass(frozen=True)
class Partial:
    """Result of a survey of some runs, before it is finished.

    ``a + b`` is the survey of the runs of both, whatever machine each was made on. Adding is refused where they ask
    different things, and where a run is in both.

    Attributes
    ----------
    settings
        What was asked, as plain values.
    rows
        Each run: ``run store model row fingerprint``, prompt, seed and the labels that it was grouped by.
    parts, pairs
        Partial results of each statistic or map, and of each pair that is correlated.
    left_out
        Runs that were not complete, by store.
    """

    settings: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...] = ()
    parts: Mapping[str, Part] = field(default_factory=dict)
    pairs: Mapping[Pair, Comoments] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: "Partial") -> "Partial":
        """Add; see the class.

        Raises
        ------
        InvalidValueError
            If the two do not fit, or share a run.
        """
        differ = [key for key in self.settings.keys() | other.settings.keys()
                  if self.settings.get(key) != other.settings.get(key)]  # fmt: skip
        if differ:
            name = sorted(differ)[0]
            raise InvalidValueError(
                f"surveys that ask different things do not add up: {name} is {self.settings.get(name)!r} and "
                f"{other.settings.get(name)!r}"
            )
        known = {row["fingerprint"]: row for row in self.rows}
        twice = [row for row in other.rows if row["fingerprint"] in known]
        if twice:
            raise InvalidValueError(
                f"run {twice[0]['run']!r} of {twice[0]['store']} is in both surveys ({len(twice)} runs are); "
                "a run must count once"
            )
        return Partial(
            self.settings,
            self.rows + other.rows,
            {name: self.parts.get(name, Part()) + other.parts.get(name, Part())
             for name in dict.fromkeys((*self.parts, *other.parts))},
            {pair: self.pairs.get(pair, Comoments()) + other.pairs.get(pair, Comoments())
             for pair in dict.fromkeys((*self.pairs, *other.pairs))},
            {name: max(self.left_out.get(name, 0), other.left_out.get(name, 0))
             for name in dict.fromkeys((*self.left_out, *other.left_out))},
        )  # fmt: skip

    def finish(self) -> "Survey":
        """Make numbers of it.

        Raises
        ------
        InvalidValueError
            If it has no run, or a statistic is NaN for all of them.
        """
        from attlas.analysis.surveys.result import finish

        return finish(self)

    def save(self, path: str | Path) -> None:
        """Write it to one file, whole or not at all; `load` reads it."""
        from attlas.analysis.surveys.saving import save

        save(self, path)

    @staticmethod
    def load(path: str | Path) -> "Partial":
        """Read what `save` wrote; `InvalidValueError` if the file is none."""
        from attlas.analysis.surveys.saving import load

        return load(path)

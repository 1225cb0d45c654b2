"""Quantiles of many runs from a sketch that adds up exactly."""

import sys
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import xarray as xr

from attlas.analysis.statistics.grouping import Samples, plain
from attlas.schemas.errors import InvalidValueError

__all__ = ["ACCURACY", "Sketch"]

ACCURACY = 0.01
"""Relative error that a quantile may have."""


@dataclass(frozen=True)
class Sketch:
    """Quantiles within 1 % of their value (DDSketch): counts in bins whose width grows with the value.

    Examples
    --------
    >>> from attlas.analysis.statistics.grouping import grouped
    >>> halves = [Sketch.of(grouped(xr.DataArray(part, dims="run"))) for part in ([1.0, 2.0], [3.0])]
    >>> whole = halves[0] + halves[1]
    >>> whole == Sketch.of(grouped(xr.DataArray([3.0, 1.0, 2.0], dims="run"))), round(whole.quantile((), 0.5), 1)
    (True, 2.0)
    """

    dims: tuple[str, ...] = ()
    cells: Mapping[tuple[Hashable, ...], Counter[tuple[int, int]]] = field(default_factory=dict)

    @classmethod
    def zero(cls) -> Self:
        """Return the sketch of no run."""
        return cls()

    @classmethod
    def of(cls, samples: Samples) -> Self:
        """Count the samples of each cell; NaN ones do not count."""
        key = _keys()
        cells: dict[tuple[Hashable, ...], Counter[tuple[int, int]]] = {}
        axes = [[plain(label) for label in samples.coords[dim]] for dim in samples.kept]
        for place in np.ndindex(*samples.values.shape[:-1]):
            lead = tuple(axis[at] for axis, at in zip(axes, place, strict=True))
            row = samples.values[place]
            for sample in np.flatnonzero(~np.isnan(row)):
                group = tuple(
                    known[codes[sample]] for codes, (_, known) in zip(samples.codes, samples.names, strict=True)
                )
                cells.setdefault((*group, *lead), Counter())[key(float(row[sample]))] += 1
        return cls(samples.dims, cells)

    def __add__(self, other: Self) -> Self:
        """Add counts, exactly."""
        if not self.cells or not other.cells:
            return other if not self.cells else self
        if self.dims != other.dims:
            raise InvalidValueError(f"sketches over {self.dims} and {other.dims} do not add up")
        cells = {name: Counter(counts) for name, counts in self.cells.items()}
        for name, counts in other.cells.items():
            cells.setdefault(name, Counter()).update(counts)
        return type(self)(self.dims, cells)

    def quantile(self, cell: tuple[Hashable, ...], q: float) -> float:
        """Value below which a fraction `q` of the cell's numbers lies; NaN where there are none."""
        from ddsketch.ddsketch import BaseDDSketch
        from ddsketch.mapping import LogarithmicMapping
        from ddsketch.store import DenseStore

        counts = self.cells.get(cell)
        if not counts:
            return float("nan")
        above, below = DenseStore(), DenseStore()
        for (sign, place), count in sorted(counts.items()):
            if sign:
                (above if sign > 0 else below).add(place, count)
        value = float(BaseDDSketch(LogarithmicMapping(ACCURACY), above, below, counts[0, 0]).get_quantile_value(q))
        return float(np.copysign(np.inf, value)) if abs(value) > _HUGE else value

    def finish(self, like: xr.DataArray, quantiles: Sequence[float]) -> xr.DataArray:
        """Return quantiles ``(quantile, *dims)``, labelled as the array `like` of the same cells."""
        dims = tuple(str(dim) for dim in like.dims)
        axes = [[plain(label) for label in like[dim].values] for dim in dims]
        order = [dims.index(dim) for dim in self.dims] if self.cells else []
        made = np.full((len(quantiles), *like.shape), np.nan)
        for place in np.ndindex(*like.shape):
            cell = tuple(axes[axis][place[axis]] for axis in order)
            made[(slice(None), *place)] = [self.quantile(cell, q) for q in quantiles]
        coords = {**{dim: like[dim] for dim in dims}, "quantile": list(quantiles)}
        return xr.DataArray(made, dims=("quantile", *dims), coords=coords)


_HUGE = sys.float_info.max / 4


def _keys() -> Callable[[float], tuple[int, int]]:
    """Give the bin of a number: its sign, and the bin of its size."""
    from ddsketch.mapping import LogarithmicMapping

    mapping = LogarithmicMapping(ACCURACY)
    largest = mapping.max_possible

    def key(value: float) -> tuple[int, int]:
        size = min(abs(value), largest)
        if size <= mapping.min_possible:
            return 0, 0
        return (1 if value > 0 else -1), int(mapping.key(size))

    return key

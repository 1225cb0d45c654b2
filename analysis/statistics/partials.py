"""Partial results of many runs: values that add up, in any order and grouping, and are finished last.

Each has ``zero()``, ``+`` and ``finish()``. Counts, histograms and sketches of a whole equal those of its parts
exactly; moments to rounding (1e-12). What is added is labelled, so that parts may know different groups or words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.statistics.grouping import Samples
from attlas.schemas.errors import InvalidValueError

__all__ = ["Z95", "Comoments", "Histogram", "Moments", "fisher"]

Z95 = 1.96
"""Half width of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class _Labelled:
    """A partial result that is a Dataset over groups and kept dims; None is nothing."""

    data: xr.Dataset | None = None

    @classmethod
    def zero(cls) -> Self:
        """Return the partial result of no run."""
        return cls()


@dataclass(frozen=True)
class Moments(_Labelled):
    """Count, mean and sum of squared deviations; finishes as mean, spread and 95 % interval.

    Several values of one run, such as words of one prompt, are no independent samples. The standard error is that of
    means of clusters, a run each: ``sqrt(R / (R - 1) * sum over runs of e^2) / n`` with ``e`` the sum of what the run's
    values are above the mean. For one value a run it is the usual ``sqrt(variance / n)``. Partial results hold whole
    runs.

    Examples
    --------
    >>> from attlas.analysis.statistics.grouping import grouped
    >>> one = Moments.of(grouped(xr.DataArray([1.0, 2.0], dims="run")))
    >>> both = one + Moments.of(grouped(xr.DataArray([6.0, np.nan], dims="run")))
    >>> done = both.finish()
    >>> int(done["n"]), float(done["mean"]), float(done["variance"])
    (3, 3.0, 7.0)
    """

    @classmethod
    def of(cls, samples: Samples) -> Self:
        """Moments of samples; NaN ones do not count."""
        made = _moments(samples)
        return cls(made.assign(_clusters(samples, made)))

    def __add__(self, other: Self) -> Self:
        """Add (Chan, Golub & LeVeque 1979)."""
        if self.data is None or other.data is None:
            return other if self.data is None else self
        whole, rest = _aligned(self.data, other.data)
        # This is done for every block of a survey, and labelled arrays take many times as long.
        one, two = _arrays(whole, whole), _arrays(rest, whole)
        n = one["n"] + two["n"]
        share = two["n"] / np.where(n > 0, n, 1)
        # A side without numbers leaves the other as it is, to the last bit.
        apart = np.where((one["n"] > 0) & (two["n"] > 0), two["mean"] - one["mean"], 0.0)
        mean = np.where(one["n"] > 0, one["mean"] + apart * share, two["mean"])
        m2 = one["m2"] + two["m2"] + apart**2 * one["n"] * share
        clusters = [_moved(own, own["mean"] - mean) for own in (one, two)]
        sums = {name: clusters[0][name] + clusters[1][name] for name in ("runs", "nn", "ne", "ee")}
        dims = whole["n"].dims
        added = {name: (dims, values) for name, values in {"n": n, "mean": mean, "m2": m2, **sums}.items()}
        return type(self)(xr.Dataset(added, whole.coords))

    def finish(self) -> xr.Dataset:
        """Return n, runs, mean, variance (n - 1), std, stderr and the 95 % interval; NaN where n is too small."""
        if self.data is None:
            return xr.Dataset()
        n, m2 = self.data["n"].astype(np.int64), self.data["m2"]
        mean = self.data["mean"].where(n > 0)
        variance = m2 / (n - 1).where(n > 1)
        runs = self.data["runs"].astype(np.int64)
        stderr = (self.data["ee"].clip(min=0) * runs / (runs - 1).where(runs > 1)) ** 0.5 / n
        return xr.Dataset(
            {
                "n": n,
                "runs": runs,
                "mean": mean,
                "variance": variance,
                "std": variance**0.5,
                "stderr": stderr,
                "low": mean - Z95 * stderr,
                "high": mean + Z95 * stderr,
            }
        )


@dataclass(frozen=True)
class Histogram(_Labelled):
    """Counts between fixed edges, as numpy counts: the last bin holds its upper edge too."""

    edges: tuple[float, ...] = ()

    @classmethod
    def of(cls, samples: Samples, edges: Sequence[float]) -> Self:
        """Count samples; what lies below or above all edges is counted by itself."""
        bounds = np.asarray(edges, dtype=np.float64)
        if bounds.ndim != 1 or len(bounds) < 2 or not (np.diff(bounds) > 0).all():
            raise InvalidValueError(f"histogram edges are {list(edges)}; two or more growing numbers are accepted")
        place = np.searchsorted(bounds, samples.values, side="right") - 1
        place = np.where(samples.values == bounds[-1], len(bounds) - 2, place)
        found = [
            samples.reduce(np.where(np.isnan(samples.values), 0.0, place == cell), "sum")
            for cell in range(-1, len(bounds))
        ]
        counts = np.stack(found, -1).astype(np.int64)
        made = samples.dataset(below=counts[..., 0], above=counts[..., -1])
        made["count"] = ((*samples.dims, "bin"), counts[..., 1:-1])
        return cls(made, tuple(bounds.tolist()))

    def __add__(self, other: Self) -> Self:
        """Add counts; edges must be the same."""
        if self.data is None or other.data is None:
            return other if self.data is None else self
        if self.edges != other.edges:
            raise InvalidValueError("histograms of different edges do not add up; give both the same edges")
        one, two = _aligned(self.data, other.data)
        return type(self)(one + two, self.edges)

    def finish(self) -> xr.Dataset:
        """Return count ``(..., bin)`` with coordinates left and right, and counts below and above."""
        if self.data is None:
            return xr.Dataset()
        bounds = {"left": ("bin", list(self.edges[:-1])), "right": ("bin", list(self.edges[1:]))}
        return self.data.astype(np.int64).assign_coords(bounds)


@dataclass(frozen=True)
class Comoments(_Labelled):
    """Second moments of pairs of numbers; finishes as Pearson's correlation with Fisher's 95 % interval."""

    @classmethod
    def of(cls, x: Samples, y: Samples) -> Self:
        """Moments of the pairs of which neither is NaN."""
        both = ~np.isnan(x.values) & ~np.isnan(y.values)
        one, two = (_moments(replace(own, values=np.where(both, own.values, np.nan))) for own in (x, y))
        off = [np.where(both, own.values - own.spread(made["mean"].values), 0.0) for own, made in ((x, one), (y, two))]
        cross = one["m2"].copy(data=x.reduce(off[0] * off[1], "sum"))
        return cls(
            xr.Dataset(
                {"n": one["n"], "x": one["mean"], "y": two["mean"], "xx": one["m2"], "yy": two["m2"], "xy": cross}
            )
        )

    def __add__(self, other: Self) -> Self:
        """Add."""
        if self.data is None or other.data is None:
            return other if self.data is None else self
        one, two = _aligned(self.data, other.data)
        n = one["n"] + two["n"]
        share = two["n"] / n.where(n > 0, 1)
        shared = (one["n"] > 0) & (two["n"] > 0)
        apart = {name: _where(shared, two[name] - one[name], 0.0) for name in ("x", "y")}
        made = {name: _where(one["n"] > 0, one[name] + apart[name] * share, two[name]) for name in ("x", "y")}
        for name in ("xx", "yy", "xy"):
            made[name] = one[name] + two[name] + apart[name[0]] * apart[name[1]] * one["n"] * share
        return type(self)(xr.Dataset({"n": n, **made}))

    def finish(self) -> xr.Dataset:
        """Return n, pearson, and its interval low to high; NaN where there is no spread or are fewer than 4 pairs."""
        if self.data is None:
            return xr.Dataset()
        spread = (self.data["xx"] * self.data["yy"]) ** 0.5
        # What is left of the spread of equal numbers is rounding.
        size = ((self.data["x"] ** 2 * self.data["y"] ** 2) ** 0.5) * self.data["n"] * 1e-15
        pearson = (self.data["xy"] / spread.where(spread > size)).clip(-1, 1)
        low, high = fisher(pearson, self.data["n"])
        return xr.Dataset({"n": self.data["n"].astype(np.int64), "pearson": pearson, "low": low, "high": high})


def fisher(r: xr.DataArray, n: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """95 % interval of a correlation by Fisher's z, ``tanh(atanh(r) +- 1.96 / sqrt(n - 3))``.

    Examples
    --------
    >>> low, high = fisher(xr.DataArray(0.0), xr.DataArray(7))
    >>> print(f"{float(low):.4f} {float(high):.4f}")
    -0.7531 0.7531
    """
    half = Z95 / (n - 3).where(n > 3) ** 0.5
    with np.errstate(divide="ignore"):
        z = np.arctanh(r)
    return np.tanh(z - half), np.tanh(z + half)


def _moments(samples: Samples) -> xr.Dataset:
    values = samples.values
    n = samples.reduce(np.where(np.isnan(values), 0.0, 1.0), "sum")
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(n > 0, samples.reduce(np.where(np.isnan(values), 0.0, values), "sum") / n, 0.0)
        off = values - samples.spread(mean)
        # What the mean lost to rounding.
        mean = mean + np.where(n > 0, samples.reduce(np.where(np.isnan(off), 0.0, off), "sum") / n, 0.0)
        off = values - samples.spread(mean)
    m2 = samples.reduce(np.where(np.isnan(values), 0.0, off**2), "sum")
    return samples.dataset(n=n.astype(np.int64), mean=mean, m2=m2)


def _clusters(samples: Samples, made: xr.Dataset) -> dict[str, xr.Variable]:
    """Give sums over the runs of each group: of 1, n^2, n e and e^2, where a run has n values with sum n mean + e."""
    values, mean = samples.values, made["mean"].values
    counts, off = np.where(np.isnan(values), 0.0, 1.0), np.nan_to_num(values - samples.spread(mean), nan=0.0)
    if len(np.unique(np.stack([*samples.codes, samples.runs]), axis=1).T) == len(samples.runs):
        sums = {"runs": counts, "nn": counts, "ne": off, "ee": off**2}
        found = {name: samples.reduce(own, "sum") for name, own in sums.items()}
    else:
        by_run, axis = samples.by_run(), len(samples.codes)
        n, e = by_run.reduce(counts, "sum"), by_run.reduce(off, "sum")
        found = {name: own.sum(axis) for name, own in {"runs": n > 0, "nn": n**2, "ne": n * e, "ee": e**2}.items()}
    return {name: xr.Variable(samples.dims, own) for name, own in found.items()}


def _arrays(data: xr.Dataset, like: xr.Dataset) -> dict[str, NDArray[Any]]:
    """Give the arrays of aligned moments, with the axes of those of `like`."""
    dims = like["n"].dims
    return {str(name): values.variable.transpose(*dims).values for name, values in data.data_vars.items()}


def _moved(own: Mapping[str, NDArray[Any]], by: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Give sums over runs about a mean that is lower by so much; a side without numbers has none."""
    by = np.where(own["n"] > 0, by, 0.0)
    return {
        "runs": own["runs"],
        "nn": own["nn"],
        "ne": own["ne"] + by * own["nn"],
        "ee": own["ee"] + 2 * by * own["ne"] + by**2 * own["nn"],
    }


def _where(given: xr.DataArray, then: xr.DataArray, other: xr.DataArray | float) -> xr.DataArray:
    return then.where(given, other)


def _aligned(one: xr.Dataset, other: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Give both all labels; what a side lacks is 0."""
    if set(one.dims) != set(other.dims):
        raise InvalidValueError(
            f"partial results over {_dims(one)} and {_dims(other)} do not add up; they are of different statistics or "
            "groups"
        )
    left, right = xr.align(one, other, join="outer", fill_value=0, copy=False)
    return left, right


def _dims(data: xr.Dataset) -> str:
    return ", ".join(map(str, data.sizes)) or "no dim"

"""Samples of many runs, laid out by the group that each belongs to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

__all__ = ["Samples", "grouped", "plain"]


def grouped(values: xr.DataArray, labels: Sequence[xr.DataArray] = ()) -> "Samples":
    """Lay values out for grouping: what `labels` span, and ``run``, becomes samples; other dims are kept.

    A sample with an empty label (None, NaN, an empty text) belongs to no group and is dropped.
    """
    over = ["run", *dict.fromkeys(str(dim) for label in labels for dim in label.dims if dim != "run")]
    kept = [str(dim) for dim in values.dims if dim not in over]
    flat = values.transpose(*kept, *over)
    sizes = [flat.sizes[dim] for dim in over]
    runs = np.repeat(np.arange(sizes[0]), int(np.prod(sizes[1:])))
    columns = [np.asarray(label.broadcast_like(flat.isel(dict.fromkeys(kept, 0), drop=True)).transpose(*over).values)
               for label in labels]  # fmt: skip
    table = flat.values.reshape(*(flat.sizes[dim] for dim in kept), -1).astype(np.float64)
    given = np.ones(table.shape[-1], dtype=bool)
    for column in columns:
        given &= np.array([_given(label) for label in column.ravel()], dtype=bool)
    codes, names = [], []
    for label, column in zip(labels, columns, strict=True):
        own = [plain(value) for value in column.ravel()[given]]
        known = _ordered(set(own))
        codes.append(_codes(own, known))
        names.append((str(label.name), known))
    coords = {dim: flat[dim].values for dim in kept if dim in flat.coords}
    return Samples(table[..., given], tuple(kept), coords, tuple(codes), tuple(names), runs[given])


@dataclass(frozen=True)
class Samples:
    """Values ``(*kept, sample)`` with the group of each sample along each label, and the run that it is of."""

    values: NDArray[np.float64]
    kept: tuple[str, ...]
    coords: Mapping[str, NDArray[Any]]
    codes: tuple[NDArray[np.int64], ...]
    names: tuple[tuple[str, list[Any]], ...]
    runs: NDArray[np.int64]

    @property
    def dims(self) -> tuple[str, ...]:
        """Dims of a result: groups, then what is kept."""
        return (*(name for name, _ in self.names), *self.kept)

    def reduce(self, values: NDArray[np.float64], func: str) -> NDArray[np.float64]:
        """Reduce samples to ``(*groups, *kept)`` by a function of flox."""
        from flox.core import groupby_reduce

        # Without labels all samples are of one group.
        codes = self.codes or (np.zeros(values.shape[-1], dtype=np.int64),)
        sizes = [len(known) for _, known in self.names] or [1]
        if values.shape[-1] == 0 or 0 in sizes:
            return np.zeros((*sizes, *values.shape[:-1]) if self.codes else values.shape[:-1])
        made = groupby_reduce(
            values,
            *codes,
            func=func,
            expected_groups=tuple(np.arange(size) for size in sizes),
            fill_value=0,
            engine="numpy",
        )[0]
        lead = made.ndim - len(sizes)
        turned = np.moveaxis(np.asarray(made), list(range(lead, made.ndim)), list(range(len(sizes))))
        return turned if self.codes else turned[0]

    def by_run(self) -> "Samples":
        """Give the same samples with the run as one more label, the last: a group is what a run has of one."""
        known = np.unique(self.runs)
        codes = (*self.codes, np.searchsorted(known, self.runs))
        return replace(self, codes=codes, names=(*self.names, ("run", known.tolist())))

    def spread(self, groups: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give each sample the value of its group: ``(*groups, *kept)`` to ``(*kept, sample)``."""
        picked = groups[self.codes] if self.codes else np.broadcast_to(groups, (self.values.shape[-1], *groups.shape))
        return np.moveaxis(picked, 0, -1)

    def dataset(self, **arrays: NDArray[Any]) -> xr.Dataset:
        """Label reduced arrays."""
        labels = {name: _index(known) for name, known in self.names}
        return xr.Dataset({name: (self.dims, values) for name, values in arrays.items()}, {**labels, **self.coords})


def _given(label: Any) -> bool:
    return label is not None and label == label and not (isinstance(label, str) and label == "")


def plain(label: Any) -> Any:
    """Give a label as Python's own type."""
    return label.item() if isinstance(label, np.generic) else label


def _codes(values: list[Any], known: list[Any]) -> NDArray[np.int64]:
    places = {value: place for place, value in enumerate(known)}
    return np.array([places[value] for value in values], dtype=np.int64)


def _ordered(labels: set[Any]) -> list[Any]:
    """Sort labels, by kind first where kinds cannot be compared."""
    return sorted(labels, key=lambda label: (isinstance(label, str), label))


def _index(labels: list[Any]) -> NDArray[Any]:
    texts = any(isinstance(label, str) for label in labels)
    return np.asarray(labels, dtype=object) if texts else np.asarray(labels)

"""What runs are grouped by: columns of the run table, annotations, request values, or what a user gives."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.surveys.sources import Source
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, UnknownNameError, unknown_name

__all__ = ["By", "Labels", "known_labels", "read_labels"]

By = str | Callable[[Trace], Any] | xr.DataArray | Sequence[Any] | np.ndarray

TABLE = ("prompt", "seed")


@dataclass(frozen=True)
class Labels:
    """Labels by which runs are grouped.

    ``columns`` has for each source the arrays with a run dim; a name in ``names`` without one is a label of the
    statistic itself, such as a word.
    """

    names: tuple[str, ...]
    columns: tuple[Mapping[str, xr.DataArray], ...]

    def of(self, source: int, places: Sequence[int], values: xr.DataArray, what: str) -> list[xr.DataArray]:
        """Labels of the runs at `places` of a source, fit to group `values` by.

        Raises
        ------
        UnknownNameError
            If the statistic `what` has no such label.
        """
        made = []
        for name in self.names:
            if name in self.columns[source]:
                made.append(
                    self.columns[source][name].isel(run=list(places)).drop_vars("run", errors="ignore").rename(name)
                )
                continue
            if name not in values.coords:
                accepted = [*self.columns_known(source), *(str(own) for own in values.coords if own != "run")]
                raise UnknownNameError(str(unknown_name("label", name, accepted, where=f"the runs and {what!r}")))
            made.append(values[name].reset_coords(drop=True).rename(name))
        for label in made:
            lacking = [str(dim) for dim in label.dims if dim not in values.dims]
            if lacking:
                raise InvalidValueError(f"label {label.name!r} runs along {lacking}, which {what!r} does not have")
        return made

    def columns_known(self, source: int) -> list[str]:
        """Names of the labels of a source that belong to runs."""
        return list(self.columns[source])


def read_labels(by: By | Iterable[By] | None, sources: Sequence[Source]) -> Labels:
    """Resolve `by` for every source.

    Raises
    ------
    InvalidValueError
        If an array or function does not give a label for each run.
    """
    if by is None:
        return Labels((), tuple({} for _ in sources))
    listed: list[Any] = list(by) if isinstance(by, (tuple, list)) and all(_one(own) for own in by) else [by]
    names: list[str] = []
    columns: list[dict[str, xr.DataArray]] = [{} for _ in sources]
    for own in listed:
        name = (
            own
            if isinstance(own, str)
            else str(getattr(own, "__name__", None) or getattr(own, "name", None) or "group")
        )
        if name in names:
            raise InvalidValueError(f"label {name!r} is asked twice")
        names.append(name.strip("<>"))
        for place, values in enumerate(_columns(own, names[-1], sources)):
            if values is not None:
                columns[place][names[-1]] = values
    return Labels(tuple(names), tuple(columns))


def known_labels(trace: Trace) -> list[str]:
    """Names by which the runs of a trace can be grouped."""
    noted = [str(name) for name, values in trace.annotations.items() if values.dims == ("run",)]
    return ["store", "model", *TABLE, *noted, *(key for key in _requests(trace) if key not in (*TABLE, *noted))]


def _one(own: Any) -> bool:
    return callable(own) or isinstance(own, (str, xr.DataArray))


def _columns(own: Any, name: str, sources: Sequence[Source]) -> list[xr.DataArray | None]:
    """Labels of one name for each source; None where the name is no label of runs."""
    if isinstance(own, str):
        return [_column(own, source) for source in sources]
    if isinstance(own, xr.DataArray) and "run" in own.coords:
        return [_picked(own, source.trace, name) for source in sources]
    if callable(own):
        return [_fitted(own(source.trace), source.trace, name) for source in sources]
    sizes = [len(source.trace.rows) for source in sources]
    if len(own) != sum(sizes):
        raise InvalidValueError(f"label {name!r} has {len(own)} values for {sum(sizes)} runs; one a run is needed")
    values = np.asarray(own.values if isinstance(own, xr.DataArray) else own, dtype=object)
    return [xr.DataArray(values[list(source.places)], dims="run") for source in sources]


def _column(name: str, source: Source) -> xr.DataArray | None:
    """Labels by name."""
    trace, runs = source.trace, len(source.trace.rows)
    if name in ("store", "model"):
        return xr.DataArray(
            np.full(runs, getattr(source, "name" if name == "store" else name), dtype=object), dims="run"
        )
    if name in TABLE:
        return xr.DataArray(trace.runs[name].values.astype(object), dims="run")
    if name in trace.annotations and trace.annotations[name].dims == ("run",):
        return xr.DataArray(trace.annotations[name].values.astype(object), dims="run")
    found = _requests(trace).get(name)
    return None if found is None else xr.DataArray(np.asarray(found, dtype=object), dims="run")


def _requests(trace: Trace) -> dict[str, list[Any]]:
    """Values of the requests that are a number or a text, by keyword; None for a run without."""
    read = [json.loads(str(text) or "{}") for text in trace.runs["request"].values]
    keys = dict.fromkeys(
        key for one in read for key, value in one.items() if isinstance(value, (str, int, float, bool))
    )
    return {
        key: [value if isinstance(value := one.get(key), (str, int, float, bool)) else None for one in read]
        for key in keys
    }


def _picked(own: xr.DataArray, trace: Trace, name: str) -> xr.DataArray:
    lacking = [run for run in trace.run_ids if run not in own["run"].values]
    if lacking:
        raise InvalidValueError(f"label {name!r} has none for run {lacking[0]!r} of {trace.where}")
    return own.sel(run=list(trace.run_ids)).astype(object)


def _fitted(made: Any, trace: Trace, name: str) -> xr.DataArray:
    values = made.astype(object) if isinstance(made, xr.DataArray) else xr.DataArray(np.asarray(made, dtype=object))
    if not isinstance(made, xr.DataArray) and values.ndim == 1:
        values = values.rename({values.dims[0]: "run"})
    if "run" not in values.dims or values.sizes["run"] != len(trace.rows):
        raise InvalidValueError(
            f"label {name!r} has dims {dict(values.sizes)}; a label for each of the {len(trace.rows)} runs is needed"
        )
    return values.compute()

"""What a statistic returned, checked; as records of single runs, and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.statistics.grouping import plain
from attlas.analysis.surveys.specs import Spec
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError
from attlas.schemas.statistics import Record

__all__ = ["canonical", "from_records", "to_records"]


def canonical(made: Any, spec: Spec, trace: Trace) -> xr.DataArray:
    """Give a result run first, float64, and its labels only; lazy if it was.

    Raises
    ------
    InvalidValueError
        If it is no numbers with a run dim of the trace's runs.
    """
    what = f"{'map' if spec.is_map else 'statistic'} {spec.label!r}"
    if not isinstance(made, xr.DataArray):
        raise InvalidValueError(f"{what} returned {type(made).__name__}; a DataArray with dim run is needed")
    sizes = ", ".join(f"{dim} {size}" for dim, size in made.sizes.items()) or "no dim"
    if "run" not in made.dims:
        raise InvalidValueError(f"{what} returned {sizes}; a dim run with one entry for each run is needed")
    if made.sizes["run"] != len(trace.rows):
        raise InvalidValueError(f"{what} returned {sizes} for {len(trace.rows)} runs; one entry for each is needed")
    if "run" in made.coords and [str(run) for run in made["run"].values] != list(trace.run_ids):
        raise InvalidValueError(f"{what} returned runs in another order, or other runs, than those of the trace")
    if made.dtype.kind not in "fiub":
        raise InvalidValueError(f"{what} returned {made.dtype}; numbers are needed")
    if spec.is_map and made.ndim < 3:
        raise InvalidValueError(f"{what} returned {sizes}; (run, ..., rows, columns) is needed")
    turned = made.transpose("run", ...)
    dims = set(turned.dims)
    kept = {
        str(name): coord
        for name, coord in turned.coords.items()
        if coord.dims and set(coord.dims) <= dims and coord.dims != ("run",)
    }
    ranks = {str(dim): np.arange(size) for dim, size in turned.sizes.items() if dim not in kept and dim != "run"}
    bare = turned.drop_vars(list(turned.coords)).astype(np.float64)
    return bare.assign_coords({**kept, **ranks, "run": list(trace.run_ids)}).rename(spec.label)


def to_records(values: xr.DataArray, fingerprints: Sequence[str]) -> list[Record]:
    """Take canonical values in memory apart by run."""
    dims = tuple(str(dim) for dim in values.dims[1:])
    coords = {dim: _listed(values[dim]) for dim in dims}
    made = []
    for place, fingerprint in enumerate(fingerprints):
        one = values.isel(run=place)
        labels = {
            str(name): (tuple(str(dim) for dim in coord.dims), _listed(coord))
            for name, coord in one.coords.items()
            if coord.dims and name not in dims
        }
        made.append(Record(fingerprint, np.asarray(one.values, dtype=np.float64), dims, coords, labels))
    return made


def from_records(records: Sequence[Record], runs: Sequence[str], name: str) -> xr.DataArray:
    """Put runs together; where they know different words or other labels, what a run lacks is NaN."""
    first = records[0]
    if all((one.dims, one.coords) == (first.dims, first.coords) for one in records):
        return _stacked(records, runs, name)
    if any(set(one.dims) != set(first.dims) for one in records):
        raise InvalidValueError(f"statistic {name!r} has dims {first.dims} in one run and others in another")
    parts = [_stacked([record], [run], name) for record, run in zip(records, runs, strict=True)]
    joined: xr.DataArray = xr.concat(parts, "run", join="outer", coords="different", compat="equals")
    return joined


def _stacked(records: Sequence[Record], runs: Sequence[str], name: str) -> xr.DataArray:
    first = records[0]
    values = np.stack([record.values for record in records])
    coords: dict[str, Any] = {dim: list(labels) for dim, labels in first.coords.items()}
    for label, (dims, told) in first.labels.items():
        shape = [values.shape[1 + first.dims.index(dim)] for dim in dims]
        if all(record.labels.get(label) == (dims, told) for record in records):
            coords[label] = (dims, np.asarray(told, dtype=object).reshape(shape))
        else:
            rows = [np.asarray(record.labels.get(label, (dims, told))[1], dtype=object) for record in records]
            coords[label] = (("run", *dims), np.stack(rows).reshape(-1, *shape))
    return xr.DataArray(values, dims=("run", *first.dims), coords={**coords, "run": list(runs)}, name=name)


def _listed(coord: xr.DataArray) -> tuple[Any, ...]:
    return tuple(plain(label) for label in coord.values.ravel())

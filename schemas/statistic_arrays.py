"""Records of many runs as arrays, and back bit for bit: pure, for any rows at a time.

A row is whole, or it is none: its fingerprint ends in a checksum of all that the row holds. So whatever a killed
writer, a half-made copy or a writer of the same moment leaves, no reader takes it for numbers of a run.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.schemas.statistic_forms import Form, Labels
from attlas.schemas.statistic_records import KINDS, Record, decode, encode
from attlas.schemas.variables import STATISTIC_VARIABLES, Variable

__all__ = ["Arrays", "array_shape", "array_variables", "blank", "block_rows", "entry", "pack", "shared", "unpack"]

Arrays = dict[str, NDArray[Any]]

BLOCK_BYTES = 2**20
"""Raw bytes that a block of rows of the numbers aims at: a block is written whole."""

MOST_ROWS = 1024

_TABLE = STATISTIC_VARIABLES
VALUE, FINGERPRINT = _TABLE["value"].name, _TABLE["fingerprint"].name


def array_variables(form: Form, unit: str, meaning: str) -> list[Variable]:
    """All arrays of a statistic, the fingerprint last; those with ``run`` have rows, the others are `shared`."""
    dims = form.dims
    made = [replace(_TABLE["value"], dims=("run", *dims.values()), unit=unit, meaning=meaning)]
    for own in form.every:
        template = _TABLE["LABEL" if own.name not in dims else "DIM_label" if own.by_run else "DIM"]
        told = template.meaning.replace("DIM", own.name) + (", as JSON" if own.kind == "json" else "")
        along = (*(("run",) if own.by_run else ()), *(dims[dim] for dim in own.dims))
        made.append(replace(template, name=own.array, dims=along, dtype=KINDS[own.kind], meaning=told))
    for axis in form.axes:
        if axis.ragged:
            counts = _TABLE["DIM_count"]
            made.append(replace(counts, name=axis.count, meaning=counts.meaning.replace("DIM", axis.labels.name)))
    return [*made, _TABLE["fingerprint"]]


def array_shape(form: Form, variable: Variable, rows: int) -> tuple[int, ...]:
    """Shape of one of the arrays with so many rows."""
    sizes = {axis.dim: axis.size for axis in form.axes}
    return tuple(rows if dim == "run" else sizes[dim] for dim in variable.dims)


def block_rows(form: Form) -> int:
    """Rows of a block, a power of two."""
    room = BLOCK_BYTES // (8 * max(1, math.prod(form.sizes.values())))
    return min(MOST_ROWS, 1 << max(0, room.bit_length() - 1))


def shared(form: Form) -> Arrays:
    """Labels that are the same for every run."""
    sizes = form.sizes
    made = {}
    for own in form.every:
        if not own.by_run:
            labels = range(sizes[own.name]) if own.same is None else own.same
            made[own.array] = encode(labels, own.kind).reshape([sizes[dim] for dim in own.dims])
    return made


def blank(form: Form, rows: int) -> Arrays:
    """Rows in which nothing was computed."""
    return {
        own.name: np.full(array_shape(form, own, rows), own.fill, dtype=object if own.dtype == "str" else own.dtype)
        for own in array_variables(form, "", "")
        if own.dims[:1] == ("run",)
    }


def entry(record: Record) -> str:
    """Text of ``fingerprint`` that belongs to a record."""
    return f"{record.fingerprint}-{record.checksum}"


def pack(form: Form, record: Record, arrays: Arrays, row: int) -> None:
    """Put a record, which the form holds, into a row."""
    for name, values in blank(form, 1).items():
        arrays[name][row] = values[0]
    sizes = record.sizes
    arrays[VALUE][_region(row, sizes.values())] = record.values
    for own in form.every:
        if own.by_run:
            told = record.coords[own.name] if own.name in sizes else record.labels[own.name][1]
            shape = [sizes[dim] for dim in own.dims]
            arrays[own.array][_region(row, shape)] = encode(told, own.kind).reshape(shape)
    for axis in form.axes:
        if axis.ragged:
            arrays[axis.count][row] = sizes[axis.labels.name]
    arrays[FINGERPRINT][row] = entry(record)


def unpack(form: Form, arrays: Arrays, row: int) -> Record | None:
    """Take the record out of a row; None where there is none, or where it is not whole."""
    fingerprint, _, checksum = str(arrays[FINGERPRINT][row]).rpartition("-")
    sizes = {axis.labels.name: int(arrays[axis.count][row]) if axis.ragged else axis.size for axis in form.axes}
    if not checksum or any(not 0 <= sizes[dim] <= room for dim, room in form.sizes.items()):
        return None
    try:
        told = {own.name: _told(own, arrays, row, sizes) for own in form.every}
        values = np.array(arrays[VALUE][_region(row, sizes.values())], dtype=np.float64)
        labels = {own.name: (own.dims, told[own.name]) for own in form.labels}
        made = Record(fingerprint, values, tuple(sizes), {dim: told[dim] for dim in sizes}, labels)
    except ValueError:
        # Texts of two writers, one of which kept JSON.
        return None
    return made if made.checksum == checksum else None


def _told(own: Labels, arrays: Arrays, row: int, sizes: dict[str, int]) -> tuple[Any, ...]:
    if own.same is not None:
        return own.same
    if own.ranks:
        return tuple(range(sizes[own.name]))
    return decode(arrays[own.array][_region(row, [sizes[dim] for dim in own.dims])], own.kind)


def _region(row: int, sizes: Iterable[int]) -> tuple[int | slice, ...]:
    return (row, *(slice(size) for size in sizes))

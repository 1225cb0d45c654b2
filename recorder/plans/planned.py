"""What a recording will write and how long it will take, as numbers and as a table for people."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from attlas.recorder.plans.tables import aligned, human_bytes, human_time
from attlas.schemas.variables import LEAF_VARIABLES, ROOT_VARIABLES

__all__ = ["Plan", "PlannedArray", "PlannedTime"]

_DATA = {
    v.name for v in (*LEAF_VARIABLES.values(), *ROOT_VARIABLES.values()) if v.role == "data" and v.group != "always"
}


@dataclass(frozen=True)
class PlannedArray:
    """One array of the store, for the runs to be made.

    ``raw`` is the bytes of its numbers (0 where it is text), ``stored`` those of its files, None where nothing was
    drawn to measure them; ``files`` is their number. Columns of the run table have a file for many runs.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    raw: int
    stored: int | None
    files: int

    @classmethod
    def of(
        cls, name: str, dims: tuple[str, ...], shape: tuple[int, ...], dtype: str, stored: int | None, files: int
    ) -> "PlannedArray":
        """Make one whose raw bytes follow from shape and dtype."""
        raw = 0 if dtype == "str" else math.prod(shape) * np.dtype(dtype).itemsize
        return cls(name, dims, shape, dtype, raw, stored, files)


@dataclass(frozen=True)
class PlannedTime:
    """Seconds that the measured run took, writing included, and how much of its first denoiser call was warm-up.

    ``measured`` is the number of runs (pictures) that it made.
    """

    run: float
    warm_up: float
    measured: int


@dataclass(frozen=True)
class Plan:
    """What `record` will write.

    Attributes
    ----------
    pipeline
        Class of the pipeline.
    store
        Where to; empty if that was not said.
    runs, complete
        Runs that will be made, and those that the store holds already.
    branches, calls, kept
        Guidance branches that are kept, denoiser calls of a run, and how many of them are kept.
    arrays
        Every array, with its shape for the runs to be made.
    metadata
        Bytes of the files that describe the arrays; None where nothing was measured.
    time
        What the measured run took; None where none was.

    The other numbers follow: ``raw`` and ``stored`` bytes in all, ``files``, and ``seconds`` for all the runs. With a
    store that is there, the bytes are those that will be added to it.
    """

    pipeline: str
    store: str
    runs: int
    complete: int
    branches: tuple[str, ...]
    calls: int
    kept: int
    arrays: tuple[PlannedArray, ...]
    metadata: int | None
    metadata_files: int
    time: PlannedTime | None

    @property
    def raw(self) -> int:
        """Bytes of all numbers, uncompressed."""
        return sum(array.raw for array in self.arrays)

    @property
    def stored(self) -> int | None:
        """Bytes of all files; None where nothing was measured."""
        if self.metadata is None:
            return None
        return self.metadata + sum(array.stored or 0 for array in self.arrays)

    @property
    def files(self) -> int:
        """Number of files, which are the objects of a store in object storage."""
        return self.metadata_files + sum(array.files for array in self.arrays)

    @property
    def seconds(self) -> float | None:
        """Estimated time of all the runs; None where nothing was measured."""
        if self.time is None:
            return None
        return self.time.warm_up + (self.time.run - self.time.warm_up) * self.runs / self.time.measured

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        totals = {"raw": self.raw, "stored": self.stored, "files": self.files, "seconds": self.seconds}
        return {**asdict(self), **totals}

    def __repr__(self) -> str:
        """Return the plan as a table."""
        title = f"{_count(self.runs, 'run')} of {self.pipeline}"
        if self.complete:
            title += f" ({self.complete} more {'is' if self.complete == 1 else 'are'} complete in {self.store})"
        if not self.runs:
            return f"{title}: nothing is left to do"
        calls = _count(self.calls, "denoiser call") + (f", {self.kept} of them kept" if self.kept < self.calls else "")
        branches = f"guidance branch{'es' if len(self.branches) > 1 else ''} {', '.join(self.branches)}"
        each = " each" if self.runs > 1 else ""
        lines = [f"{title}: {calls}{each}, {branches}", "", self._table()]
        return "\n".join([*lines, "", *self._totals()])

    def _table(self) -> str:
        large = [array for array in self.arrays if array.name.rsplit("/", 1)[-1] in _DATA]
        small = [array for array in self.arrays if array not in large]
        rows = [("array", "dims", "shape", "dtype", "raw", "stored")]
        for array in large:
            shape = "x".join(str(size) for size in array.shape)
            rows.append((array.name, " ".join(array.dims), shape, array.dtype, *_sizes(array.raw, array.stored)))
        rows.append((f"{_count(len(small), 'array')} of labels and clocks", "", "", "", *_sizes(*_sum(small))))
        rows.append(("metadata", "", "", "", "", _size(self.metadata)))
        rows.append(("total", "", "", "", *_sizes(self.raw, self.stored)))
        return aligned(rows, right=(4, 5))

    def _totals(self) -> list[str]:
        if self.time is None or self.stored is None or self.seconds is None:
            return [f"nothing was drawn: compressed size and time of {_count(self.files, 'file')} are not known"]
        one = (self.time.run - self.time.warm_up) / self.time.measured
        size = f"size  {human_bytes(self.stored)} in {_count(self.files, 'file')}"
        time = f"time  {human_time(self.seconds)}: {human_time(one)} a run"
        if one > 0:
            time += f", {self.calls / one:.3g} calls/s"
        if self.time.warm_up > 0:
            time += f"; the first call takes {human_time(self.time.warm_up)} longer"
        return [size, time, "measured with the first run, as it would be recorded; nothing was written"]


def _sum(arrays: Iterable[PlannedArray]) -> tuple[int, int | None]:
    listed = list(arrays)
    measured = any(array.stored is not None for array in listed)
    return sum(array.raw for array in listed), sum(array.stored or 0 for array in listed) if measured else None


def _size(size: int | None) -> str:
    return "?" if size is None else human_bytes(size)


def _sizes(raw: int, stored: int | None) -> tuple[str, str]:
    return human_bytes(raw), _size(stored)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"

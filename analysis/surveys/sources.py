"""The stores of a survey: complete runs only, of one model unless they are kept apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attlas.analysis.opening import open_trace
from attlas.analysis.store_paths import short_names, stores_at
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError

__all__ = ["Source", "Traces", "read_sources"]

One = Trace | str | Path
Traces = One | Sequence[One]


@dataclass(frozen=True)
class Source:
    """One store of a survey: its complete runs, its name, the name of its model, and how many runs are not complete.

    ``places`` are those of its runs among all that are surveyed, in the order in which they were given.
    """

    trace: Trace
    name: str
    model: str
    incomplete: int
    places: tuple[int, ...]


def read_sources(traces: Traces, by: Any, *, allow_models: bool) -> list[Source]:
    """Open what is given by path or pattern, take traces apart by store, and name each store and model.

    Raises
    ------
    InvalidValueError
        If stores are of different models, which neither `by` keeps apart nor `allow_models` lets count together.
    """
    listed = [traces] if isinstance(traces, (Trace, str, Path)) else list(traces)
    if not listed:
        raise InvalidValueError("no store is given; one or more are needed")
    parts = list(_parts(listed))
    opened = [trace for trace, _ in parts]
    apart = {own for own in ([by] if isinstance(by, str) else by if isinstance(by, (list, tuple)) else [])
             if isinstance(own, str)}  # fmt: skip
    first = opened[0]
    for other in opened[1:]:
        if other.manifest.model_digest != first.manifest.model_digest and not (
            allow_models or {"model", "store"} & apart
        ):
            raise InvalidValueError(
                f"{first.where} is of model {_model(first)} and {other.where} of {_model(other)}: their runs do not "
                "count together; group by model (by='model', --by model), or allow it (allow_models=True)"
            )
    return [
        Source(_complete(trace), name, model, trace.incomplete, places)
        for (trace, places), name, model in zip(parts, _store_names(opened), _model_names(opened), strict=True)
    ]


def _parts(given: Sequence[One]) -> Iterator[tuple[Trace, tuple[int, ...]]]:
    """Give a trace of each store, and the places of its complete runs among all complete runs."""
    before = 0
    for own in given:
        for trace in [own] if isinstance(own, Trace) else [open_trace(path) for path in stores_at(own)]:
            flags = trace.runs["complete"].values
            ranks = np.cumsum(flags) - 1 + before
            for part in trace.parts:
                yield part.trace, tuple(int(ranks[place]) for place in part.places if flags[place])
            before += int(flags.sum())


def _complete(trace: Trace) -> Trace:
    """Trace without the runs that are not complete."""
    flags = trace.runs["complete"].values
    return trace if bool(flags.all()) else trace.isel([place for place, done in enumerate(flags) if done])


def _model(trace: Trace) -> str:
    return f"{trace.manifest.model} ({trace.manifest.model_digest[:8]})"


def _store_names(traces: Sequence[Trace]) -> list[str]:
    """Name stores by their file, and by their path where files are named alike."""
    return short_names([trace.path or "memory" for trace in traces])


def _model_names(traces: Sequence[Trace]) -> list[str]:
    """Name models as their manifests do; where one name is of several weights, with their digest."""
    weights: dict[str, set[str]] = {}
    for trace in traces:
        weights.setdefault(trace.manifest.model, set()).add(trace.manifest.model_digest)
    return [trace.manifest.model if len(weights[trace.manifest.model]) == 1 else _model(trace) for trace in traces]

"""One leaf's share of a map: from a summary where that suffices, from the full arrays where it must be."""

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.key_parts import KeyPart
from attlas.analysis.aggregation.selection import Part
from attlas.analysis.aggregation.together import Mean, Pass, means_of
from attlas.analysis.aggregation.vocabulary_term import VocabularyKeys, vocabulary_term
from attlas.analysis.aggregation.weights import axis_weights
from attlas.analysis.blockwise.blocks import DIMS, used_places
from attlas.analysis.trace import Trace
from attlas.schemas.errors import NotRecordedError, unknown_name

__all__ = ["SOURCES", "Question", "leaf_term"]

SOURCES = ("auto", "summary", "full")


@dataclass(frozen=True)
class Question:
    """What is asked of every leaf: the direction, the axis that the map lives on, and what is looked at."""

    direction: str
    onto: str
    branches: tuple[str, ...]
    calls: list[int] | None
    keys: Any
    key_part: KeyPart
    queries: Any
    time: bool
    source: str

    @property
    def averaged(self) -> str:
        """The axis that is averaged away."""
        return "query" if self.onto == "key" else "key"


def leaf_term(trace: Trace, part: Part, question: Question) -> tuple[xr.Variable, str]:
    """Mean of the chosen attention over the averaged axis, and the array that it was read from.

    Lazy, ``(run, branch[, t], layer, head, onto)`` in float32; t is summed away already where it came from
    ``attention_mean``. Entries that are not chosen along ``onto`` are 0.
    """
    if question.source not in SOURCES:
        raise unknown_name("source", question.source, SOURCES)
    chosen = {"key": question.keys, "query": question.queries}

    def weights_of(axis: str) -> da.Array | None:
        return axis_weights(trace, part.name, axis, chosen[axis], question.branches, question.key_part)

    open_words = isinstance(question.keys, VocabularyKeys)
    weights = None if open_words else weights_of(question.averaged)
    source = "vocabulary" if open_words else _source(trace, part, question, weights is not None)
    if open_words:
        term = vocabulary_term(trace, part, question)
    elif source == "full":
        calls = None if question.calls is None else tuple(question.calls)
        reading = Pass(trace, part.name, question.branches, calls, part.place)
        (mean,) = means_of(reading, [Mean(question.direction, question.onto, weights)])
        term = xr.Variable((*DIMS[:5], question.onto), mean)
    elif source == "attention_mean":
        term = _from_time_mean(trace, part, question, weights)
    else:
        term = _stored(trace, part, question, source)
        term = term if question.calls is None else term.isel(t=question.calls)
    kept = weights_of(question.onto)
    if kept is not None:
        term = term * xr.Variable(("run", "branch", question.onto), kept)
    return term, source


def _source(trace: Trace, part: Part, question: Question, weighted: bool) -> str:
    """Name of the summary array that answers the question, or ``full``."""
    summary = None
    if not weighted and (question.direction, question.onto) in (("g2r", "key"), ("r2g", "query")):
        summary = question.direction
    elif question.direction == "g2r" and not question.time and question.calls is None:
        summary = "attention_mean"
    if question.source != "full" and summary is not None and trace.holds(part.name, summary):
        return summary
    full = trace.holds(part.name, "log_attention") or trace.holds(part.name, "query_vectors")
    if question.source != "summary" and full:
        return "full"
    raise NotRecordedError(f"{trace.where}: {_why(part, question, weighted, full)}")


def _stored(trace: Trace, part: Part, question: Question, name: str) -> xr.Variable:
    """Array of the chosen layers and heads, its branches in the order of the question."""
    stored = trace.array(part.name, name, question.branches[0] if len(question.branches) == 1 else None)
    return stored.isel(part.place) if part.place else stored


def _why(part: Part, question: Question, weighted: bool, full: bool) -> str:
    if question.source == "full" or full:
        asked = "has no full arrays" if question.source == "full" else "has no summary that answers this"
        fix = 'Capture(detail="full")' if question.source == "full" else 'source="auto" to use its full arrays'
        return f"leaf {part.name} {asked}; {'record with ' if question.source == 'full' else 'ask with '}{fix}"
    if question.direction == "r2g":
        what = f"r2g {'of chosen ' + ('keys' if question.onto == 'query' else 'queries') if weighted else 'onto keys'}"
    elif question.time or question.calls is not None:
        what = "single steps of chosen keys or queries (attention_mean keeps their mean over t only)"
    else:
        what = "chosen keys or queries (this leaf is too large to keep attention_mean, or is of another kind)"
    return f'leaf {part.name} holds summaries only, which do not tell {what}; record with Capture(detail="full")'


def _from_time_mean(trace: Trace, part: Part, question: Question, weights: da.Array | None) -> xr.Variable:
    """Sum over t of the mean over the averaged axis: the number of calls times the stored mean over t."""
    stored = _stored(trace, part, question, "attention_mean")
    dims = ("run", "branch", "layer", "head", question.onto)
    pairs: list[Any] = [stored.data, ("run", "branch", "layer", "head", "query", "key")]
    if weights is not None:
        lead = stored.chunks or ()
        pairs += [weights.rechunk((lead[0], lead[1], weights.shape[2])), ("run", "branch", "averaged")]
    data = da.blockwise(
        _time_mean_block,
        dims,
        *pairs,
        onto=question.onto,
        calls=trace.calls,
        concatenate=True,
        align_arrays=False,
        dtype=np.float32,
        meta=np.empty((0,) * 5, np.float32),
    )
    return xr.Variable(dims, data)


def _time_mean_block(
    values: NDArray[np.float16], weights: NDArray[np.float32] | None = None, *, onto: str, calls: int
) -> NDArray[np.float32]:
    """`values` (run, branch, layer, head, query, key); float16 is cast before anything is summed."""
    axis = -2 if onto == "key" else -1
    if weights is None:
        return np.asarray(values.astype(np.float32).mean(axis) * np.float32(calls))
    used = used_places(weights)
    attention, weights = np.take(values, used, axis).astype(np.float32), weights[..., used]
    with np.errstate(invalid="ignore"):  # nothing chosen in this run: NaN is what is meant
        share = weights / weights.sum(-1, keepdims=True)
    subscripts = "rblhqk,rbq->rblhk" if onto == "key" else "rblhqk,rbk->rblhq"
    return np.asarray(np.einsum(subscripts, attention, share, optimize=True) * np.float32(calls))

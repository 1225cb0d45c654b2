"""Scores of a store against what was annotated while recording; each is a `ScoreTable`, which prints as a table."""

from collections.abc import Callable

from attlas.analysis.scoring.number_scores import score_numbers
from attlas.analysis.scoring.reference_scores import reference_kind, score_reference
from attlas.analysis.scoring.score_table import Score, ScoreTable
from attlas.analysis.scoring.word_scores import score_words
from attlas.analysis.sink_rule import Sinks
from attlas.analysis.trace import Trace
from attlas.analysis.words import text_kind
from attlas.schemas.errors import NotRecordedError

__all__ = ["Score", "ScoreTable", "score", "score_numbers", "score_reference", "score_words"]


def score(trace: Trace, truth: Trace | None = None, *, sinks: str | Sinks | None = None) -> list[ScoreTable]:
    """All tables that the store's attention and annotations allow.

    `truth` gives the masks of the word scores where it has runs of the same ids; see `score_words`. `sinks` are
    left out of the maps, as in `aggregate`.

    Raises
    ------
    NotRecordedError
        If there is none, with the reason for each.
    """
    reference = reference_kind(trace)
    shared = truth is not None and set(truth.run_ids) & set(trace.run_ids)
    makers: list[tuple[str | None, Callable[[], ScoreTable]]] = [
        (text_kind(trace), lambda: score_words(trace, truth=truth if shared else None, sinks=sinks)),
        (reference, lambda: score_reference(trace, kind=reference, sinks=sinks)),
        (None, lambda: score_numbers(trace)),
    ]
    tables, reasons = [], []
    for kind, make in makers:
        if kind is not None and kind not in trace.kinds:
            continue
        try:
            tables.append(make())
        except NotRecordedError as err:
            reasons.append(str(err))
    if not tables:
        raise NotRecordedError("\n".join(reasons))
    return tables

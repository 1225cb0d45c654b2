"""Scores of a store against what was annotated while recording; each is a `ScoreTable`, which prints as a table."""

from attlas.analysis.number_scores import score_numbers
from attlas.analysis.reference_scores import score_reference
from attlas.analysis.score_table import Score, ScoreTable
from attlas.analysis.trace import Trace
from attlas.analysis.word_scores import score_words
from attlas.schemas.errors import NotRecordedError

__all__ = ["Score", "ScoreTable", "score", "score_numbers", "score_reference", "score_words"]


def score(trace: Trace) -> list[ScoreTable]:
    """All tables that the store's attention and annotations allow.

    Raises
    ------
    NotRecordedError
        If there is none, with the reason for each.
    """
    tables, reasons = [], []
    for kind, function in (("text", score_words), ("image", score_reference), (None, score_numbers)):
        if kind is not None and kind not in trace.kinds:
            continue
        try:
            tables.append(function(trace))
        except NotRecordedError as err:
            reasons.append(str(err))
    if not tables:
        raise NotRecordedError("\n".join(reasons))
    return tables

"""Means of the numbers that were noted of each run, such as how good its picture is."""

import numpy as np

from attlas.analysis.scoring.score_table import ScoreTable, score_of
from attlas.analysis.trace import Trace
from attlas.schemas.errors import NotRecordedError

__all__ = ["score_numbers"]


def score_numbers(trace: Trace) -> ScoreTable:
    """Mean of each annotation that is a number, or a list of numbers, per run.

    Returns
    -------
    `ScoreTable`; n counts numbers, not runs. NaN means not given and does not count.

    Raises
    ------
    NotRecordedError
        If no annotation is a number.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> score_numbers(open_trace(simulate_store(runs=2)))["quality"].n
    2
    """
    noted = {
        str(name): values
        for name, values in trace.annotations.data_vars.items()
        if values.ndim <= 2 and np.issubdtype(values.dtype, np.floating)
    }
    if not noted:
        raise NotRecordedError(f"{trace.where}: no annotation is a number")
    scores = [score_of(name, np.ravel(values.values), "as noted while recording") for name, values in noted.items()]
    return ScoreTable(f"numbers of {trace.where}", {score.name: score for score in scores})

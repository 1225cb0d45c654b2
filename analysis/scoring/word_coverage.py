"""How much of the picture each word of a prompt acts on, by part of speech (DAAM section 3.2)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.aggregation.resample import check_picture, spatial_dims
from attlas.analysis.metrics import coverage
from attlas.analysis.papers.daam import hard
from attlas.analysis.papers.span_maps import span_maps
from attlas.analysis.scoring.label_means import means_by_label
from attlas.analysis.speech import Tagger, spans_of, tagged_words
from attlas.analysis.trace import Trace

__all__ = ["by_speech", "coverage_of", "intensity", "word_coverage"]


def intensity(values: xr.DataArray) -> xr.DataArray:
    """Mean of each map over its maximum, in [0, 1]: its coverage averaged over all thresholds of the paper's rule.

    What DAAM calls the intensity of a part of speech is `attlas.analysis.metrics.coverage` of the hard map at one
    threshold; this needs none. Lazy; NaN where the map has a NaN or nothing above 0.

    Examples
    --------
    >>> float(intensity(xr.DataArray([[0.0, 0.2], [0.2, 0.4]], dims=("y", "x"))))
    0.5
    """
    dims = spatial_dims(values)
    top = values.max(dims, skipna=False)
    made = values.mean(dims, skipna=False) / top.where(top > 0)
    made.attrs = {"units": "1", "long_name": "mean over maximum"}
    return made


def word_coverage(
    trace: Trace,
    tagger: Tagger | Mapping[str, str] | None = None,
    *,
    tau: float = 0.4,
    variant: str = "paper",
    rule: str | None = None,
    branch: str = "cond",
    **options: Any,
) -> xr.Dataset:
    """Coverage and intensity of every word of every prompt.

    Parameters
    ----------
    trace
        From `open_trace`; no videos.
    tagger
        Function from a text to ``(start, end, tag)`` of its words, or a tag for each word; None is spaCy's, see
        `attlas.analysis.speech`.
    tau, variant, rule
        Of `attlas.analysis.papers.daam.hard`; the released variant thresholds at the picture's size.
    branch
        Guidance branch.
    **options
        Of `attlas.analysis.papers.span_maps.span_map`, such as ``layers`` or ``merge``.

    Returns
    -------
    Dataset of ``(run, word)``, float32, unit 1, lazy: ``coverage``, the fraction of the cells in the hard map, which
    the paper calls intensity; ``intensity``, see `intensity`. Coordinates ``text`` and ``pos``. A word whose tokens
    the model does not see is NaN, and so are places behind a prompt's last word.

    Raises
    ------
    InvalidValueError
        If there is no tagger, no word, or the store holds videos.
    NotRecordedError
        If the store has no text attention.

    References
    ----------
    DAAM (Tang et al. 2022), section 3.2 and Fig. 5.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.analysis.speech import lexicon_tagger
    >>> from attlas.schemas import simulate_store
    >>> tag = lexicon_tagger({"a": "DET", "red": "ADJ", "disc": "NOUN"})
    >>> made = word_coverage(open_trace(simulate_store(runs=1, prompt="a red disc")), tag)
    >>> made["coverage"].dims, made["pos"].values.tolist()
    (('run', 'word'), [['DET', 'ADJ', 'NOUN']])
    """
    words = tagged_words(trace, tagger, branch=branch)
    maps = span_maps(trace, spans_of(words), variant=variant, branch=branch, **options)
    return coverage_of(maps, words, trace.image_shape, tau=tau, variant=variant, rule=rule)


def coverage_of(
    maps: xr.DataArray,
    words: xr.Dataset,
    shape: tuple[int, int],
    *,
    tau: float = 0.4,
    variant: str = "paper",
    rule: str | None = None,
) -> xr.Dataset:
    """Coverage and intensity of maps that are there already; what `word_coverage` returns.

    Parameters
    ----------
    maps
        ``(run, word, query_y, query_x)``, from `attlas.analysis.papers.span_maps.span_maps` with the same `variant`.
    words
        From `attlas.analysis.speech.tagged_words`.
    shape
        Rows and columns of the picture.
    tau, variant, rule
        As in `word_coverage`.
    """
    check_picture(maps, "the coverage of a word")
    high = hard(maps, tau, variant=variant, rule=rule, grid=shape if variant == "released" else None)
    made = xr.Dataset({"coverage": coverage(high).astype(np.float32), "intensity": intensity(maps).astype(np.float32)})
    made = made.drop_vars([name for name in made.coords if name not in ("run", "word")])
    named = {name: (("run", "word"), words[name].values) for name in ("text", "pos")}
    return made.assign_coords(named).assign_attrs(threshold=high.attrs["threshold"], variant=variant)


def by_speech(table: xr.Dataset) -> xr.Dataset:
    """Mean coverage and intensity of each part of speech with 95 % intervals.

    Parameters
    ----------
    table
        From `word_coverage`; computed here.

    Returns
    -------
    Dataset along ``pos``, largest coverage last: ``coverage``, ``coverage_ci95``, ``intensity``, ``intensity_ci95``,
    ``n`` (words) and ``runs``. Intervals as in `attlas.analysis.scoring.label_means.means_by_label`.
    """
    whole = table.compute()
    made = {name: means_by_label(whole[name], whole["pos"], name="pos") for name in ("coverage", "intensity")}
    columns = {
        **{name: own["mean"] for name, own in made.items()},
        **{f"{name}_ci95": own["ci95"] for name, own in made.items()},
        "n": made["coverage"]["n"],
        "runs": made["coverage"]["runs"],
    }
    joined = xr.Dataset(columns, attrs=table.attrs)
    return joined.sortby("coverage")

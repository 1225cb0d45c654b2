"""The survey: block by block of runs, a few in flight, into partial results that add up."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attlas.analysis.surveys.job import Edges, Job
from attlas.analysis.surveys.labels import By, read_labels
from attlas.analysis.surveys.partial import Pair, Partial
from attlas.analysis.surveys.result import Survey
from attlas.analysis.surveys.sources import Traces, read_sources
from attlas.analysis.surveys.specs import Asked, read_specs
from attlas.analysis.surveys.workers import made_ready
from attlas.schemas.errors import InvalidValueError, NotRecordedError

__all__ = ["QUANTILES", "survey"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def survey(
    traces: Traces,
    statistics: Asked | Iterable[Asked] | Mapping[str, Mapping[str, Any]] = (),
    *,
    by: By | Iterable[By] | None = None,
    maps: Asked | Iterable[Asked] | Mapping[str, Mapping[str, Any]] = (),
    correlate: Iterable[Pair] = (),
    quantiles: Sequence[float] = QUANTILES,
    histogram: Edges | None = None,
    block: int = 16,
    cache: bool = True,
    client: Any = None,
    partial: Partial | None = None,
    allow_models: bool = False,
    progress: bool = True,
) -> Survey:
    """Statistics over all runs of one or several stores, with intervals, by group, out of core.

    Runs are taken block by block, so that memory does not grow with their number. What a statistic found in a run is
    kept in the store, and read from there the next time: an interrupted survey goes on where it was.

    Parameters
    ----------
    traces
        A trace, a path, a URL, a pattern such as ``"runs/*.zarr"``, or several. Only complete runs count.
    statistics
        Registered names (`attlas.analysis.registry.statistics` lists them), names with options
        (``"pck1:layers=16x16"``, ``("pck1", {"layers": "16x16"})``), or functions as `statistic` describes.
    by
        Label, or several, by which numbers are grouped: a column of the run table (``prompt``, ``seed``), a number or
        text annotated of each run, a keyword of the request, ``store``, ``model``; a label of the statistic itself
        (``word``, ``layer``); a function of a trace that gives one label a run; or an array of labels. Runs with an
        empty label belong to no group.
    maps
        Registered maps, in the same ways: their mean and spread, pixel by pixel.
    correlate
        Pairs of statistics whose numbers are correlated over runs; those not in `statistics` are added.
    quantiles
        Fractions between 0 and 1, each within 1 % of its value; none to save time where a statistic has many numbers.
    histogram
        Edges for all statistics, or for those that a mapping names.
    block
        Runs that are computed together. With a client the last blocks are smaller, so that workers end together.
    cache
        Whether numbers of each run are read from the store and kept in it. Maps are not kept, only their sums.
    client
        A `distributed.Client`, whose workers compute the blocks; they open the stores by their paths.
        `attlas.analysis.surveys.workers.local_workers` starts some on this machine.
    partial
        Result of an earlier survey of the same questions: its runs are not computed again, and count once.
    allow_models
        Let stores of different models count together.
    progress
        Show a bar with runs a second and the time that is left.

    Returns
    -------
    `Survey`: `Survey.dataset` with each statistic over ``(*labels, *its own dims)``, float64, in memory: the mean by
    the statistic's name, and with ``_n _runs _variance _std _stderr _low _high`` added its number of values (NaN does
    not count) and of their runs, and 95 % interval (mean +- 1.96 standard errors, with all values of a run as one
    cluster); ``_quantiles``, ``_count`` where asked. `Survey.scores` has the numbers of each run.

    Raises
    ------
    UnknownNameError
        For an unknown statistic, map, option or label, with the close ones.
    InvalidValueError
        For stores of different models, unless grouped by ``model`` or ``store`` or `allow_models`; for a function that
        returns no number a run; for a statistic that is NaN for every run.
    NotRecordedError
        If no store has a complete run, or a statistic needs what is not there.

    Notes
    -----
    Block size, order and number of workers do not change counts, histograms and quantiles at all, and moments by less
    than 1e-12. Spearman's correlation is of the numbers run by run: partial results of it do not add up.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> made = survey(open_trace(simulate_store(runs=4)), "annotation:quality", progress=False)
    >>> made.dataset["quality_n"].item(), made.scores["quality"].dims
    (4, ('run',))
    """
    ready = made_ready(client)
    specs = read_specs(statistics)
    pairs = tuple((str(one), str(other)) for one, other in correlate)
    added = dict.fromkeys(name for pair in pairs for name in pair if name not in {spec.label for spec in specs})
    specs += read_specs(list(added)) if added else ()
    drawn = read_specs(maps, maps=True)
    if not specs and not drawn:
        raise InvalidValueError("no statistic is asked; `attlas survey --list` names those that there are")
    if block < 1:
        raise InvalidValueError(f"block = {block} runs; at least 1 is needed")
    _check_quantiles(quantiles)
    sources = read_sources(traces, by, allow_models=allow_models)
    job = Job(sources, read_labels(by, sources), specs, drawn, pairs, quantiles, histogram, cache=cache)
    total = Partial(job.settings) if partial is None else partial
    found = Partial(job.settings, left_out={source.name: source.incomplete for source in sources})
    for piece in job.run(block, {row["fingerprint"] for row in total.rows}, client, progress=progress):
        found += piece
    del ready
    total = total + found
    if not total.rows:
        raise NotRecordedError(f"{', '.join(source.trace.where for source in sources)}: no complete run to survey")
    kept = {source.name: one.state for source, one in zip(sources, job.caches, strict=True)}
    refused = {label: why for one in job.caches for label, why in one.refused.items()}
    unkept = {spec.label: spec.reason for spec in (*specs, *drawn) if spec.digest is None}
    return total.finish().noted(kept, unkept | refused)


def _check_quantiles(quantiles: Sequence[float]) -> None:
    for q in quantiles:
        if not 0 <= q <= 1:
            raise InvalidValueError(f"quantile {q!r}; 0 to 1 is accepted")

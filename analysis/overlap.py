"""How the maps of two words overlap, as in DAAM's analysis of heads and dependents."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.resample import check_picture, spatial_dims
from attlas.analysis.papers.daam import hard
from attlas.analysis.papers.span_maps import span_maps
from attlas.analysis.scoring.label_means import means_by_label
from attlas.analysis.scoring.word_pairs import Pair, Pairs, distinct_words, unrelated_pairs, word_pairs
from attlas.analysis.trace import Trace
from attlas.analysis.words import Span, prompts
from attlas.schemas.errors import InvalidValueError

__all__ = ["MEASURES", "RELEASED_OVERLAP", "by_relation", "overlap_of", "overlaps", "overlaps_of"]

MEASURES = ("iou", "iod", "ioh")

RELEASED_OVERLAP: dict[str, Any] = {"variant": "released", "rule": "absolute", "tau": 0.15, "empty": 0.0}
"""Options of `overlaps` as in the released notebook: the map's own value above 0.15, 0 where nothing is."""


def overlap_of(head: xr.DataArray, dependent: xr.DataArray, *, empty: float = math.nan) -> xr.Dataset:
    """Overlap of hard maps (above 0 is in) of two words.

    Parameters
    ----------
    head, dependent
        Maps on the same grid.
    empty
        Value where the denominator has no cell; the released notebook takes 0.

    Returns
    -------
    ``iou``, intersection over union; ``iod`` and ``ioh``, over the dependent's and the head's area. In [0, 1],
    float32, lazy, without the spatial dims. NaN where a map has a NaN.

    Examples
    --------
    >>> head = xr.DataArray([[1.0, 1.0, 1.0, 0.0]], dims=("y", "x"))
    >>> dependent = xr.DataArray([[0.0, 0.0, 1.0, 1.0]], dims=("y", "x"))
    >>> made = overlap_of(head, dependent)
    >>> float(made["iou"]), float(made["iod"]), round(float(made["ioh"]), 4)
    (0.25, 0.5, 0.3333)
    """
    dims = list(spatial_dims(head))
    made: xr.DataArray = xr.apply_ufunc(
        _measures,
        head,
        dependent,
        kwargs={"empty": empty},
        input_core_dims=[dims, dims],
        output_core_dims=[["measure"]],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {"measure": len(MEASURES)}},
    )
    return _named(made)


def overlaps(
    trace: Trace,
    pairs: Pairs | None = None,
    *,
    tau: float = 0.4,
    variant: str = "paper",
    rule: str | None = None,
    empty: float = math.nan,
    unrelated: bool = False,
    branch: str = "cond",
    **options: Any,
) -> xr.Dataset:
    """Overlap of the word maps of pairs of words, in every run.

    Parameters
    ----------
    trace
        From `open_trace`; no videos.
    pairs
        ``(head, dependent)`` or ``(head, dependent, relation)``, words or phrases, of which all occurrences count; or
        a function from a prompt to ``(span of head, span of dependent, relation)``; None is spaCy's dependency
        parser.
    tau, variant, rule
        Of `attlas.analysis.papers.daam.hard`, on the maps' own grid. ``overlaps(trace, **RELEASED_OVERLAP)`` is as the
        released notebook has it.
    empty
        As in `overlap_of`.
    unrelated
        Whether to add all other pairs of the words found, under the relation ``unrelated``: what is to be expected of
        any two words. The first in the prompt is the head.
    branch
        Guidance branch.
    **options
        Of `attlas.analysis.papers.span_maps.span_map`.

    Returns
    -------
    Dataset of ``(run, pair)``: ``iou``, ``iod``, ``ioh`` as in `overlap_of`, lazy; coordinates ``head``, ``dependent``
    and ``relation``, empty behind a run's last pair. A pair of which the prompt lacks a word, or of which the model
    sees no token, is NaN.

    Raises
    ------
    UnknownNameError
        If no prompt has a word of `pairs`.
    InvalidValueError
        If no prompt has a pair, or a pair is none; if the parser is missing; if the store holds videos.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> trace = open_trace(simulate_store(runs=1, prompt="a red disc"))
    >>> made = overlaps(trace, [("disc", "red", "amod")])
    >>> made["iou"].dims, made["relation"].values.tolist()
    (('run', 'pair'), [['amod']])
    """
    found = word_pairs(trace, pairs, branch=branch)
    words = [distinct_words(row) for row in found]
    if unrelated:
        found = [row + unrelated_pairs(row, own) for row, own in zip(found, words, strict=True)]
    if not any(found):
        raise InvalidValueError(f"no prompt of {trace.where} has a pair of words")
    maps = span_maps(trace, words, variant=variant, branch=branch, **options)
    texts = prompts(trace, branch)
    return overlaps_of(maps, found, words, texts, tau=tau, variant=variant, rule=rule, empty=empty)


def overlaps_of(
    maps: xr.DataArray,
    found: Sequence[Sequence[Pair]],
    words: Sequence[Sequence[Sequence[Span]]],
    texts: Sequence[str],
    *,
    tau: float = 0.4,
    variant: str = "paper",
    rule: str | None = None,
    empty: float = math.nan,
) -> xr.Dataset:
    """Overlap of pairs among maps that are there already; what `overlaps` returns.

    Parameters
    ----------
    maps
        ``(run, word, query_y, query_x)``, from `attlas.analysis.papers.span_maps.span_maps` of `words` with the same
        `variant`.
    found
        Pairs of each run, from `attlas.analysis.scoring.word_pairs.word_pairs`.
    words
        Spans of each run's words; every word of a pair is among them.
    texts
        Prompts.
    tau, variant, rule, empty
        As in `overlaps`.
    """
    check_picture(maps, "the overlap of two words")
    high = hard(maps, tau, variant=variant, rule=rule)
    most = max(len(row) for row in found)
    places = np.full((2, len(found), most), -1)
    for run, (row, own) in enumerate(zip(found, words, strict=True)):
        for pair, (*ends, _) in enumerate(row):
            places[:, run, pair] = [own.index(end) for end in ends]
    heads, dependents = (_chosen(high, own) for own in places)
    made = overlap_of(heads, dependents, empty=empty)
    known = xr.DataArray((places >= 0).all(0), dims=("run", "pair"))
    made = made.where(known).drop_vars([name for name in made.coords if name != "run"])
    return made.assign_coords(_labels(texts, found, most)).assign_attrs(
        threshold=high.attrs["threshold"], variant=variant
    )


def by_relation(table: xr.Dataset) -> xr.Dataset:
    """Mean overlap of each relation with 95 % intervals.

    Parameters
    ----------
    table
        From `overlaps`; computed here.

    Returns
    -------
    Dataset along ``relation``: each measure, its ``_ci95``, and ``n``, the pairs. Intervals as in
    `attlas.analysis.scoring.label_means.means_by_label`.
    """
    whole = table.compute()
    made = {name: means_by_label(whole[name], whole["relation"], name="relation") for name in MEASURES}
    columns = {name: own["mean"] for name, own in made.items()}
    columns |= {f"{name}_ci95": own["ci95"] for name, own in made.items()}
    return xr.Dataset({**columns, "n": made["iou"]["n"], "runs": made["iou"]["runs"]}, attrs=table.attrs)


def _chosen(high: xr.DataArray, places: NDArray[np.int64]) -> xr.DataArray:
    """Take of each run the words at `places` ``(run, pair)``; -1 takes any."""
    index = xr.DataArray(places, dims=("run", "pair"))
    if high.chunks is not None:
        index = index.chunk({"run": high.chunksizes["run"]})
    dims = list(spatial_dims(high))

    def kernel(maps: NDArray[Any], chosen: NDArray[np.int64]) -> NDArray[Any]:
        return np.take_along_axis(maps, np.maximum(chosen, 0)[..., None, None], axis=-3)

    made: xr.DataArray = xr.apply_ufunc(
        kernel,
        high.chunk({"word": -1}) if high.chunks is not None else high,
        index,
        input_core_dims=[["word", *dims], ["pair"]],
        output_core_dims=[["pair", *dims]],
        dask="parallelized",
        output_dtypes=[high.dtype],
        dask_gufunc_kwargs={"output_sizes": {"pair": places.shape[1]}},
    )
    return made


def _measures(head: NDArray[Any], dependent: NDArray[Any], *, empty: float) -> NDArray[np.float32]:
    one, other = (own.reshape(*own.shape[:-2], -1) for own in (head, dependent))
    broken = np.isnan(one).any(-1) | np.isnan(other).any(-1)
    one, other = one > 0, other > 0
    both = (one & other).sum(-1)
    areas = np.stack([(one | other).sum(-1), other.sum(-1), one.sum(-1)], -1)
    made = np.where(areas > 0, both[..., None] / np.maximum(areas, 1), empty)
    made[broken] = np.nan
    return made.astype(np.float32)


def _named(made: xr.DataArray) -> xr.Dataset:
    words = ("intersection over union", "intersection over dependent", "intersection over head")
    parts = {name: made.isel(measure=place) for place, name in enumerate(MEASURES)}
    return xr.Dataset(
        {
            name: own.assign_attrs(units="1", long_name=said)
            for (name, own), said in zip(parts.items(), words, strict=True)
        }
    )


def _labels(texts: Sequence[str], found: Sequence[Sequence[Pair]], most: int) -> dict[str, Any]:
    columns: dict[str, NDArray[Any]] = {
        name: np.full((len(found), most), "", dtype=object) for name in ("head", "dependent", "relation")
    }
    for run, (row, text) in enumerate(zip(found, texts, strict=True)):
        for pair, (head, dependent, relation) in enumerate(row):
            columns["relation"][run, pair] = relation
            for name, own in (("head", head), ("dependent", dependent)):
                columns[name][run, pair] = text[own[0][0] : own[0][1]].lower()
    return {name: (("run", "pair"), values) for name, values in columns.items()}

"""Word maps as segmentations: scored against masks of the things that words name (DAAM Table 1)."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.resample import check_picture, resample, spatial_dims
from attlas.analysis.heads import noun_masks, noun_samples
from attlas.analysis.metrics import iou
from attlas.analysis.papers.daam import daam, hard
from attlas.analysis.scoring.precision import pixel_precision
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, NotRecordedError

__all__ = ["ceiling", "plain", "pooled_iou", "random_hard", "sample_maps", "segmentation", "shared_samples"]

Sample = tuple[str, str]

TAUS = (0.3, 0.4, 0.5)
"""Thresholds of DAAM Table 1."""


def segmentation(
    trace: Trace,
    nouns: Iterable[str] | None = None,
    *,
    taus: Sequence[float] = TAUS,
    variant: str = "paper",
    rule: str | None = None,
    truth: Trace | None = None,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """Score the word map of every noun against its mask, over thresholds, beside what needs no attention.

    Parameters
    ----------
    trace
        Store with text attention; boolean masks annotated under the nouns' names, here or in `truth`.
    nouns
        Names to score; by default every mask annotation that is a word of a prompt.
    taus, variant, rule
        Thresholds and rule of `attlas.analysis.papers.daam.hard`; maps are brought to the picture as the variant does.
    truth
        Where the masks are taken from, by run id; by default `trace` itself.
    seed
        Of the random picture.
    **options
        Of `attlas.analysis.papers.daam.daam`, such as ``layers`` or ``heads``.

    Returns
    -------
    Dataset in memory, float64, unit 1, of ``(sample,)`` with coordinates ``run`` and ``word``, a sample for each noun
    of each run whose mask is not empty:

    ``iou``, ``intersection``, ``union`` ``(tau, sample)``
        Of hard map and mask; the last two in pixels, for `pooled_iou`.
    ``confidence`` ``(tau, sample)``
        Mean of the map inside its hard map over its maximum, for `instance_precision`.
    ``pixel_precision``
        Average precision of the map's pixels, see `attlas.analysis.scoring.precision.pixel_precision`.
    ``whole``, ``random``, ``ceiling``
        IoU of the whole picture, of half the pixels drawn at random (DAAM Table 1, row 4), and of the mask itself at
        the map's own grid.

    Raises
    ------
    NotRecordedError
        If nothing can be scored: no text attention, no masks, or no run of `truth`.
    InvalidValueError
        If the store holds videos, or `taus` is empty.

    References
    ----------
    DAAM (Tang et al. 2022), section 3.1 and Table 1.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> made = segmentation(open_trace(simulate_store(runs=1)), taus=[0.4])
    >>> made["iou"].dims, made["word"].values.tolist()
    (('tau', 'sample'), ['cross', 'disc'])
    """
    if not len(taus):
        raise InvalidValueError("taus is empty; give at least one threshold")
    samples = shared_samples(trace, truth or trace, nouns)
    masks = noun_masks(truth or trace, samples)
    maps = sample_maps(trace, samples, variant=variant, **options)
    shape = (masks.sizes["image_y"], masks.sizes["image_x"])
    inside = masks.values
    columns: dict[str, list[NDArray[Any]]] = {"iou": [], "intersection": [], "union": [], "confidence": []}
    soft = resample(maps, shape, "nearest" if variant == "paper" else "bicubic").values
    threshold = ""
    for tau in taus:
        high = hard(maps, tau, variant=variant, rule=rule, grid=shape)
        threshold = high.attrs["threshold"]
        columns["iou"].append(iou(plain(high), masks).values)
        chosen = high.values > 0
        columns["intersection"].append((chosen & inside).sum((1, 2)))
        columns["union"].append((chosen | inside).sum((1, 2)))
        columns["confidence"].append(_confidence(soft, chosen))
    grid = (maps.sizes["query_y"], maps.sizes["query_x"])
    single = {
        "pixel_precision": pixel_precision(soft.reshape(len(soft), -1), inside.reshape(len(soft), -1)),
        "whole": inside.mean((1, 2)),
        "random": iou(random_hard(masks, seed=seed), masks).values,
        "ceiling": iou(ceiling(masks, grid), masks).values,
    }
    variables: dict[str, Any] = {name: (("tau", "sample"), np.array(rows, "f8")) for name, rows in columns.items()}
    variables |= {name: ("sample", np.asarray(row, "f8")) for name, row in single.items()}
    coords = {"tau": list(taus), "run": masks["run"], "word": masks["word"]}
    kind_of_rule = threshold.rpartition(" ")[0].rpartition(" ")[0]
    return xr.Dataset(variables, coords, {"variant": variant, "rule": kind_of_rule, **_attrs(maps)})


def shared_samples(trace: Trace, truth: Trace, nouns: Iterable[str] | None = None) -> list[Sample]:
    """Pairs ``(run, noun)`` of `trace` whose mask is in `truth` and not empty.

    Raises
    ------
    NotRecordedError
        If there is none.
    """
    samples = [sample for sample in noun_samples(truth, nouns) if sample[0] in trace.run_ids]
    if not samples:
        raise NotRecordedError(f"{trace.where} has no run of the same id as one with masks in {truth.where}")
    return samples


def sample_maps(trace: Trace, samples: Sequence[Sample], **options: Any) -> xr.DataArray:
    """Word maps of the samples, ``(sample, query_y, query_x)``, float32, in memory; `options` of `daam`.

    Raises
    ------
    InvalidValueError
        If the store holds videos: masks are of one picture.
    """
    made: dict[Sample, xr.DataArray] = {}
    for noun in dict.fromkeys(noun for _, noun in samples):
        runs = [run for run, other in samples if other == noun]
        maps = daam(trace.sel(runs), noun, **options)
        check_picture(maps, "a score by masks")
        maps = maps.compute()
        made |= {(run, noun): maps.sel(run=run, drop=True).reset_coords(drop=True) for run in runs}
    parts = [made[sample] for sample in samples]
    joined: xr.DataArray = xr.concat(
        parts, "sample", coords="minimal", compat="override", combine_attrs="drop_conflicts"
    )
    return joined


def pooled_iou(table: xr.Dataset) -> xr.DataArray:
    """IoU of each word over all its samples at once: pixels of intersection over pixels of union.

    Parameters
    ----------
    table
        From `segmentation`.

    Returns
    -------
    ``(tau, word)``, in [0, 1]; its mean over words is the mIoU of semantic segmentation. Large objects weigh more than
    in the mean over samples.

    Examples
    --------
    >>> values = {"intersection": [[1.0, 30.0]], "union": [[2.0, 40.0]]}
    >>> words = {"tau": [0.4], "word": ("sample", ["disc", "disc"])}
    >>> table = xr.Dataset({name: (("tau", "sample"), own) for name, own in values.items()}, words)
    >>> pooled_iou(table).values.round(4).tolist()  # 31 of 42
    [[0.7381]]
    """
    sums = table[["intersection", "union"]].groupby("word").sum()
    made: xr.DataArray = (sums["intersection"] / sums["union"]).transpose("tau", "word")
    made.attrs = {"units": "1", "long_name": "IoU over all pixels of a word"}
    return made


def random_hard(masks: xr.DataArray, *, fraction: float = 0.5, seed: int = 0) -> xr.DataArray:
    """Hard maps with each pixel in by chance, as `masks` in shape; 0 and 1, float32.

    A mask of a share `a` of the picture meets half of the pixels with an expected IoU of about ``a / (1 + a)``.
    """
    drawn = np.random.default_rng(seed).random(masks.shape) < fraction
    return masks.copy(data=drawn.astype(np.float32))


def ceiling(masks: xr.DataArray, grid: tuple[int, int]) -> xr.DataArray:
    """Give what a map of this grid can reach: the masks averaged to the grid, brought back bicubically, cut at 0.5.

    ``(sample, image_y, image_x)``, 0 and 1, float32.
    """
    shape = (masks.sizes["image_y"], masks.sizes["image_x"])
    coarse = resample(masks.rename(image_y="y", image_x="x").astype("f4"), grid, "area")
    made = hard(coarse, 0.5, variant="released", grid=shape)
    return plain(made)


def plain(high: xr.DataArray) -> xr.DataArray:
    """Drop the labels of rows and columns, which masks have not."""
    return high.drop_vars([name for name in spatial_dims(high) if name in high.coords])


def _confidence(maps: NDArray[np.float32], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean of each map inside its hard map over its maximum; NaN where nothing is in."""
    counts = chosen.sum((1, 2))
    inside = np.where(chosen, maps, 0).sum((1, 2), dtype=np.float64)
    top = maps.max((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(inside / counts / top)


def _attrs(maps: xr.DataArray) -> dict[str, Any]:
    return {name: maps.attrs[name] for name in ("layers", "heads", "branch", "merge") if name in maps.attrs}

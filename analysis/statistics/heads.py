"""Statistics of heads, a number for each run and head."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from attlas.analysis import heads
from attlas.analysis.blockwise.attention import run_coords
from attlas.analysis.head_choice.relevance import answers
from attlas.analysis.papers.vocabulary import vocabulary
from attlas.analysis.registry import statistic
from attlas.analysis.trace import Trace

__all__ = ["concept_share", "head_iou"]


@statistic("head_iou", meaning="IoU of a head's word maps with the masks of the nouns, mean over the run's nouns")
def head_iou(trace: Trace, tau: float = 0.4, rule: str = "minmax") -> xr.DataArray:
    """IoU of each head by itself, ``(run, layer, head)``, in memory; NaN for runs without a mask."""
    samples = heads.noun_samples(trace)
    maps, masks = heads.head_maps(trace, samples), heads.noun_masks(trace, samples)
    by_sample = heads.head_ious(maps, masks, tau=tau, rule=rule)
    by_run = by_sample.drop_vars("word").groupby("run").mean("sample", skipna=False)
    return by_run.reindex(run=list(trace.run_ids)).assign_coords(run_coords(trace)).astype(np.float32)


@statistic("concept_share", meaning="share of the calls in which the head answers the concept (HRV counts)")
def concept_share(
    trace: Trace, concepts: Mapping[str, str | Sequence[str]] | None = None, seed: int = 0
) -> xr.DataArray:
    """Share of each run's calls in which each head answers each concept, ``(run, concept, layer, head)``, lazy.

    Concepts are by default the words of the store's vocabulary, each its own.
    """
    concepts = {word: word for word in vocabulary(trace).words} if concepts is None else concepts
    counts = answers(trace, concepts, seed=seed)
    made: xr.DataArray = counts / np.float32(counts.attrs["calls"])
    return made.assign_attrs(counts.attrs)

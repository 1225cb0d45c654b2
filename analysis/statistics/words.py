"""How much of the picture words act on, and how well they find what they name; numbers for each run and word."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from attlas.analysis.metrics import iou
from attlas.analysis.papers.daam import daam, hard
from attlas.analysis.registry import statistic
from attlas.analysis.scoring.word_coverage import word_coverage
from attlas.analysis.segmentation import plain
from attlas.analysis.trace import Trace
from attlas.analysis.words import has_word, prompts
from attlas.schemas.errors import NotRecordedError, unknown_name

__all__ = ["coverage", "intensity", "noun_iou"]


@statistic("coverage", meaning="fraction of the picture in a word's hard map")
def coverage(
    trace: Trace,
    tau: float = 0.4,
    variant: str = "paper",
    rule: str | None = None,
    tagger: Mapping[str, str] | None = None,
    branch: str = "cond",
    layers: str | None = None,
) -> xr.DataArray:
    """Fraction of the picture in the hard map of each word, ``(run, word)``; labels ``text`` and ``pos`` to group by.

    `tagger` is a tag for each word, by default spaCy's; see `attlas.analysis.scoring.word_coverage.word_coverage`.
    """
    options = {"tau": tau, "variant": variant, "rule": rule, "branch": branch, "layers": layers}
    return word_coverage(trace, tagger, **options)["coverage"]  # type: ignore[arg-type]


@statistic("intensity", meaning="mean of a word's map over its maximum")
def intensity(
    trace: Trace,
    variant: str = "paper",
    tagger: Mapping[str, str] | None = None,
    branch: str = "cond",
    layers: str | None = None,
) -> xr.DataArray:
    """Mean of each word's map over its maximum, ``(run, word)``; labels ``text`` and ``pos`` to group by."""
    return word_coverage(trace, tagger, variant=variant, branch=branch, layers=layers)["intensity"]


@statistic("noun_iou", meaning="IoU of a noun's hard map and its mask")
def noun_iou(
    trace: Trace,
    nouns: Sequence[str] | None = None,
    tau: float = 0.4,
    variant: str = "paper",
    rule: str | None = None,
    layers: str | None = None,
) -> xr.DataArray:
    """IoU of each noun's hard map and its mask, ``(run, word)``, lazy.

    NaN where the prompt lacks the noun, or its mask is empty or was not given. Nouns are by default all mask
    annotations, an underscore standing for a space.
    """
    masks = {
        str(name): array
        for name, array in trace.annotations.items()
        if array.dims == ("run", "image_y", "image_x") and array.dtype == np.int8
    }
    if not masks:
        raise NotRecordedError(f"{trace.where} has no mask of a noun; give annotations while recording")
    wanted = [name.replace("_", " ") for name in masks] if nouns is None else list(nouns)
    texts = prompts(trace)
    columns = []
    for noun in wanted:
        name = noun.replace(" ", "_")
        if name not in masks:
            raise unknown_name("noun", noun, masks, where=f"the masks of {trace.where}")
        told = [run for run, text in zip(trace.run_ids, texts, strict=True) if has_word(text, noun)]
        column = xr.DataArray(np.full(len(texts), np.nan, "f4"), {"run": list(trace.run_ids)}, ("run",))
        if told:
            mask = masks[name].sel(run=told)
            maps = daam(trace.sel(told), noun, variant=variant, layers=layers)
            high = plain(hard(maps, tau, variant=variant, rule=rule, grid=trace.image_shape))
            found = iou(high, mask).where((mask > 0).any(("image_y", "image_x")))
            column = found.reset_coords(drop=True).reindex(run=list(trace.run_ids))
        columns.append(column)
    made: xr.DataArray = xr.concat(columns, "word", coords="minimal", compat="override", combine_attrs="drop_conflicts")
    return made.assign_coords(word=wanted).transpose("run", "word").astype(np.float32)

"""Word maps of every (layer, head), and how well each finds the thing that the word names."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.resample import resample_values
from attlas.analysis.normalise import threshold_values
from attlas.analysis.papers.daam import daam
from attlas.analysis.trace import Trace
from attlas.analysis.words import has_word, prompts
from attlas.schemas.errors import InvalidValueError, NotRecordedError, unknown_name

__all__ = [
    "Head",
    "flat_maps",
    "greedy",
    "head_ious",
    "head_maps",
    "noun_masks",
    "noun_samples",
    "rank",
    "sample_iou",
    "score_heads",
    "set_iou",
    "top",
]

Head = tuple[str, int]
Sample = tuple[str, str]


def noun_samples(trace: Trace, nouns: Iterable[str] | None = None) -> list[Sample]:
    """Pairs ``(run, noun)`` that can be scored: the noun stands in the prompt and its mask is there and not empty.

    Nouns are by default all mask annotations on the generated image; an underscore stands for a space. Reads the
    masks.

    Raises
    ------
    NotRecordedError
        If there is none.
    """
    masks = {
        str(name): array
        for name, array in trace.annotations.items()
        if array.dims == ("run", "image_y", "image_x") and array.dtype == np.int8
    }
    wanted = list(masks) if nouns is None else [noun.replace(" ", "_") for noun in nouns]
    texts = prompts(trace)
    found = []
    for name in wanted:
        noun = name.replace("_", " ")
        held = [has_word(text, noun) for text in texts]
        if name not in masks or not any(held):
            continue
        drawn = (masks[name] > 0).any(("image_y", "image_x")).values
        found += [(run, noun) for run, told, seen in zip(trace.run_ids, held, drawn, strict=True) if told and seen]
    if not found:
        raise NotRecordedError(
            f"{trace.where}: no prompt holds a noun whose mask was annotated; word scores need boolean masks named as "
            "the nouns of the prompts (annotations given while recording)"
        )
    return sorted(found)


def noun_masks(trace: Trace, samples: Sequence[Sample]) -> xr.DataArray:
    """Masks of the samples, bool ``(sample, image_y, image_x)``, in memory."""
    rows = [
        trace.annotations[noun.replace(" ", "_")].isel(run=trace.run_ids.index(run)).values > 0 for run, noun in samples
    ]
    return xr.DataArray(np.stack(rows), dims=("sample", "image_y", "image_x"), coords=_sample_coords(samples))


def head_maps(trace: Trace, samples: Sequence[Sample], **options: Any) -> xr.DataArray:
    """Word maps of the samples, one per layer and head, in memory.

    Parameters
    ----------
    trace, samples
        Runs and their nouns, from `noun_samples`.
    **options
        Of `attlas.analysis.maps.daam`; ``variant="released"`` by default.

    Returns
    -------
    ``(sample, layer, head, query_y, query_x)``, float32, unit 1. A head that a layer lacks is NaN.

    Raises
    ------
    NotRecordedError
        If the store holds videos: masks are of one picture.
    """
    video = next((leaf for leaf in trace.leaves.values() if len(leaf.query_grid) == 3), None)
    if video is not None:
        raise NotRecordedError(
            f"{video.kind}/{video.grid} of {trace.where} is of a video of {video.query_grid[0]} latent frames; word "
            "scores compare a picture with its masks"
        )
    own = {"variant": "released", "keep": ("layer", "head"), **options}
    made: dict[Sample, xr.DataArray] = {}
    for noun in dict.fromkeys(noun for _, noun in samples):
        runs = [run for run, other in samples if other == noun]
        maps = daam(trace.sel(runs), noun, **own).compute()
        made |= {(run, noun): maps.sel(run=run, drop=True) for run in runs}
    parts = [made[sample].drop_vars(["seed", "prompt", "branch"], errors="ignore") for sample in samples]
    joined: xr.DataArray = xr.concat(
        parts, "sample", coords="minimal", compat="override", combine_attrs="drop_conflicts"
    )
    return joined.assign_coords(_sample_coords(samples))


def set_iou(
    maps: xr.DataArray,
    masks: xr.DataArray,
    heads: Sequence[Head] | None = None,
    *,
    tau: float = 0.4,
    rule: str = "minmax",
) -> xr.DataArray:
    """IoU of each sample's map over a set of heads, ``(sample,)`` in [0, 1].

    The maps of the heads are averaged, brought to the picture bicubically, and thresholded; None takes all heads.

    Raises
    ------
    InvalidValueError
        If `heads` is empty.
    """
    flat, pairs = flat_maps(maps)
    if heads is not None and not heads:
        raise InvalidValueError("heads is empty; None means all heads")
    for layer, head in heads or ():
        if (layer, head) not in pairs:
            raise unknown_name("head", f"{layer}:{head}", [f"{path}:{number}" for path, number in pairs])
    places = list(range(len(pairs))) if heads is None else [pairs.index(head) for head in heads]
    scores = sample_iou(flat[..., places].mean(-1), masks.values, tau, rule)
    return xr.DataArray(
        scores, dims="sample", coords={name: masks[name] for name in ("run", "word") if name in masks.coords}
    )


def head_ious(maps: xr.DataArray, masks: xr.DataArray, *, tau: float = 0.4, rule: str = "minmax") -> xr.DataArray:
    """IoU of each head by itself on each sample, ``(sample, layer, head)`` in [0, 1]; NaN: the layer lacks the head."""
    flat, pairs = flat_maps(maps)
    made = xr.full_like(maps.isel(query_y=0, query_x=0, drop=True), np.nan, dtype=np.float32)
    made = made.transpose("sample", "layer", "head")
    for place, (layer, head) in enumerate(pairs):
        made.loc[{"layer": layer, "head": head}] = sample_iou(flat[..., place], masks.values, tau, rule)
    made.attrs = {"units": "1", "long_name": "IoU of a head by itself", "tau": tau, "rule": rule}
    return made


def score_heads(maps: xr.DataArray, masks: xr.DataArray, *, tau: float = 0.4, rule: str = "minmax") -> xr.DataArray:
    """Mean IoU of each head by itself over the samples, ``(layer, head)`` in [0, 1]; NaN where a layer lacks a head."""
    made = head_ious(maps, masks, tau=tau, rule=rule).mean("sample", skipna=False)
    return made.assign_attrs(units="1", long_name="mean IoU of a head by itself", tau=tau, rule=rule)


def rank(scores: xr.DataArray) -> list[Head]:
    """Heads by score ``(layer, head)``, best first; equal ones in stored order, NaN left out.

    Examples
    --------
    >>> scores = xr.DataArray([[0.1, 0.3], [0.2, np.nan]], {"layer": ["a", "b"], "head": [0, 1]}, ("layer", "head"))
    >>> rank(scores)
    [('a', 1), ('b', 0), ('a', 0)]
    """
    flat = scores.transpose("layer", "head")
    pairs = [(str(layer), int(head)) for layer in flat["layer"].values for head in flat["head"].values]
    values: NDArray[Any] = flat.values.ravel()
    return [pairs[place] for place in np.argsort(-values, kind="stable") if not np.isnan(values[place])]


def top(scores: xr.DataArray, count: int) -> list[Head]:
    """Take the `count` best heads; `InvalidValueError` if that is none or more than there are."""
    ranked = rank(scores)
    if not 1 <= count <= len(ranked):
        raise InvalidValueError(f"top {count} of {len(ranked)} heads; 1 to {len(ranked)} is accepted")
    return ranked[:count]


def greedy(
    maps: xr.DataArray, masks: xr.DataArray, *, limit: int = 6, tau: float = 0.4, rule: str = "minmax"
) -> list[Head]:
    """Heads chosen one by one, each the one whose map adds most to the mean IoU of the averaged map.

    Stops at `limit` heads, or where no head adds anything. In order of choice.
    """
    if limit < 1:
        raise InvalidValueError(f"limit = {limit}; at least 1 head is needed")
    flat, pairs = flat_maps(maps)
    chosen: list[int] = []
    total = np.zeros_like(flat[..., 0])
    best = -1.0
    while len(chosen) < min(limit, len(pairs)):
        rest = [place for place in range(len(pairs)) if place not in chosen]
        # The mean's scale does not matter to a threshold, so the sum does.
        scores = [float(np.nanmean(sample_iou(total + flat[..., place], masks.values, tau, rule))) for place in rest]
        if max(scores) <= best:
            break
        best = max(scores)
        chosen.append(rest[int(np.argmax(scores))])
        total = total + flat[..., chosen[-1]]
    return [pairs[place] for place in chosen]


def sample_iou(maps: NDArray[Any], masks: NDArray[np.bool_], tau: float, rule: str) -> NDArray[np.float64]:
    """IoU of each map ``(sample, row, column)``, brought to the picture bicubically and thresholded, with its mask."""
    shown = resample_values(maps, masks.shape[1:], "bicubic").reshape(len(maps), -1)
    high, inside = threshold_values(shown, tau, rule) > 0, masks.reshape(len(masks), -1)
    return np.asarray((high & inside).sum(-1) / np.maximum((high | inside).sum(-1), 1))


def flat_maps(maps: xr.DataArray) -> tuple[NDArray[np.float32], list[Head]]:
    """Put layer and head into one last axis, and label it; heads that a layer lacks are left out."""
    stacked = maps.stack(part=("layer", "head")).transpose("sample", "query_y", "query_x", "part")
    held = stacked.notnull().any(("sample", "query_y", "query_x")).values
    if not held.any():
        raise InvalidValueError("the maps of all heads are NaN; nothing can be scored")
    pairs = [(str(layer), int(head)) for layer, head in stacked["part"].values[held]]
    return stacked.values[..., held], pairs


def _sample_coords(samples: Sequence[Sample]) -> dict[str, Any]:
    return {"run": ("sample", [run for run, _ in samples]), "word": ("sample", [noun for _, noun in samples])}

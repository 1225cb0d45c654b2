"""How well word maps find the things that words name."""

from collections.abc import Iterable, Sequence

import xarray as xr

from attlas.analysis import heads as head_choice
from attlas.analysis.metrics import iou
from attlas.analysis.papers.daam import hard
from attlas.analysis.scoring.score_table import Score, ScoreTable, score_of
from attlas.analysis.segmentation import ceiling, plain, sample_maps, shared_samples
from attlas.analysis.sink_rule import Sinks, sinks_of
from attlas.analysis.trace import Trace

__all__ = ["score_words"]

Sample = tuple[str, str]


def score_words(
    trace: Trace,
    nouns: Iterable[str] | None = None,
    *,
    tau: float = 0.4,
    greedy_limit: int = 6,
    truth: Trace | None = None,
    sinks: str | Sinks | None = None,
) -> ScoreTable:
    """Score DAAM maps against the masks of the nouns, all heads and chosen heads.

    Parameters
    ----------
    trace
        Store with text attention and boolean masks annotated under the nouns' names.
    nouns
        Names to score; by default every mask annotation that is a word of a prompt.
    tau
        Threshold of all hard maps.
    greedy_limit
        Most heads that the greedy choice takes.
    truth
        Where the masks are taken from, by run id; by default `trace` itself. A model with random weights draws
        nothing that could be masked: the masks of the trained model's pictures say what its maps hit by chance.
    sinks
        Keys to leave out of the maps, as in `aggregate`. With mass ``zero`` that changes a word's map only where words
        can be sinks; with ``renormalise`` every map.

    Returns
    -------
    `ScoreTable` over ``(run, noun)`` samples whose mask is there: mean IoU of the released map under the released
    rule (min-max value > tau) and under the paper's (value >= tau * max), of the paper's map under the paper's rule, of
    the map against the other nouns' masks (low is good), of the whole picture and of the mask at the map's own grid
    (floor and ceiling). Heads are chosen on the first half of the runs and scored on the second.

    Raises
    ------
    NotRecordedError
        If nothing can be scored: no text attention or no masks.
    """
    truth = truth or trace
    samples = shared_samples(trace, truth, nouns)
    masks = head_choice.noun_masks(truth, samples)
    by_head = head_choice.head_maps(trace, samples, sinks=sinks)
    released = by_head.mean(("layer", "head"))  # heads that a layer lacks are NaN and do not count
    shape = (masks.sizes["image_y"], masks.sizes["image_x"])
    high = {rule: plain(hard(released, tau, variant="released", rule=rule, grid=shape)) for rule in ("minmax", "max")}
    paper = plain(hard(sample_maps(trace, samples, variant="paper", sinks=sinks), tau, grid=shape))
    grid = (released.sizes["query_y"], released.sizes["query_x"])
    best = ceiling(masks, grid)
    scores = [
        score_of(
            "noun_iou", iou(high["minmax"], masks).values, f"word map > {tau:g} after min-max (released) against mask"
        ),
        score_of(
            "noun_iou_max_rule", iou(high["max"], masks).values, f"the same map, >= {tau:g} of its maximum (paper)"
        ),
        score_of("noun_iou_paper", iou(paper, masks).values, "the paper's map and rule (eq. 6-8)"),
        _others(high["minmax"], masks, samples),
        score_of("whole_picture_iou", masks.mean(("image_y", "image_x")).values, "floor: everything is the object"),
        score_of("ceiling_iou", iou(best, masks).values, f"ceiling: the mask itself at {grid[0]}x{grid[1]}"),
    ]
    chosen, settings = _chosen_heads(trace, samples, by_head, masks, tau, greedy_limit)
    scores += chosen
    settings |= {"runs": len({run for run, _ in samples}), "nouns": ", ".join(sorted({noun for _, noun in samples}))}
    rule = sinks_of(sinks)
    settings |= {} if rule is None else {"sinks": f"left out: {rule}"}
    return ScoreTable(f"word maps of {trace.where}", {score.name: score for score in scores}, settings)


def _chosen_heads(
    trace: Trace, samples: Sequence[Sample], maps: xr.DataArray, masks: xr.DataArray, tau: float, limit: int
) -> tuple[list[Score], dict[str, object]]:
    """Choose heads on the first half of the runs, score them on the second."""
    runs = [run for run in trace.run_ids if any(run == own for own, _ in samples)]
    first = set(runs[: len(runs) // 2])
    train = [place for place, (run, _) in enumerate(samples) if run in first]
    test = [place for place, (run, _) in enumerate(samples) if run not in first]
    if not train:
        return [], {"heads": "not chosen: that needs two runs"}
    own, other = ((maps.isel(sample=places), masks.isel(sample=places)) for places in (train, test))
    ranked = head_choice.score_heads(*own, tau=tau)
    best = head_choice.rank(ranked)[:3]
    greedy = head_choice.greedy(*own, limit=limit, tau=tau)
    sets = {"all": None, "top3": best, "greedy": greedy}
    meaning = {
        "all": "held-out runs, all heads",
        "top3": "held-out runs, the 3 heads best by themselves on the other half",
        "greedy": f"held-out runs, {len(greedy)} heads chosen one by one on the other half",
    }
    scores = [
        score_of(f"held_out_iou_{name}", head_choice.set_iou(*other, heads, tau=tau).values, meaning[name])
        for name, heads in sets.items()
    ]
    return scores, {"greedy_heads": ", ".join(f"{layer}:{head}" for layer, head in greedy)}


def _others(high: xr.DataArray, masks: xr.DataArray, samples: Sequence[Sample]) -> Score:
    """IoU of each noun's map with the masks of the other nouns of its run."""
    pairs = [
        (one, other)
        for one, (run, noun) in enumerate(samples)
        for other, (their_run, their_noun) in enumerate(samples)
        if run == their_run and noun != their_noun
    ]
    found: list[float] = []
    if pairs:
        own = high.isel(sample=[one for one, _ in pairs])
        others = masks.isel(sample=[other for _, other in pairs]).drop_vars(["run", "word"])
        found = iou(own, others).values.tolist()
    return score_of("other_noun_iou", found, "the same map against the other noun's mask (low is good)")

"""DAAM Fig. 5: how much of the picture each part of speech acts on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.papers.span_maps import span_maps
from attlas.analysis.recipes.figures import COLOURS, axes_grid, drawing
from attlas.analysis.recipes.prompt_words import chosen_tagger
from attlas.analysis.recipes.recipe import Need, RecipeResult, Table, recipe
from attlas.analysis.recipes.reference import bar
from attlas.analysis.recipes.settings import label_of, settings_of
from attlas.analysis.scoring.word_coverage import by_speech, coverage_of
from attlas.analysis.speech import spans_of, tagged_words
from attlas.analysis.trace import Trace

__all__ = ["fig5"]

PAPER = {
    "NUM": 0.1585,
    "DET": 0.1942,
    "PRON": 0.2788,
    "NOUN": 0.2879,
    "ADJ": 0.2886,
    "ADV": 0.2925,
    "VERB": 0.2969,
    "ADP": 0.3188,
    "CCONJ": 0.3687,
    "PUNCT": 0.4465,
}
"""Group means behind Fig. 5, from the plotting script of the first release (castorini/daam, daam/run/plot_pos.py)."""

RULES: dict[str, dict[str, Any]] = {
    "paper's map, >= tau max": {"variant": "paper"},
    "paper's map, min-max > tau": {"variant": "paper", "rule": "minmax"},
    "released map, >= tau max": {"variant": "released", "rule": "max"},
    "released map, min-max > tau": {"variant": "released"},
}


@recipe(
    "daam-fig5",
    title="Coverage by part of speech, under both maps and both threshold rules",
    paper="DAAM Fig. 5",
    stores=(Need("shapes"),),
    comparable=False,
)
def fig5(traces: Sequence[Trace], *, progress: bool = True, tau: float = 0.4) -> RecipeResult:
    """Mean coverage of the words of each part of speech with 95 % intervals, beside the paper's group means."""
    trace = traces[0]
    tagger, tags = chosen_tagger(trace)
    words = tagged_words(trace, tagger)
    maps = {
        variant: span_maps(trace, spans_of(words), variant=variant).compute()
        for variant in bar(("paper", "released"), "daam-fig5", progress, "variant")
    }
    shape = trace.image_shape
    found = {
        name: by_speech(coverage_of(maps[options["variant"]], words, shape, tau=tau, **options))
        for name, options in RULES.items()
    }
    first, last = (next(iter(found.values())), found["released map, min-max > tau"])
    order = [str(tag) for tag in last["pos"].values]
    rows = []
    for name, table in found.items():
        for tag in order:
            own = table.sel(pos=tag)
            cover = [float(own[column]) for column in ("coverage", "coverage_ci95", "intensity", "intensity_ci95")]
            rows.append((name, tag, int(own["n"]), *cover, PAPER.get(tag)))
    columns = ("map and rule", "part of speech", "words", "coverage", "+-", "mean / max", "+- ", "paper coverage")
    notes = [
        (
            "Not comparable in level: the paper's words are those of 500 COCO captions under Stable Diffusion 1; ours "
            f"are of {label_of(trace)}, tagged by {tags}. The order of the groups may be compared."
        ),
        _order_note(order),
        (
            "The paper calls coverage intensity and defines it by eq. 8, value >= tau * max. The first release's "
            "script for the figure thresholds the min-max normalised value, which is a higher bar wherever the least "
            "value is above 0. Here that and the map take the mean coverage of all words from "
            f"{_mean(first):.2f} (paper's map and rule) to {_mean(last):.2f} (released map and rule): the rule decides "
            "the level, and may decide the order."
        ),
        (
            "mean / max of a map is its coverage under the paper's rule, averaged over all tau from 0 to 1: the same "
            "question without a threshold."
        ),
        (
            "The paper draws one box of ten group means, without an interval for any. Ours are 95 % intervals of the "
            "mean over words, with the words of one picture as a cluster."
        ),
    ]
    return RecipeResult(
        [Table(f"coverage at tau {tau:g} by part of speech", columns, rows)],
        {"coverage by part of speech": _draw(found, order)},
        notes,
        settings_of(
            [trace], resample="paper: nearest, mass; released: bicubic, intensity", threshold=f"{tau:g}",
            layers="all", branch="cond", part_of_speech=tags,
        ),
    )  # fmt: skip


def _draw(found: dict[str, xr.Dataset], order: Sequence[str]) -> Any:
    listed = [*order, *(tag for tag in PAPER if tag not in order)]
    places = np.arange(len(listed))
    with drawing():
        figure, (row,) = axes_grid(1, cell=(6.4, 2.5))
        axes = row[0]
        width = 0.8 / len(found)
        for number, (name, table) in enumerate(found.items()):
            own = table.sel(pos=list(order))
            x = places[: len(order)] + (number - (len(found) - 1) / 2) * width
            bars = {"color": COLOURS[number], "label": name, "width": width * 0.92}
            axes.bar(x, own["coverage"].values, yerr=own["coverage_ci95"].values, error_kw={"elinewidth": 0.7}, **bars)
        known = [place for place, tag in enumerate(listed) if tag in PAPER]
        axes.plot(known, [PAPER[listed[place]] for place in known], "D", color="black", markersize=4, label="paper")
        counts = next(iter(found.values()))["n"]
        axes.set_xticks(
            places, [f"{tag}\n{int(counts.sel(pos=tag))}" if tag in order else f"{tag}\n0" for tag in listed]
        )
        axes.set(ylabel="coverage of the picture (1)", xlabel="part of speech and number of words", ylim=(0, 1.05))
        axes.grid(visible=False, axis="x")
        axes.legend(ncols=2, loc="upper right")
    return figure


def _order_note(order: Sequence[str]) -> str:
    """Say whether the groups that both have stand in one order."""
    shared = [tag for tag in order if tag in PAPER]
    paper = sorted(shared, key=lambda tag: PAPER[tag])
    told = "the same" if shared == paper else "another"
    return (
        f"From least to most coverage (released map and rule): {', '.join(shared)}; the paper: {', '.join(paper)}. "
        f"That is {told} order."
    )


def _mean(table: xr.Dataset) -> float:
    """Mean over all words."""
    return float((table["coverage"] * table["n"]).sum() / table["n"].sum())

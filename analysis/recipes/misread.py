"""What a word's heads really answer where they look: words that were drawn as asked against those that were not."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from attlas.analysis import heads
from attlas.analysis.papers.daam import daam
from attlas.analysis.papers.vocabulary import vocabulary
from attlas.analysis.recipes.figures import COLOURS, Panel, drawing, paint
from attlas.analysis.recipes.recipe import Need, RecipeResult, Table, recipe
from attlas.analysis.recipes.reference import bar
from attlas.analysis.recipes.settings import settings_of
from attlas.analysis.scoring.score_table import Score, score_of
from attlas.analysis.trace import Trace
from attlas.analysis.words import prompts, spans
from attlas.schemas.errors import NotRecordedError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["selective_misinterpretation"]

Place = tuple[str, str]

FIGURE = "lowest margins of words not drawn as asked and of words that were, and the highest margins of all"


@recipe(
    "selective-misinterpretation",
    title="Words that their own heads answer as something else",
    paper="Selective aggregation (2026), misinterpretation",
    stores=(Need("shapes", full=True),),
    comparable=False,
)
def selective_misinterpretation(
    traces: Sequence[Trace], *, progress: bool = True, fraction: float = 0.2, tau: float = 0.5, shown: int = 2
) -> RecipeResult:
    """Ask the heads which word they see at the place of each noun, and hold it against what was drawn.

    The truth is ``shape_correct`` of the demo (for each object in the order of the prompt), else whether the noun's
    mask is empty.
    """
    trace = traces[0]
    nouns = sorted({word for _, word in heads.noun_samples(trace)} & set(vocabulary(trace).words))
    if len(nouns) < 2:
        raise NotRecordedError(
            f"{trace.where}: two nouns with masks must be in the vocabulary, which has {', '.join(nouns) or 'none'}"
        )
    concepts = {noun: noun for noun in nouns}
    drawn = _drawn(trace, nouns)
    chosen = _relevant(trace, concepts, fraction)
    agreeing = _agreeing(trace, nouns, fraction)
    sets = {"all heads": None, **chosen}
    reports = {
        name: heads.misinterpretation(trace, concepts, heads=weights, region_heads=agreeing, tau=tau).compute()
        for name, weights in bar(sets.items(), "selective-misinterpretation", progress, "set of heads")
    }
    rows = [row for name, report in reports.items() for row in _rows(name, report, drawn)]
    found = reports["all heads"]
    ranked = sorted(drawn, key=lambda place: _margin(found, place))
    wrong, right = ([place for place in ranked if drawn[place] == asked] for asked in (False, True))
    rows_shown = list(dict.fromkeys([*wrong[:shown], *right[:shown], *ranked[-shown:]]))
    chance = 1 / len(nouns)
    columns = ("heads", "words", "n", "share of own concept", "answered as asked", "told apart (AUC)")
    notes = [
        "The papers show single pictures and give no number for this; ours is not comparable with anything printed.",
        f"By chance a head answers the word's own concept in {chance:.2f} of places.",
        "AUC: chance that a word drawn as asked has a larger margin than one that was not; 0.5 tells nothing apart.",
        f"{sum(not ok for ok in drawn.values())} of {len(drawn)} words were not drawn as asked; the AUC is as rough.",
    ]
    return RecipeResult(
        [
            Table("what heads answer at the place of a noun, by what was drawn", columns, rows),
            _lowest(found, ranked[:10], drawn),
        ],
        {FIGURE: _draw(trace, found, rows_shown, drawn, agreeing, nouns)},
        notes,
        settings_of(
            [trace],
            found["concept_share"],
            place=f"map of the {fraction:.0%} of heads that agree best, >= {tau:g} of its maximum",
            baseline="mean and spread of each head's share over all words and runs",
        ),
    )


def _drawn(trace: Trace, nouns: Sequence[str]) -> dict[Place, bool]:
    """Whether each noun of each prompt was drawn as asked."""
    made = {}
    correct = trace.annotations["shape_correct"].values if "shape_correct" in trace.annotations else None
    for row, (run, text) in enumerate(zip(trace.run_ids, prompts(trace), strict=True)):
        held = sorted((spans(text, noun)[0][0], noun) for noun in nouns if spans(text, noun))
        for place, (_, noun) in enumerate(held):
            if correct is not None:
                made[run, noun] = bool(correct[row, place] > 0)
            else:
                made[run, noun] = bool((trace.annotations[noun.replace(" ", "_")][row] > 0).any())
    return made


def _relevant(trace: Trace, concepts: dict[str, str], fraction: float) -> dict[str, xr.DataArray]:
    """Top heads of each word by the published relevance and by contrast, ``(word, layer, head)``."""
    made = {}
    for name, function in (("HRV", heads.relevance), ("contrast", heads.contrast)):
        scores = function(trace, concepts).compute()
        own = [heads.select(scores, noun, top=fraction).drop_attrs() for noun in concepts]
        made[f"top {fraction:.0%} by {name}"] = xr.concat(own, "word").assign_coords(word=list(concepts))
    return made


def _agreeing(trace: Trace, nouns: Sequence[str], fraction: float) -> xr.DataArray:
    """Heads whose maps of the nouns agree best with all heads' maps."""
    samples = [
        (run, noun)
        for run, text in zip(trace.run_ids, prompts(trace), strict=True)
        for noun in nouns
        if spans(text, noun)
    ]
    return heads.select(heads.agreement(heads.head_maps(trace, samples)), top=fraction)


def _margin(report: xr.Dataset, place: Place) -> float:
    return float(report["margin"].sel(run=place[0], word=place[1]))


def _share(report: xr.Dataset, place: Place) -> float:
    return float(report["concept_share"].sel(run=place[0], word=place[1], concept=place[1]))


def _answer(report: xr.Dataset, place: Place) -> str:
    return str(report["concept"].values[int(report["answer"].sel(run=place[0], word=place[1]))])


def _rows(name: str, report: xr.Dataset, drawn: dict[Place, bool]) -> list[tuple[Any, ...]]:
    groups = {
        "drawn as asked": [place for place, ok in drawn.items() if ok],
        "drawn otherwise or not at all": [place for place, ok in drawn.items() if not ok],
    }
    margins = [np.asarray([_margin(report, place) for place in places]) for places in groups.values()]
    above = margins[0][:, None] - margins[1][None]
    auc = float((above > 0).mean() + (above == 0).mean() / 2) if above.size else None
    made = []
    for row, (said, places) in enumerate(groups.items()):
        share: Score = score_of("share", [_share(report, place) for place in places], "share of the word's own concept")
        right = [float(_answer(report, place) == place[1]) for place in places]
        made.append(
            (name, said, len(places), share, score_of("right", right, "answered as asked"), None if row else auc)
        )
    return made


def _lowest(report: xr.Dataset, places: Sequence[Place], drawn: dict[Place, bool]) -> Table:
    rows = [
        (
            run,
            str(report["prompt"].sel(run=run).item()),
            word,
            _answer(report, (run, word)),
            _share(report, (run, word)),
            _margin(report, (run, word)),
            "as asked" if drawn[run, word] else "otherwise",
        )
        for run, word in places
    ]
    return Table(
        "words with the lowest margin", ("run", "prompt", "word", "answered", "own share", "margin", "drawn"), rows
    )


def _draw(
    trace: Trace,
    report: xr.Dataset,
    places: Sequence[Place],
    drawn: dict[Place, bool],
    weights: xr.DataArray,
    nouns: Sequence[str],
) -> "Figure":
    """Picture, map of all heads, map that gives the place, and what the heads answer; a row for each word."""
    from matplotlib.figure import Figure

    with drawing():
        figure = Figure(figsize=(4.9, 0.98 * len(places) + 0.35), layout="constrained")
        axes = figure.subplots(len(places), 4, squeeze=False, width_ratios=(1, 1, 1, 1.5))
        for row, (run, word) in enumerate(places):
            own = trace.sel([run])
            picture = own.images.isel(run=0).values
            options: dict[str, Any] = {"variant": "released"}
            panels = [
                Panel(picture),
                Panel(picture, daam(own, word, **options).isel(run=0).values, smooth=True),
                Panel(
                    picture,
                    daam(own, word, heads=weights, **options).isel(run=0).values,
                    True,
                ),
            ]
            for axis, panel in zip(axes[row, :3], panels, strict=True):
                paint(axis, panel)
                axis.set_box_aspect(1)
            axes[row, 0].set_ylabel(
                f"{word}\n({'as asked' if drawn[run, word] else 'not as asked'})", size=6.5, rotation=90, labelpad=3
            )
            shares = [float(report["concept_share"].sel(run=run, word=word, concept=noun)) for noun in nouns]
            colours = [COLOURS[0] if noun == word else "#b8b8b8" for noun in nouns]
            axes[row, 3].barh(list(nouns), shares, color=colours, height=0.7)
            axes[row, 3].invert_yaxis()
            axes[row, 3].set(xlim=(0, 1))
            axes[row, 3].grid(visible=False, axis="y")
            axes[row, 3].axvline(1 / len(nouns), color="black", lw=0.6, ls=":")
            if row < len(places) - 1:
                axes[row, 3].set_xticklabels([])
        axes[-1, 3].set_xlabel("share of heads that answer")
        titles = ("generated", "all heads", "heads that\nagree", "answers at the word's place")
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title)
    return figure

"""DAAM Fig. 1: maps of the words of a prompt over the picture."""

from collections.abc import Sequence
from typing import Any

import xarray as xr

from attlas.analysis.metrics import coverage, iou
from attlas.analysis.papers.daam import hard
from attlas.analysis.papers.span_maps import span_maps
from attlas.analysis.recipes.figures import Panel, sheet
from attlas.analysis.recipes.prompt_words import chosen_tagger, picture_of, whole_runs, word_panels
from attlas.analysis.recipes.recipe import Need, RecipeResult, Table, recipe
from attlas.analysis.recipes.reference import bar, first_runs
from attlas.analysis.recipes.settings import settings_of
from attlas.analysis.segmentation import plain
from attlas.analysis.speech import spans_of, tagged_words
from attlas.analysis.trace import Trace

__all__ = ["fig1"]

VARIANTS = ("paper", "released")


@recipe(
    "daam-fig1",
    title="Maps of the words of a prompt over the picture made from it",
    paper="DAAM Fig. 1",
    stores=(Need("shapes"),),
    comparable=False,
)
def fig1(
    traces: Sequence[Trace], *, progress: bool = True, samples: int | list[str] = 3, tau: float = 0.4
) -> RecipeResult:
    """Show maps of every word, by the paper's equations and by the released code, of the first or the named runs."""
    trace = first_runs(whole_runs(traces[0]) if isinstance(samples, int) else traces[0], samples)
    tagger, tags = chosen_tagger(trace)
    words = tagged_words(trace, tagger)
    maps, high = {}, {}
    for variant in bar(VARIANTS, "daam-fig1", progress, "variant"):
        maps[variant] = span_maps(trace, spans_of(words), variant=variant).compute()
        high[variant] = hard(maps[variant], tau, variant=variant, grid=trace.image_shape)
    rows = []
    for run in trace.run_ids:
        place = trace.run_ids.index(run)
        for word, (text, pos) in enumerate(zip(words["text"].values[place], words["pos"].values[place], strict=True)):
            if text:
                own = [high[variant].isel(run=place, word=word) for variant in VARIANTS]
                rows.append(
                    (
                        run,
                        text,
                        pos,
                        *(float(coverage(one)) for one in own),
                        *(_iou(trace, run, text, one) for one in own),
                    )
                )
    columns = ("run", "word", "part of speech", "coverage, paper", "released", "IoU with its mask, paper", "released ")
    notes = [
        "Not comparable in numbers: Fig. 1 shows Stable Diffusion on another prompt and prints none.",
        (
            "paper: 1/c^2 for layers c times coarser, plain sum (eq. 6, 7). released: bicubic, negative values set to "
            "0, mean over layers and heads; all layers here, also the middle block that the released code leaves out."
        ),
        (
            f"Coverage is the share of the picture in the hard map: of value >= {tau:g} of the maximum (paper, eq. 8), "
            f"of min-max value > {tau:g} (released)."
        ),
        (
            "Min-max colours show where a map is highest, not how high: a word that gets little attention is as bright "
            "as one that gets much. daam-fig4 has maps on one scale."
        ),
    ]
    return RecipeResult(
        [Table("words of the runs shown", columns, rows)],
        {"word maps over the picture": _fig1(trace, words, maps)},
        notes,
        settings_of(
            [trace],
            maps["paper"],
            chosen_keys="the tokens of each word",
            resample="paper: nearest, mass; released: bicubic, intensity",
            threshold=f"{tau:g}, rule of each variant",
            part_of_speech=tags,
        ),
    )


def _fig1(trace: Trace, words: xr.Dataset, maps: dict[str, xr.DataArray]) -> Any:
    rows, labels = [], []
    for place, run in enumerate(trace.run_ids):
        picture = picture_of(trace, run)
        for variant in VARIANTS:
            panels = word_panels(maps[variant], run, words["text"].values[place], picture, smooth=variant == "released")
            rows.append([Panel(picture, caption="generated picture"), *panels])
            labels.append(f"{run}\n{variant}")
    return sheet(rows, row_labels=labels)


def _iou(trace: Trace, run: str, word: str, high: xr.DataArray) -> float | None:
    """IoU with the word's mask, where it has one."""
    name = word.replace(" ", "_")
    if name not in trace.annotations:
        return None
    mask = trace.annotations[name].sel(run=run)
    if mask.ndim != 2 or not bool((mask > 0).any()):
        return None
    return float(iou(plain(high).reset_coords(drop=True), (mask > 0).reset_coords(drop=True)))

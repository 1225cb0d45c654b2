"""DAAM Fig. 1: maps of the words of a prompt over the picture. Fig. 4: adjectives, failures, and pairs of words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.daam import hard
from attlas.analysis.metrics import coverage, iou
from attlas.analysis.overlap import MEASURES, RELEASED_OVERLAP, by_relation, overlaps
from attlas.analysis.recipes.figures import Panel, sheet
from attlas.analysis.recipes.prompt_words import chosen_parser, chosen_tagger, missing_nouns, picture_of, word_panels
from attlas.analysis.recipes.recipe import Need, RecipeResult, Table, recipe
from attlas.analysis.recipes.reference import bar, first_runs, mean_of
from attlas.analysis.recipes.settings import label_of, settings_of
from attlas.analysis.segmentation import plain
from attlas.analysis.span_maps import span_maps
from attlas.analysis.speech import spans_of, tagged_words
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError

__all__ = ["fig1", "fig4"]

VARIANTS = ("paper", "released")
SHOWN = ("NOUN", "PROPN", "ADJ", "NUM")
NOTEBOOK = {
    "det": (0.447811, 13.012975, 0.657808),
    "amod": (14.690878, 45.062720, 19.051720),
    "conj:and": (28.435928, 55.501867, 39.649883),
    "compound": (33.434113, 59.130795, 49.985170),
    "nmod:of": (8.657074, 12.855358, 21.987856),
    "nsubj": (5.027227, 10.692133, 22.710293),
    "case": (3.831952, 18.088006, 5.895829),
    "punct": (0.099857, 2.448410, 0.103295),
    "acl": (6.452009, 28.692415, 11.101184),
    "obj": (6.641952, 10.566673, 36.442496),
}
"""mIoU, mIoD and mIoH in per cent as the released notebook printed them: Stable Diffusion 2.1, 1,500 COCO captions, 30
steps, maps above 0.15 (castorini/daam, notebooks/1-visuosyntactic-analyses.ipynb)."""

RULES: dict[str, dict[str, Any]] = {
    "paper, >= 0.4 max": {},
    "released, min-max > 0.4": {"variant": "released"},
    "released notebook, > 0.15": RELEASED_OVERLAP,
}


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
    trace = first_runs(_varied(traces[0]) if isinstance(samples, int) else traces[0], samples)
    tagger, tags = chosen_tagger(trace)
    words = tagged_words(trace, tagger)
    maps, high = {}, {}
    for variant in bar(VARIANTS, "daam-fig1", progress, "variant"):
        maps[variant] = span_maps(trace, spans_of(words), variant=variant).compute()
        high[variant] = hard(maps[variant], tau, variant=variant, grid=trace.store.image_shape)
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


@recipe(
    "daam-fig4",
    title="Soft and hard maps of adjectives and of what was not drawn; overlap of head and dependent",
    paper="DAAM Fig. 4",
    stores=(Need("shapes"),),
    comparable=False,
)
def fig4(
    traces: Sequence[Trace], *, progress: bool = True, samples: int | list[str] = 2, tau: float = 0.4
) -> RecipeResult:
    """Soft and hard maps of nouns and adjectives, of runs with an object that is missing first; and pairs of words."""
    trace = traces[0]
    shown = trace.sel(samples) if isinstance(samples, list) else trace.sel(_telling(trace, samples))
    tagger, tags = chosen_tagger(trace)
    parser, grammar = chosen_parser(trace)
    words = tagged_words(shown, tagger)
    soft = span_maps(shown, spans_of(words)).compute()
    rows = []
    for name, options in bar(RULES.items(), "daam-fig4", progress, "rule"):
        found = by_relation(overlaps(trace, parser, unrelated=True, **options))
        rows += [_relation_row(name, found.sel(relation=own)) for own in found["relation"].values]
    columns = (
        "map and rule",
        "relation",
        "pairs",
        "IoU",
        "+-",
        "IoD",
        "+- ",
        "IoH",
        "+-  ",
        "paper IoU",
        "paper IoD",
        "paper IoH",
    )
    tables = [Table("overlap of head and dependent, %", columns, rows)]
    absent = _absent_table(trace)
    tables += [absent] if absent else []
    notes = [
        (
            "Not comparable in level: the notebook's numbers are of Stable Diffusion 2.1, COCO captions and Stanford "
            f"CoreNLP's relations; ours of {label_of(trace)}, relations by {grammar}."
        ),
        (
            "IoD and IoH: intersection over the dependent's and the head's area. The paper's numbers are the released "
            "notebook's own output; Fig. 4 itself prints none."
        ),
        (
            "The notebook cuts the map itself at 0.15. That map is a sum over calls, so the same cut means another "
            f"thing for another number of calls or of tokens: here, at {trace.store.calls} calls and "
            f"{_text_keys(trace)} tokens, {100 * _share_above(shown, words):.0f} % of all cells are above it."
        ),
        "The pairs 'unrelated' are all others of the same prompt: what two words overlap by without a relation.",
        (
            "Fig. 4 shows a numeral that the picture ignores, and next to no attention to it. Where no numeral is "
            "known, what is asked for and not drawn is the same failure; the second table has its attention."
        ),
    ]
    return RecipeResult(
        tables,
        {"soft maps, and hard maps by both rules": _fig4(shown, words, soft, tau)},
        notes,
        settings_of(
            [trace],
            soft,
            chosen_keys="the tokens of each word",
            threshold=f"max >= {tau:g} (eq. 8)",
            part_of_speech=tags,
            relations=grammar,
        ),
    )


def _varied(trace: Trace) -> Trace:
    """Order runs so that those of two objects come first, each noun in turn: a first page that shows something."""
    masks = {
        str(name): array for name, array in trace.annotations.items() if array.dtype == np.int8 and array.ndim == 3
    }
    drawn = {name: (array > 0).any(("image_y", "image_x")).values for name, array in masks.items()}
    missing = missing_nouns(trace)
    full = [
        run
        for place, run in enumerate(trace.run_ids)
        if sum(bool(own[place]) for own in drawn.values()) > 1 and not missing[run]
    ]
    return trace.sel(full) if full else trace


def _telling(trace: Trace, samples: int) -> list[str]:
    """Choose runs with all their objects, then runs that lack one; at most half of the second."""
    if samples < 1:
        raise InvalidValueError(f"samples = {samples}; at least 1 is needed")
    missing = missing_nouns(trace)
    lacking = [run for run in trace.run_ids if missing[run]][: samples // 2]
    rest = [run for run in _varied(trace).run_ids if not missing[run]]
    return (rest[: samples - len(lacking)] + lacking) or list(trace.run_ids[:samples])


def _fig1(trace: Trace, words: xr.Dataset, maps: dict[str, xr.DataArray]) -> Any:
    rows, labels = [], []
    for place, run in enumerate(trace.run_ids):
        picture = picture_of(trace, run)
        for variant in VARIANTS:
            panels = word_panels(maps[variant], run, words["text"].values[place], picture, smooth=variant == "released")
            rows.append([Panel(picture, caption="generated picture"), *panels])
            labels.append(f"{run}\n{variant}")
    return sheet(rows, row_labels=labels)


def _fig4(trace: Trace, words: xr.Dataset, soft: xr.DataArray, tau: float) -> Any:
    released = span_maps(trace, spans_of(words), variant="released").compute()
    shape = trace.store.image_shape
    hard_maps = {
        "hard, paper": hard(soft, tau),
        "hard, released": hard(released, tau, variant="released", grid=shape),
    }
    missing = missing_nouns(trace)
    rows, labels = [], []
    for place, run in enumerate(trace.run_ids):
        picture = picture_of(trace, run)
        texts, tags = words["text"].values[place], words["pos"].values[place]
        chosen = [
            f"{text} (not drawn)" if text in missing[run] else text if tag in SHOWN else ""
            for text, tag in zip(texts, tags, strict=True)
        ]
        own = soft.sel(run=run).values[[bool(text) for text in chosen]]
        for maps, limits, what in (
            (soft, (0.0, float(own.max())), "soft"),
            *((one, (0.0, 1.4), name) for name, one in hard_maps.items()),
        ):
            panels = word_panels(maps, run, chosen, picture, limits=limits)
            rows.append([Panel(picture, caption="generated picture"), *panels])
            labels.append(f"{run}\n{what}")
    return sheet(rows, row_labels=labels, bar="soft: attention, of the run's highest (1)")


def _share_above(trace: Trace, words: xr.Dataset) -> float:
    """Share of the cells of all words' maps that the notebook's cut takes."""
    maps = span_maps(trace, spans_of(words), variant="released").values
    return float((maps > RELEASED_OVERLAP["tau"])[~np.isnan(maps)].mean())


def _iou(trace: Trace, run: str, word: str, high: xr.DataArray) -> float | None:
    """IoU with the word's mask, where it has one."""
    name = word.replace(" ", "_")
    if name not in trace.annotations:
        return None
    mask = trace.annotations[name].sel(run=run)
    if mask.ndim != 2 or not bool((mask > 0).any()):
        return None
    return float(iou(plain(high).reset_coords(drop=True), (mask > 0).reset_coords(drop=True)))


def _relation_row(name: str, found: xr.Dataset) -> tuple[Any, ...]:
    relation = str(found["relation"].item())
    ours = [
        value for measure in MEASURES for value in (100 * float(found[measure]), 100 * float(found[f"{measure}_ci95"]))
    ]
    paper = NOTEBOOK.get(relation, (None,) * 3) if name.startswith("released notebook") else (None,) * 3
    return (name, relation, int(found["n"]), *ours, *paper)


def _absent_table(trace: Trace) -> Table | None:
    """Word maps of nouns that were drawn against nouns that were not."""
    missing = missing_nouns(trace)
    if not any(missing.values()):
        return None
    words = tagged_words(trace, chosen_tagger(trace)[0])
    maps = span_maps(trace, spans_of(words), variant="released").compute() / trace.store.calls
    covered = coverage(hard(maps, variant="released", grid=trace.store.image_shape)).values
    peaks, means = maps.max(("query_y", "query_x")).values, maps.mean(("query_y", "query_x")).values
    nouns = (words["pos"] == "NOUN").values
    absent = np.array(
        [[text in missing[run] for text in row] for run, row in zip(trace.run_ids, words["text"].values, strict=True)]
    )
    rows = []
    for name, chosen in (("drawn", nouns & ~absent), ("not drawn", absent)):
        scores = [mean_of(values[chosen]) for values in (means, peaks, covered)]
        rows.append((name, scores[0].n, *(value for score in scores for value in (score.value, score.ci95))))
    columns = ("nouns", "n", "mean attention", "+-", "highest attention", "+- ", "coverage", "+-  ")
    return Table("nouns that were asked for, released maps divided by the number of calls", columns, rows)


def _text_keys(trace: Trace) -> int:
    return next(leaf.keys for leaf in trace.leaves.values() if leaf.has_tokens)

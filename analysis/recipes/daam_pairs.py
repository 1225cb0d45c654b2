"""DAAM Fig. 4: adjectives, what was asked for and not drawn, and how heads and dependents overlap."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.metrics import coverage
from attlas.analysis.overlap import MEASURES, RELEASED_OVERLAP, by_relation, overlaps_of
from attlas.analysis.papers.daam import hard
from attlas.analysis.papers.span_maps import span_maps
from attlas.analysis.recipes.figures import Panel, sheet
from attlas.analysis.recipes.prompt_words import (
    chosen_parser,
    chosen_tagger,
    missing_nouns,
    picture_of,
    whole_runs,
    word_panels,
)
from attlas.analysis.recipes.recipe import Need, RecipeResult, Table, recipe
from attlas.analysis.recipes.reference import bar, mean_of
from attlas.analysis.recipes.settings import label_of, settings_of
from attlas.analysis.scoring.word_pairs import distinct_words, unrelated_pairs, word_pairs
from attlas.analysis.speech import spans_of, tagged_words
from attlas.analysis.trace import Trace
from attlas.analysis.words import prompts
from attlas.schemas.errors import InvalidValueError

__all__ = ["fig4"]

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
    tagger, tags = chosen_tagger(trace)
    parser, grammar = chosen_parser(trace)
    words, found = tagged_words(trace, tagger), word_pairs(trace, parser)
    pairs = [row + unrelated_pairs(row, distinct_words(row)) for row in found]
    # Where tagger and parser cut words differently, the parser's are further words.
    spans = [
        own + [word for word in distinct_words(row) if word not in own]
        for own, row in zip(spans_of(words), found, strict=True)
    ]
    maps = {
        variant: span_maps(trace, spans, variant=variant).compute()
        for variant in bar(VARIANTS, "daam-fig4", progress, "variant")
    }
    rows = []
    for name, options in RULES.items():
        table = overlaps_of(maps[options.get("variant", "paper")], pairs, spans, prompts(trace), **options)
        told = by_relation(table)
        rows += [_relation_row(name, told.sel(relation=own)) for own in told["relation"].values]
    shown = trace.sel(samples if isinstance(samples, list) else _telling(trace, samples))
    places = [trace.run_ids.index(run) for run in shown.run_ids]
    soft, released = (maps[variant].isel(run=places) for variant in VARIANTS)
    measured = ("IoU", "+-", "IoD", "+- ", "IoH", "+-  ")
    columns = ("map and rule", "relation", "pairs", *measured, "paper IoU", "paper IoD", "paper IoH")
    tables = [Table("overlap of head and dependent, %", columns, rows)]
    absent = _absent_table(trace, words, maps["released"])
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
            f"thing for another number of calls or of tokens: here, at {trace.calls} calls and "
            f"{_text_keys(trace)} tokens, {100 * _share_above(released):.0f} % of the cells of the words shown are "
            "above it."
        ),
        "The pairs 'unrelated' are all others of the same prompt: what two words overlap by without a relation.",
        (
            "Fig. 4 shows a numeral that the picture ignores, and next to no attention to it. Where no numeral is "
            "known, what is asked for and not drawn is the same failure; the second table has its attention."
        ),
    ]
    return RecipeResult(
        tables,
        {"soft maps, and hard maps by both rules": _draw(shown, words.isel(run=places), soft, released, tau)},
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


def _telling(trace: Trace, samples: int) -> list[str]:
    """Choose runs with all their objects, then runs that lack one; at most half of the second."""
    if samples < 1:
        raise InvalidValueError(f"samples = {samples}; at least 1 is needed")
    missing = missing_nouns(trace)
    lacking = [run for run in trace.run_ids if missing[run]][: samples // 2]
    rest = [run for run in whole_runs(trace).run_ids if not missing[run]]
    return (rest[: samples - len(lacking)] + lacking) or list(trace.run_ids[:samples])


def _draw(trace: Trace, words: xr.Dataset, soft: xr.DataArray, released: xr.DataArray, tau: float) -> Any:
    shape = trace.image_shape
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


def _share_above(released: xr.DataArray) -> float:
    """Share of the cells of the words shown that the notebook's cut takes."""
    values = released.values
    return float((values > RELEASED_OVERLAP["tau"])[~np.isnan(values)].mean())


def _relation_row(name: str, found: xr.Dataset) -> tuple[Any, ...]:
    relation = str(found["relation"].item())
    ours = [
        value for measure in MEASURES for value in (100 * float(found[measure]), 100 * float(found[f"{measure}_ci95"]))
    ]
    paper = NOTEBOOK.get(relation, (None,) * 3) if name.startswith("released notebook") else (None,) * 3
    return (name, relation, int(found["n"]), *ours, *paper)


def _absent_table(trace: Trace, words: xr.Dataset, released: xr.DataArray) -> Table | None:
    """Word maps of nouns that were drawn against nouns that were not."""
    missing = missing_nouns(trace)
    if not any(missing.values()):
        return None
    maps = released.isel(word=slice(words.sizes["word"])) / trace.calls
    covered = coverage(hard(maps, variant="released", grid=trace.image_shape)).values
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

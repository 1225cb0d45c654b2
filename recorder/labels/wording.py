"""A text that a pipeline made of the prompt; each of its characters knows where in the prompt it comes from."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher

__all__ = ["Wording"]

_LONE = r"[\u3040-\u9fff\uac00-\ud7af]"
_WORDS = re.compile(rf"{_LONE}|(?:(?!{_LONE})[\w\u0300-\u036f])+|[^\w\s]")
"""Words with their accents, single signs, and single letters of scripts that put no spaces between words."""

NOWHERE = (-1, -1)


@dataclass(frozen=True)
class Wording:
    """A text, and for each of its characters the first and one past the last character of the prompt (-1: none).

    ``own`` is the stretch that stands for the prompt; what is before and after it is the pipeline's template.

    Examples
    --------
    >>> made = Wording.of("A Cat").rewritten("a cat").wrapped("Draw: ", ".")
    >>> made.text, made.span(8, 11)
    ('Draw: a cat.', (2, 5))
    """

    text: str
    origins: tuple[tuple[int, int], ...]
    own: tuple[int, int]

    @classmethod
    def of(cls, prompt: str) -> "Wording":
        """Return the prompt itself."""
        return cls(prompt, tuple((place, place + 1) for place in range(len(prompt))), (0, len(prompt)))

    def rewritten(self, text: str) -> "Wording":
        """Return `text`; its words come from the same words of this one, case ignored, where these survive in order."""
        if text == self.text:
            return self
        old, new = list(_WORDS.finditer(self.text)), list(_WORDS.finditer(text))
        origins = [NOWHERE] * len(text)
        matcher = SequenceMatcher(None, [m[0].lower() for m in old], [m[0].lower() for m in new], autojunk=False)
        for first, second, length in matcher.get_matching_blocks():
            for before, after in zip(old[first : first + length], new[second : second + length], strict=True):
                # A word may change its length with its case; its characters are then those of the whole word.
                same = len(before[0]) == len(after[0])
                whole = self.span(*before.span())
                for step in range(len(after[0])):
                    origins[after.start() + step] = self.origins[before.start() + step] if same else whole
        return Wording(text, tuple(origins), (0, len(text)))

    def wrapped(self, before: str, after: str = "") -> "Wording":
        """Return this text in a template."""
        origins = (NOWHERE,) * len(before) + self.origins + (NOWHERE,) * len(after)
        own = (len(before) + self.own[0], len(before) + self.own[1])
        return Wording(before + self.text + after, origins, own)

    def expanded(self, known: Iterable[str], text: str) -> "Wording":
        """Return `text`, in which names of several learned vectors became one token a vector.

        Each of them comes from the whole name, such as ``<toy> <toy>_1`` from ``<toy>``. `known` are the tokens that
        were added to the tokenizer.
        """
        if text == self.text:
            return self
        names = set(known)
        vectors = {name: _vectors(name, names) for name in names if f"{name}_1" in names}
        pieces, origins, place = "", list[tuple[int, int]](), 0
        pattern = "|".join(re.escape(name) for name in sorted(vectors, key=len, reverse=True))
        for found in re.finditer(pattern, self.text) if pattern else ():
            pieces += self.text[place : found.start()] + vectors[found[0]]
            origins += self.origins[place : found.start()]
            origins += [self.span(*found.span())] * len(vectors[found[0]])
            place = found.end()
        pieces, origins = pieces + self.text[place:], origins + list(self.origins[place:])
        # A converter of another kind than diffusers' own.
        return Wording(text, tuple(origins), (0, len(text))) if pieces == text else self.rewritten(text)

    def span(self, first: int, last: int) -> tuple[int, int]:
        """First and one past the last character of the prompt in characters `first` to `last` of this text; -1: none.

        White space at either end does not count.
        """
        kept = [self.origins[place] for place in range(first, last) if not self.text[place].isspace()]
        kept = [origin for origin in kept if origin != NOWHERE]
        return (min(a for a, _ in kept), max(b for _, b in kept)) if kept else NOWHERE

    def is_own(self, first: int, last: int) -> bool:
        """Whether characters `first` to `last` hold a sign of the prompt's stretch, white space apart."""
        places = [place for place in range(first, last) if not self.text[place].isspace()] or range(first, last)
        return any(self.own[0] <= place < self.own[1] for place in places)


def _vectors(name: str, known: set[str]) -> str:
    """Spell a learned word of several vectors as diffusers does."""
    spelled, number = name, 1
    while f"{name}_{number}" in known:
        spelled += f" {name}_{number}"
        number += 1
    return spelled

"""Pairs of words of a prompt: given, by a dependency parser, or all that are not related."""

from collections.abc import Sequence
from typing import Any

from attlas.analysis.speech import Parser, spacy_parser
from attlas.analysis.trace import Trace
from attlas.analysis.words import Span, prompts, word_spans
from attlas.schemas.errors import InvalidValueError

__all__ = ["UNRELATED", "Pair", "Pairs", "distinct_words", "unrelated_pairs", "word_pairs"]

UNRELATED = "unrelated"

Pair = tuple[list[Span], list[Span], str]
"""Spans of the head and of the dependent (several where a word stands several times), and their relation."""

Pairs = Parser | Sequence[Sequence[str]]


def word_pairs(trace: Trace, pairs: Pairs | None = None, *, branch: str = "cond") -> list[list[Pair]]:
    """Spans of head and dependent of each run's pairs, with their relation.

    `pairs` and errors as in `attlas.analysis.overlap.overlaps`.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> word_pairs(open_trace(simulate_store(runs=1, prompt="a red disc")), [("disc", "red")])
    [[([(6, 10)], [(2, 5)], 'disc-red')]]
    """
    if pairs is None or callable(pairs):
        parse = spacy_parser() if pairs is None else pairs
        texts = prompts(trace, branch)
        parsed = {text: [_checked(text, own) for own in parse(text)] for text in dict.fromkeys(texts)}
        return [parsed[text] for text in texts]
    made: list[list[Pair]] = [[] for _ in trace.run_ids]
    for own in pairs:
        if isinstance(own, str) or len(own) not in (2, 3):
            raise InvalidValueError(f"pair {own!r}; (head, dependent) or (head, dependent, relation) is accepted")
        heads, dependents = (word_spans(trace, word, branch=branch) for word in own[:2])
        relation = own[2] if len(own) == 3 else f"{own[0]}-{own[1]}"
        for row, head, dependent in zip(made, heads, dependents, strict=True):
            if head and dependent:
                row.append((head, dependent, relation))
    return made


def _checked(text: str, pair: tuple[Any, ...]) -> Pair:
    head, dependent, relation = pair
    for start, end in (head, dependent):
        if not 0 <= start < end <= len(text):
            raise InvalidValueError(
                f"the parser gave the span {(start, end)} for the {len(text)} characters of {text!r}"
            )
    return [tuple(head)], [tuple(dependent)], str(relation)


def distinct_words(pairs: Sequence[Pair]) -> list[list[Span]]:
    """Words of the pairs, each once, in the order of the prompt."""
    words: list[list[Span]] = []
    for head, dependent, _ in pairs:
        words += [own for own in (head, dependent) if own not in words]
    return sorted(words)


def unrelated_pairs(pairs: Sequence[Pair], words: Sequence[list[Span]]) -> list[Pair]:
    """Pairs of words that are not related, the first in the prompt as head."""
    related = [(head, dependent) for head, dependent, _ in pairs]
    return [
        (one, other, UNRELATED)
        for place, one in enumerate(words)
        for other in words[place + 1 :]
        if (one, other) not in related and (other, one) not in related
    ]

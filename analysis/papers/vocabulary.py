"""Words that need not be in any prompt: their embeddings in the store, and the keys they would have had.

K of a token is its embedding times W_k (`key_projection`), head by head; with the stored Q of a run it answers how each
head would have looked at the word. A word was encoded alone, so that its key is that of a word without a context.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attlas.analysis.trace import Trace
from attlas.schemas import Leaf
from attlas.schemas.errors import InvalidValueError, NotRecordedError, unknown_name
from attlas.schemas.vocabulary import Vocabulary, read_vocabulary
from attlas.schemas.words import covered, spans

__all__ = ["HOW_TO_RECORD", "Entry", "check_words", "entry", "project", "projecting_leaves", "vocabulary"]

HOW_TO_RECORD = "record with Capture(vocabulary=[...]) and an encoding that keeps Q (factors or both)"


@dataclass(frozen=True)
class Entry:
    """One text of the vocabulary: embeddings float32 (token, feature), what each token is, and which are looked at."""

    text: str
    embeddings: NDArray[np.float32]
    segments: tuple[str, ...]
    looked_at: tuple[int, ...]

    @property
    def begin(self) -> tuple[int, ...]:
        """Places of the begin-of-text tokens."""
        return tuple(place for place, segment in enumerate(self.segments) if segment == "bos")


def vocabulary(trace: Trace) -> Vocabulary:
    """Words that the store can be asked about, with their embeddings; read now.

    Raises
    ------
    NotRecordedError
        If the store has none; the message says how to record it.
    """
    # Stores of one trace were recorded with the same words by the same model.
    found = read_vocabulary(trace.stores[0].snapshot)
    if found is None:
        raise NotRecordedError(f"{trace.where} has no vocabulary; {HOW_TO_RECORD}")
    return found


def check_words(held: Vocabulary, words: Iterable[str], where: str) -> None:
    """Refuse words that `held` lacks, naming those it has and how to record more."""
    for word in words:
        if word not in held.words:
            raise unknown_name(
                "word", word, held.words, where=f"the vocabulary of {where}; for other words {HOW_TO_RECORD}"
            )


def entry(held: Vocabulary, text: str, where: str, *, word: str | None = None) -> Entry:
    """Entry of the vocabulary, looked at as a whole or at the tokens that spell `word` in it.

    Raises
    ------
    UnknownNameError
        If the vocabulary lacks `text`.
    InvalidValueError
        If `word` does not stand in it.
    """
    check_words(held, [text], where)
    place = held.words.index(text)
    segments = held.segments[place]
    own = [index for index, segment in enumerate(segments) if segment == "word"]
    if word is not None and word != text:
        starts, ends = _offsets(text, [held.tokens[place][index] for index in own])
        hit = covered(starts, ends, spans(text, word))
        if not hit.any():
            raise InvalidValueError(f"word {word!r} does not stand in {text!r} of the vocabulary of {where}")
        own = [index for index, seen in zip(own, hit.tolist(), strict=True) if seen]
    if not own:
        raise InvalidValueError(f"{text!r} of the vocabulary of {where} has no token of its own")
    return Entry(text, held.embeddings[place], segments, tuple(own))


def projecting_leaves(trace: Trace, names: Sequence[str]) -> dict[str, Leaf]:
    """Leaves of `names`, all of which keep Q and W_k.

    Raises
    ------
    NotRecordedError
        If one does not: the message names it and says what to record.
    """
    for name in names:
        lacking = [array for array in ("query_vectors", "key_projection") if not trace.holds(name, array)]
        if lacking:
            raise NotRecordedError(
                f"{trace.where}: leaf {name} lacks {' and '.join(lacking)}, from which the answers to words follow; "
                f"{HOW_TO_RECORD}. K that is more than a product with W_k (a norm, a bias, an adapter) has none"
            )
    return {name: trace.leaves[name] for name in names}


def project(embeddings: NDArray[np.float32], projection: NDArray[Any], heads: int, device: str) -> Tensor:
    """K (head, token, channel) float32 of tokens with `embeddings` (token, feature), by W_k (feature, head channel)."""
    made = torch.from_numpy(np.ascontiguousarray(embeddings, np.float32)).to(device) @ torch.from_numpy(
        np.ascontiguousarray(projection, np.float32)
    ).to(device)
    return made.reshape(len(embeddings), heads, -1).transpose(0, 1)


def _offsets(text: str, tokens: Sequence[str]) -> tuple[list[int], list[int]]:
    """First and one past the last character of each token in `text`; -1 where it is not found after the last one."""
    starts, ends, at = [], [], 0
    for token in tokens:
        # Marks of word ends and beginnings in CLIP's, GPT-2's and sentencepiece's vocabularies.
        plain = token.removesuffix("</w>").lstrip("Ġ▁").lower()
        start = text.lower().find(plain, at) if plain else -1
        starts.append(start)
        ends.append(start + len(plain) if start >= 0 else -1)
        at = max(at, ends[-1])
    return starts, ends

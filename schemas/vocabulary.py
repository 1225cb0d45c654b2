"""Words that need not be in any prompt: their embeddings, from which a text layer's keys follow.

With `key_projection` of a leaf and its `query_vectors` they answer, long after a run, how strongly each head would have
looked at a word.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.schemas.errors import InvalidValueError
from attlas.schemas.nodes import array_document
from attlas.schemas.root import VOCABULARY, group_document
from attlas.schemas.snapshot import Snapshot
from attlas.schemas.variables import VOCABULARY_VARIABLES

__all__ = ["Vocabulary", "read_vocabulary", "vocabulary_arrays"]


@dataclass(frozen=True)
class Vocabulary:
    """Words as the text encoder sees them, each encoded alone.

    Every word has its tokens from the begin-of-text to the end-of-text token: ``tokens`` and ``segments`` (``bos word
    eos``) have one entry each, ``embeddings`` float32 (token, feature).
    """

    words: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    segments: tuple[tuple[str, ...], ...]
    embeddings: tuple[NDArray[np.float32], ...]

    def __post_init__(self) -> None:
        for word, tokens, segments, embedding in zip(
            self.words, self.tokens, self.segments, self.embeddings, strict=True
        ):
            if not len(tokens) == len(segments) == len(embedding):
                raise InvalidValueError(
                    f"word {word!r} has {len(tokens)} tokens, {len(segments)} segments and {len(embedding)} embeddings"
                )


def vocabulary_arrays(vocabulary: Vocabulary) -> tuple[dict[str, dict[str, Any]], dict[str, NDArray[Any]]]:
    """Return metadata documents and values of the arrays of a vocabulary, by path.

    Shorter words end in places of segment ``absent`` and NaN.
    """
    longest = max(len(tokens) for tokens in vocabulary.tokens)
    features = vocabulary.embeddings[0].shape[1]
    embedding = np.full((len(vocabulary.words), longest, features), np.nan, np.float32)
    for place, values in enumerate(vocabulary.embeddings):
        embedding[place, : len(values)] = values
    arrays: dict[str, NDArray[Any]] = {
        "word": np.asarray(vocabulary.words, dtype=object),
        "word_token": _padded(vocabulary.tokens, longest, ""),
        "word_segment": _padded(vocabulary.segments, longest, "absent"),
        "word_embedding": embedding,
    }
    nodes = {VOCABULARY: group_document({})}
    for variable in VOCABULARY_VARIABLES.values():
        shape = arrays[variable.name].shape
        nodes[f"{VOCABULARY}/{variable.name}"] = array_document(variable, shape, shape)
    return nodes, {f"{VOCABULARY}/{name}": values for name, values in arrays.items()}


def read_vocabulary(snapshot: Snapshot) -> Vocabulary | None:
    """Vocabulary of a store, or None where it has none."""
    if VOCABULARY not in snapshot.doc.nodes:
        return None
    held = {name: snapshot.read(f"{VOCABULARY}/{name}") for name in VOCABULARY_VARIABLES}
    segments = held["word_segment"]
    lengths = (segments != "absent").sum(1)
    return Vocabulary(
        tuple(str(word) for word in held["word"]),
        tuple(tuple(str(t) for t in row[:n]) for row, n in zip(held["word_token"], lengths, strict=True)),
        tuple(tuple(str(s) for s in row[:n]) for row, n in zip(segments, lengths, strict=True)),
        tuple(row[:n] for row, n in zip(held["word_embedding"], lengths, strict=True)),
    )


def _padded(rows: tuple[tuple[str, ...], ...], length: int, fill: str) -> NDArray[Any]:
    return np.asarray([[*row, *[fill] * (length - len(row))] for row in rows], dtype=object)

"""Words that need not be in any prompt: their embeddings, from which a text layer's keys follow.

With `key_projection` of a leaf and its `query_vectors` they answer, long after a run, how strongly each head would have
looked at a word.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from attlas.schemas.codecs import codecs
from attlas.schemas.errors import InvalidValueError
from attlas.schemas.variables import VOCABULARY_VARIABLES

__all__ = ["GROUP", "Vocabulary", "read_vocabulary", "write_vocabulary"]

GROUP = "vocabulary"
"""Path of the group inside a store."""


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


def write_vocabulary(group: zarr.Group, vocabulary: Vocabulary) -> None:
    """Put a vocabulary into a new store; shorter words end in places of segment ``absent`` and NaN."""
    longest = max(len(tokens) for tokens in vocabulary.tokens)
    features = vocabulary.embeddings[0].shape[1]
    embedding = np.full((len(vocabulary.words), longest, features), np.nan, np.float32)
    for place, values in enumerate(vocabulary.embeddings):
        embedding[place, : len(values)] = values
    arrays: dict[str, Any] = {
        "word": np.asarray(vocabulary.words, dtype=object),
        "word_token": _padded(vocabulary.tokens, longest, ""),
        "word_segment": _padded(vocabulary.segments, longest, "absent"),
        "word_embedding": embedding,
    }
    node = group.require_group(GROUP)
    for variable in VOCABULARY_VARIABLES.values():
        node.create_array(
            variable.name,
            shape=arrays[variable.name].shape,
            dtype=variable.dtype,
            chunks=arrays[variable.name].shape,
            fill_value=variable.fill,
            dimension_names=variable.dims,
            attributes={"description": variable.meaning},
            **codecs(variable),
        )[...] = arrays[variable.name]


def read_vocabulary(group: zarr.Group) -> Vocabulary | None:
    """Vocabulary of a store, or None where it has none."""
    if GROUP not in group:
        return None
    node: Any = group[GROUP]
    segments = node["word_segment"][...]
    lengths = (segments != "absent").sum(1)
    return Vocabulary(
        tuple(str(word) for word in node["word"][...]),
        tuple(tuple(str(t) for t in row[:n]) for row, n in zip(node["word_token"][...], lengths, strict=True)),
        tuple(tuple(str(s) for s in row[:n]) for row, n in zip(segments, lengths, strict=True)),
        tuple(row[:n] for row, n in zip(node["word_embedding"][...], lengths, strict=True)),
    )


def _padded(rows: tuple[tuple[str, ...], ...], length: int, fill: str) -> NDArray[Any]:
    return np.asarray([[*row, *[fill] * (length - len(row))] for row in rows], dtype=object)

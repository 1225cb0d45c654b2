"""Geometry, Q and K of the leaves of a simulated store."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.schemas.leaf import Leaf

__all__ = [
    "CHANNELS",
    "Scene",
    "output_projection",
    "preferred_keys",
    "token_labels",
    "value_vectors",
    "vectors",
]

Array = NDArray[np.float32]

CHANNELS = 8
FEATURES = 12


@dataclass(frozen=True)
class Scene:
    """What the leaves of a simulated store have in common.

    ``grid`` is rows and columns, after frames for a video; ``words`` those of the prompt; ``references`` counts the
    reference pictures in a joint sequence; ``room`` counts places for which no run has a token, which are masked with
    the padding.
    """

    grid: tuple[int, ...]
    heads: int
    layers: int
    words: tuple[str, ...]
    references: int = 0
    masked: bool = False
    partial: bool = False
    values: bool = False

    @property
    def places(self) -> int:
        """Keys of a text: a token a word, begin, end, padding, and two that are absent where keys are masked."""
        return len(self.words) + 3 + 2 * self.masked

    def leaf(self, kind: str, encoding: str) -> Leaf:
        """Geometry of the leaf of a kind, as a store keeps it."""
        made = self._leaf(kind, encoding, partial=self.partial and kind in ("text", "joint"))
        return replace(made, value_channels=CHANNELS, output_features=FEATURES) if self.values else made

    def whole(self, leaf: Leaf) -> Leaf:
        """Geometry of all keys that take part in the softmax of `leaf`."""
        return self._leaf(leaf.kind, "none", partial=False) if leaf.partial else leaf

    def kept(self, leaf: Leaf) -> slice:
        """Which of all keys a leaf keeps: of a partial one the words, for a joint sequence the whole text."""
        if not leaf.partial:
            return slice(None)
        return slice(0, self.places) if leaf.kind == "joint" else slice(1, 1 + len(self.words))

    def _leaf(self, kind: str, encoding: str, *, partial: bool) -> Leaf:
        paths = tuple(f"blocks.{i}.{'attn1' if kind == 'self' else 'attn2'}" for i in range(self.layers))
        masked = self.masked and kind in ("text", "joint")
        channels = CHANNELS + masked
        if kind == "text":
            keys = len(self.words) if partial else self.places
            return Leaf(
                kind, self.grid, self.heads, channels, paths, keys, encoding=encoding, masked=masked, partial=partial
            )
        labels = self._labels(kind, partial=partial)
        return Leaf(
            kind,
            self.grid,
            self.heads,
            channels,
            paths,
            len(labels),
            tuple(segment for segment, *_ in labels),
            tuple(y for *_, y, _ in labels),
            tuple(x for *_, x in labels),
            encoding=encoding,
            keys_vary=kind != "image",
            key_frame=tuple(frame for _, _, frame, _, _ in labels) if len(self.grid) == 3 else (),
            key_picture=tuple(picture for _, picture, *_ in labels),
            masked=masked,
            partial=partial,
        )

    def _labels(self, kind: str, *, partial: bool) -> list[tuple[str, int, int, int, int]]:
        """Segment, picture, frame, row and column of each key."""
        if kind == "image":
            return [("cls", -1, -1, -1, -1), *_patches("reference", self.grid[-2:], 0)]
        if kind == "self":
            return _patches("self", self.grid)
        text = [("text", -1, -1, -1, -1)] * self.places
        if partial:
            return text
        pictures = [key for n in range(self.references) for key in _patches("reference", self.grid[-2:], n)]
        return [*text, *_patches("generated", self.grid), *pictures]


def _patches(segment: str, grid: tuple[int, ...], picture: int = -1) -> list[tuple[str, int, int, int, int]]:
    return [(segment, picture, place[0] if len(place) == 3 else 0, place[-2], place[-1]) for place in np.ndindex(*grid)]


def token_labels(leaf: Leaf, scene: Scene, words: Sequence[str]) -> dict[str, Any]:
    """Columns of `Store.write_tokens` for a leaf and the words of a branch; keys that are no text have no label."""
    pads = len(scene.words) + 1 - len(words)
    absent = 2 * scene.masked
    first = np.cumsum([0, *(len(word) + 1 for word in words)])[:-1].tolist()
    rest = scene.whole(leaf).keys - scene.places
    tokens = ["<|startoftext|>", *words, *["<|endoftext|>"] * (pads + 1), *[""] * (absent + rest)]
    segments = ["bos", *["word"] * len(words), "eos", *["pad"] * pads, *["absent"] * absent, *[""] * rest]
    after = [-1] * (len(tokens) - 1 - len(words))
    ends = [start + len(word) for start, word in zip(first, words, strict=True)]
    kept = scene.kept(leaf)
    return {
        "tokens": tokens[kept],
        "segments": segments[kept],
        "starts": [-1, *first, *after][kept],
        "ends": [-1, *ends, *after][kept],
    }


def vectors(leaf: Leaf, branches: Sequence[Sequence[str]], calls: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Random Q (branch, t, layer, head, query, channel) and K (..., key, channel); each query prefers a key or two.

    `leaf` has all keys that take part; `branches` are the words of each branch, which say what is padding.
    """
    shape = (len(branches), calls, len(leaf.layers), leaf.heads)
    keys = rng.normal(size=(len(branches), 1, len(leaf.layers), leaf.heads, leaf.keys, CHANNELS))
    if leaf.keys_vary:
        keys = keys + 0.3 * rng.normal(size=(*shape, leaf.keys, CHANNELS))
    keys = np.broadcast_to(keys, (*shape, leaf.keys, CHANNELS))
    preferred = sum(strength * keys[..., places, :] for strength, places in preferred_keys(leaf))
    queries = preferred + 0.2 * rng.normal(size=(*shape, leaf.queries, CHANNELS))
    if leaf.masked:
        bias = np.zeros((len(branches), leaf.keys))
        text = leaf.keys if leaf.kind == "text" else leaf.key_segments.count("text")
        for branch, words in enumerate(branches):
            bias[branch, len(words) + 2 : text] = -np.inf
        bias = np.broadcast_to(bias[:, None, None, None, :, None], (*shape, leaf.keys, 1))
        keys = np.concatenate([keys, bias], -1)
        queries = np.concatenate([queries, np.ones((*shape, leaf.queries, 1))], -1)
    return queries.astype(np.float32), keys.astype(np.float32)


def value_vectors(leaf: Leaf, branches: int, calls: int, rng: np.random.Generator) -> Array:
    """Random V (branch, t, layer, head, key, channel) of the keys that `leaf` keeps; the same in every call if K is."""
    shape = (branches, calls, len(leaf.layers), leaf.heads, leaf.keys, leaf.value_channels)
    drawn = rng.normal(size=shape if leaf.keys_vary else (branches, 1, *shape[2:])).astype(np.float32)
    return np.broadcast_to(drawn, shape)


def output_projection(leaf: Leaf, rng: np.random.Generator) -> NDArray[np.float16]:
    """Random W_o (layer, head and channel of V, feature)."""
    shape = (len(leaf.layers), leaf.heads * leaf.value_channels, leaf.output_features)
    return rng.normal(size=shape).astype(np.float16)


def preferred_keys(leaf: Leaf) -> list[tuple[float, NDArray[np.int64]]]:
    """Key that each query prefers, and how much: words in turn, the reference patch mirrored left to right, its own.

    A joint sequence has two: a word, and more than that a patch of its last picture.
    """
    size = leaf.query_grid[-1]
    rows, columns = np.divmod(np.arange(leaf.queries), size)
    if leaf.kind == "text":
        return [(0.8, 1 + rows % (leaf.keys - 3 - 2 * leaf.masked))]
    if leaf.kind == "image":
        rows %= leaf.query_grid[-2]
        return [(0.8, 1 + rows * size + (size - 1 - columns))]
    if leaf.kind == "self":
        return [(0.8, np.arange(leaf.queries))]
    text = leaf.key_segments.count("text")
    words = (0.3, 1 + rows % (text - 3 - 2 * leaf.masked))
    if "reference" not in leaf.key_segments:
        return [words, (1.0, text + np.arange(leaf.queries))]
    rows %= leaf.query_grid[-2]
    last = leaf.keys - leaf.query_grid[-2] * size
    return [words, (1.0, last + rows * size + (size - 1 - columns))]

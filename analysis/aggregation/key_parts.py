"""Parts of a key axis: the text, the generated picture, a reference; where a part's keys lie in their picture."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.schemas import Leaf
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["KeyPart", "part_of"]


@dataclass(frozen=True)
class KeyPart:
    """Which keys a map, or a mask of rows and columns, lies on.

    ``segment`` None means the only part with patches; where a leaf has none, all keys. ``picture`` chooses among
    reference pictures.
    """

    segment: str | None = None
    picture: int | None = None

    def places(self, leaf: Leaf) -> NDArray[np.int64]:
        """Keys of the part, in stored order."""
        return np.flatnonzero(self._chosen(leaf))

    def grid(self, leaf: Leaf) -> tuple[int, ...] | None:
        """Rows and columns of the part's patches, after frames where it has any; None where its keys are no patches.

        Raises
        ------
        InvalidValueError
            If the patches are of several parts or pictures, and none is chosen.
        """
        places = self._patches(leaf)
        if not places.size:
            return None
        return tuple(int(axis[places].max()) + 1 for axis in self._axes(leaf, places))

    def cells(self, leaf: Leaf) -> NDArray[np.int64]:
        """Key of each cell of the part's grid; `InvalidValueError` unless each cell has one key."""
        places, grid = self._patches(leaf), self.grid(leaf)
        if grid is None:
            raise InvalidValueError(
                f"keys of {leaf.kind}/{leaf.grid} are no patches; rows and columns have no meaning for them"
            )
        flat = np.ravel_multi_index([axis[places] for axis in self._axes(leaf, places)], grid)
        counts = np.bincount(flat, minlength=int(np.prod(grid)))
        shown = "x".join(str(size) for size in grid)
        if (counts != 1).any():
            wrong = "have cells with two keys" if (counts > 1).any() else "do not fill"
            raise InvalidValueError(f"the patch keys of {leaf.kind}/{leaf.grid} {wrong} in their {shown} grid")
        cells = np.empty(grid, np.int64)
        cells.ravel()[flat] = places
        return cells

    def _chosen(self, leaf: Leaf) -> NDArray[np.bool_]:
        chosen = np.ones(leaf.keys, dtype=bool)
        if self.segment is not None and leaf.key_segments:
            chosen &= np.asarray(leaf.key_segments) == self.segment
        if self.picture is not None and leaf.key_picture:
            chosen &= np.asarray(leaf.key_picture) == self.picture
        return chosen

    def _patches(self, leaf: Leaf) -> NDArray[np.int64]:
        """Patches of the part, which must be of one segment and one picture."""
        if leaf.kind == "text":
            return np.empty(0, np.int64)
        places = np.flatnonzero(self._chosen(leaf) & (np.asarray(leaf.key_y) >= 0))
        segments = leaf.key_parts if self.segment is None else ()
        if len(segments) > 1:
            raise InvalidValueError(
                f"the patch keys of {leaf.kind}/{leaf.grid} are of several parts, {_named(segments)}; "
                "choose one by keys= or segment="
            )
        pictures = np.unique(np.asarray(leaf.key_picture)[places]).tolist()
        if len(pictures) > 1:
            raise InvalidValueError(
                f"the reference keys of {leaf.kind}/{leaf.grid} are of several pictures, {_named(pictures)}; "
                "choose one by picture="
            )
        return places

    def _axes(self, leaf: Leaf, places: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Frame, row and column of every key; a picture beside a video has no frames."""
        axes = [np.asarray(leaf.key_y), np.asarray(leaf.key_x)]
        if leaf.key_frame:
            frames = np.asarray(leaf.key_frame)
            if frames[places].max() > 0 or leaf.key_segments[places[0]] in ("generated", "self"):
                return [frames, *axes]
        return axes


def part_of(leaves: Iterable[Leaf], keys: Any, segment: str | None, picture: int | None) -> KeyPart:
    """Part of the key axis that is meant by the arguments ``keys``, ``segment`` and ``picture`` of a map.

    Raises
    ------
    UnknownNameError
        If no leaf has the segment or the picture.
    InvalidValueError
        If `keys` and `segment` are two different segments.
    """
    leaves = list(leaves)
    known = dict.fromkeys(chain.from_iterable(leaf.key_segments for leaf in leaves))
    if segment is not None and segment not in known:
        raise unknown_name("segment", segment, known, where=f"kind {leaves[0].kind!r}")
    if isinstance(keys, str) and known:
        own = keys if keys in known else "text" if "text" in known else None
        if segment is not None and own not in (None, segment):
            raise InvalidValueError(f"keys={keys!r} lie in segment {own!r}, not in segment={segment!r}")
        segment = segment or own
    if picture is not None:
        numbers = sorted({own for leaf in leaves for own in leaf.key_picture if own >= 0})
        if picture not in numbers:
            raise unknown_name("picture", str(picture), [str(own) for own in numbers], where=f"kind {leaves[0].kind!r}")
        segment = segment or "reference"
    return KeyPart(segment, picture)


def _named(values: Iterable[object]) -> str:
    return " and ".join(repr(value) for value in values)

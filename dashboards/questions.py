"""Questions that a page can ask, and what it is offered to ask."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["MODES", "Grid", "Offer", "Offers", "Question"]

MODES = ("patch", "reference", "word", "map")
"""A question starts at a patch of the generated image, at a patch of the reference, or at a word of the prompt; or it
asks a registered map of the whole run."""

Grid = tuple[int, int]


@dataclass(frozen=True)
class Offer:
    """What can be asked of one run of one store.

    ``grids`` holds the query grids of each recorded kind by name, the first is the default; ``key_grids`` the
    grid of the patch keys of each kind, missing where its keys are no patches; ``words`` those of each branch's
    prompt, in lower case; ``nouns`` are words that name something whose place is known, asked first. ``text`` is the
    kind that answers for words; ``references`` are the kinds whose keys are patches of the reference picture. ``maps``
    are registered maps that can be asked by name.
    """

    runs: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()
    grids: Mapping[str, Mapping[str, Grid]] = field(default_factory=dict)
    key_grids: Mapping[str, Grid] = field(default_factory=dict)
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    nouns: tuple[str, ...] = ()
    text: str = "text"
    references: tuple[str, ...] = ("image",)
    maps: tuple[str, ...] = ()

    @property
    def modes(self) -> tuple[str, ...]:
        """Where a question can start here."""
        return tuple(mode for mode in MODES if self.kinds(mode) and self.branches_for(mode))

    def kinds(self, mode: str) -> tuple[str, ...]:
        """Kinds of attention that answer a question of `mode`; reference before self."""
        if mode == "map":
            return tuple(self.grids) if self.maps else ()
        if mode == "word":
            return (self.text,) if self.text in self.grids else ()
        accepted = ("image", "joint", "self") if mode == "patch" else self.references
        return tuple(kind for kind in accepted if kind in self.grids and kind in self.key_grids)

    def branches_for(self, mode: str) -> tuple[str, ...]:
        """Branches of which a question of `mode` can be asked, the conditional one first."""
        branches = sorted(self.branches, key=lambda name: name != "cond")
        return tuple(name for name in branches if mode != "word" or self.words.get(name))


class Offers(Protocol):
    """Where the state learns what it may be."""

    @property
    def stores(self) -> tuple[str, ...]:
        """Names of the stores."""

    def offer(self, store: str, run: str | None) -> Offer:
        """Say what can be asked of `run` (None: of the first run) of `store`."""


@dataclass(frozen=True)
class Question:
    """What is computed, without how it is drawn; equal questions have equal answers.

    ``patch`` is (row, column) in the grid of the side that was clicked; it is None where ``word`` or ``map`` is asked.
    """

    store: str
    run: str
    mode: str
    kind: str
    grid: str
    direction: str
    branch: str
    patch: Grid | None = None
    word: str | None = None
    map: str | None = None

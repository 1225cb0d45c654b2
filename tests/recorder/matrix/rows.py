"""What a row of the architecture matrix says: a tiny pipeline, a request, and what its recording must hold."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import groupby
from typing import Any

TABLES = ("unets", "references", "joint", "joint_tasks", "cross", "video", "newer", "handwritten", "unknown")
"""Modules of this folder with rows: each may have a list ROWS, and need not be there."""


@dataclass(frozen=True)
class Row:
    """One architecture.

    Parameters
    ----------
    name
        As people call the architecture.
    pipeline
        Name of the pipeline's class.
    build
        Makes the pipeline, tiny, from configurations alone.
    request
        Arguments of the pipeline (and ``seed``), or a function of the pipeline that gives them.
    capture
        Settings of `Capture`.
    branches
        All guidance branches of the run: in order of rows in a batch; with ``passes``, in order of the passes.
    leaves
        Leaf names and their keys: segments in order, ``1 bos, 2 word, 1 eos, 8 pad``; of a text leaf those of the first
        run's prompt. Where there are several references they are numbered: ``4 reference 0, 4 reference 1``.
    words
        Words of the first run's prompt, and the places of their tokens among the keys of text and joint leaves.
    calls
        Denoiser calls kept.
    steps
        Sampler step of each call; by default one call a step.
    inert
        Whether the recorder warns that one key has a softmax of 1.
    denoiser, relay, passes, queries, keys
        As `fidelity.assert_faithful` takes them.
    notes
        What the table says of it, besides.
    reason
        Why it cannot be recorded; empty where it can.
    error
        Where there is a reason: class and pattern of the error that says so.
    """

    name: str
    pipeline: str
    build: Callable[[], Any]
    request: Mapping[str, Any] | Callable[[Any], Mapping[str, Any]] = field(default_factory=dict)
    capture: Mapping[str, Any] = field(default_factory=dict)
    branches: tuple[str, ...] = ("uncond", "cond")
    leaves: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    calls: int = 2
    steps: tuple[int, ...] | None = None
    inert: bool = False
    denoiser: str = "unet"
    relay: str | None = None
    passes: bool = False
    queries: Callable[[str], slice] | slice | None = None
    keys: Callable[[str, int], Sequence[int]] | None = None
    notes: str = ""
    reason: str = ""
    error: tuple[type[Exception], str] | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of attention that its recording holds."""
        return tuple(dict.fromkeys(name.split("/")[0] for name in self.leaves))


def segments(labels: Iterable[str]) -> str:
    """Spell labels of keys as a row does.

    >>> segments(["bos", "word", "word", "eos"])
    '1 bos, 2 word, 1 eos'
    """
    return ", ".join(f"{len(list(group))} {label}" for label, group in groupby(labels))


def rows() -> list[Row]:
    """Every row, in the order of the table."""
    found = []
    for name in TABLES:
        try:
            found += getattr(import_module(f"matrix.{name}"), "ROWS", [])
        except ModuleNotFoundError as error:
            if error.name != f"matrix.{name}":
                raise
    return found

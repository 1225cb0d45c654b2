"""Which faults are tried: all of them, or a sample that is the same each time."""

import random
from collections.abc import Iterator, Mapping, Sequence

from faults.damage import DAMAGES, FLIPS, STRANGE
from faults.interrupt import ERRORS, WITHOUT_CHANGE, Fault, Operation
from faults.metadata import WHOLE_FILES
from faults.work import Task

from attlas.schemas.root import ROOT

__all__ = ["FAMILIES", "everything", "sampled"]

FAMILIES = ("beside", "workers", "shared", "disturb", "damage", "fuzz")

FUZZED = 300
"""Changed root documents of each sample store."""

OPENINGS = 200

SHARED, ON_WORKERS = 20, 100
"""Requests in the list that four processes share, and in one over Dask workers."""

TIMES = 20
"""How often each of these is done."""


def everything(
    operations: Mapping[str, Sequence[Operation]], files: Mapping[str, Sequence[str]], families: Sequence[str]
) -> list[Task]:
    """Every fault, the longest first."""
    tasks = {
        "beside": [Task("beside", (OPENINGS, 0))],
        "workers": [Task("workers", (ON_WORKERS, seed)) for seed in range(TIMES)],
        "shared": [Task("shared", (SHARED, seed)) for seed in range(TIMES)],
        "disturb": [
            Task("disturb", (name, fault))
            for place, (name, held) in enumerate(operations.items())
            for fault in _faults(held, place)
        ],
        "damage": [
            Task("damage", (sample, file, kind)) for sample, held in files.items() for file, kind in _damages(held)
        ],
        "fuzz": [Task("fuzz", (sample, case)) for sample in files for case in (*WHOLE_FILES, *range(FUZZED))],
    }
    return [task for family in FAMILIES if family in families for task in tasks[family]]


def _faults(operations: Sequence[Operation], place: int) -> list[Fault]:
    """Faults of one recording, the `place`-th: a kill at each operation, and errors at most.

    A kill that finds the files as the one before it is left out. The three errors take turns, and each recording
    begins with another; since all of them do most of the same operations, the later ones have one at every third.
    """
    made = []
    every = 1 if place < 2 else 3
    for number, operation in enumerate(operations):
        turn = number + place
        often = 4 * every if operation.event in WITHOUT_CHANGE else every
        if number == 0 or operations[number - 1].event not in WITHOUT_CHANGE:
            made.append(Fault("kill", number))
        if turn % often == 0:
            made.append(Fault(list(ERRORS)[turn // often % 3], number))
        if operation.writes and turn % 8 < 2:
            made.append(Fault("short" if turn % 8 else "torn", number))
        if turn % 64 in (0, 32):
            made.append(Fault("full" if turn % 64 else "gone", number))
    return made


def _damages(files: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each file, and what is done to it: most to the root document, which is one; less to files that are many alike."""
    for place, file in enumerate(files):
        root, metadata = file == ROOT, file.endswith(f"/{ROOT}")
        yield from ((file, kind) for kind in DAMAGES if kind not in STRANGE and kind not in FLIPS)
        yield from ((file, kind) for kind in (STRANGE if root else STRANGE[place % len(STRANGE) :][:1]))
        yield from ((file, kind) for kind in FLIPS[: len(FLIPS) if root else 2 if metadata else 3])


def sampled(tasks: Sequence[Task], count: int, seed: int = 0) -> list[Task]:
    """Some of the tasks, spread evenly, so that none of the same file or operation are neighbours."""
    if len(tasks) <= count:
        return list(tasks)
    rng = random.Random(seed)
    step = len(tasks) / count
    return [tasks[min(len(tasks) - 1, int((place + rng.random()) * step))] for place in range(count)]

"""Which faults are tried: all of them, or a sample that is the same each time."""

import random
from collections.abc import Mapping, Sequence

from faults.damage import DAMAGES
from faults.interrupt import ERRORS, WITHOUT_CHANGE, Fault, Operation
from faults.metadata import WHOLE_FILES
from faults.work import Task

__all__ = ["FAMILIES", "everything", "sampled"]

FAMILIES = ("disturb", "damage", "fuzz", "beside", "shared")

FUZZED = 500
"""Changed root documents of each sample store."""

OPENINGS = 200

SHARED = 20
"""Requests in the list that four processes share."""


def everything(
    operations: Mapping[str, Sequence[Operation]], files: Mapping[str, Sequence[str]], families: Sequence[str]
) -> list[Task]:
    """Every fault, the longest first."""
    tasks = {
        "beside": [Task("beside", (OPENINGS, 0))],
        "shared": [Task("shared", (SHARED,))],
        "disturb": [
            Task("disturb", (name, fault))
            for place, (name, held) in enumerate(operations.items())
            for fault in _faults(held, place)
        ],
        "damage": [
            Task("damage", (sample, file, kind)) for sample, held in files.items() for file in held for kind in DAMAGES
        ],
        "fuzz": [Task("fuzz", (sample, case)) for sample in files for case in (*WHOLE_FILES, *range(FUZZED))],
    }
    return [task for family in ("beside", "shared", "disturb", "damage", "fuzz") if family in families
            for task in tasks[family]]  # fmt: skip


def _faults(operations: Sequence[Operation], place: int) -> list[Fault]:
    """Faults of one recording, the `place`-th: a kill at each operation, an error at each, and others here and there.

    A kill that finds the files as the one before it is left out. The three errors take turns, and each recording
    begins with another: all of them do most of the same operations.
    """
    made = []
    for number, operation in enumerate(operations):
        turn = number + place
        quiet = operation.event in WITHOUT_CHANGE
        if number == 0 or operations[number - 1].event not in WITHOUT_CHANGE:
            made.append(Fault("kill", number))
        if not quiet or turn % 4 == 0:
            made.append(Fault(list(ERRORS)[turn % 3], number))
        if operation.writes and turn % 3 == 0:
            made.append(Fault("torn", number))
        if operation.writes and turn % 3 == 1:
            made.append(Fault("short", number))
        if turn % 16 in (0, 8):
            made.append(Fault("full" if turn % 16 else "gone", number))
    return made


def sampled(tasks: Sequence[Task], count: int, seed: int = 0) -> list[Task]:
    """Some of the tasks, spread evenly, so that none of the same file or operation are neighbours."""
    if len(tasks) <= count:
        return list(tasks)
    rng = random.Random(seed)
    step = len(tasks) / count
    return [tasks[min(len(tasks) - 1, int((place + rng.random()) * step))] for place in range(count)]

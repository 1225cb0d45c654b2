"""What one process of the harness does: prepared once, then one fault after the other."""

import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from faults.beside import read_beside_writers, share_a_list
from faults.children import adopt_orphans, die_with_parent, in_child
from faults.damage import damage, files_of
from faults.disturb import disturb
from faults.evidence import Found, read_with_attlas
from faults.fan_out import record_on_workers
from faults.interrupt import Fault, Operation
from faults.metadata import fuzz
from faults.outcome import Outcome
from faults.samples import make_sample, surveyed
from faults.scenarios import SCENARIOS
from faults.scratch import scratch
from faults.undisturbed import Undisturbed, prepare, undisturbed

__all__ = ["Task", "files", "operations", "perform", "ready"]


@dataclass(frozen=True)
class Task:
    """One thing to try: `what` is a kind of fault, `arguments` are those of its function here."""

    what: str
    arguments: tuple[Any, ...]


def ready() -> None:
    """Prepare this process, which must have one thread alone."""
    # Locks that children make have no name then, so that those of killed ones leave nothing to clear away.
    multiprocessing.set_start_method("fork", force=True)
    die_with_parent()
    adopt_orphans()
    prepare()


def operations(scenario: str) -> tuple[Operation, ...]:
    """File operations of an undisturbed recording."""
    return _reference(scenario).operations


def files(sample: str) -> list[str]:
    """Files of a sample store."""
    return files_of(_sample(sample)[0])


def perform(task: Task) -> Outcome:
    """Do it, and say what came of it."""
    functions: dict[str, Callable[..., Outcome]] = {
        "disturb": _disturb,
        "damage": _damage,
        "fuzz": _fuzz,
        "beside": read_beside_writers,
        "shared": share_a_list,
        "workers": record_on_workers,
    }
    try:
        return functions[task.what](*task.arguments)
    except AssertionError as err:
        # What the fault was to be held against could not be made.
        return Outcome(str(task.arguments[0]), "undisturbed", 0, problems=[("not resumed", str(err))])


def _disturb(scenario: str, fault: Fault) -> Outcome:
    return disturb(_reference(scenario), fault)


def _damage(sample: str, file: str, kind: str) -> Outcome:
    return damage(*_sample(sample), file, kind)


def _fuzz(sample: str, case: int | str) -> Outcome:
    return fuzz(*_sample(sample)[:2], case)


@cache
def _reference(scenario: str) -> Undisturbed:
    return undisturbed(SCENARIOS[scenario], _folder() / scenario)


@cache
def _sample(sample: str) -> tuple[Path, Found, dict[str, str]]:
    path = make_sample(sample, _folder())
    ended = in_child(lambda _: (read_with_attlas(path), surveyed(path)))
    if not ended.returned:
        raise AssertionError(f"{ended}\n{ended.trace}")
    return path, *ended.value


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="attlas-undisturbed-", dir=scratch()))

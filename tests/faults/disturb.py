"""One fault in one recording, and everything that must hold afterwards."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import pipelines
from faults.children import Ended, Note, in_child, scratch
from faults.evidence import Found, differences, files_below, read_plain, read_with_attlas
from faults.interrupt import Fault, Operation, arm, count
from faults.outcome import Outcome
from faults.scenarios import SCENARIOS, STORE, Scenario

from attlas.schemas import validate_store
from attlas.schemas.errors import StoreNotFoundError

__all__ = ["Undisturbed", "disturb", "prepare", "undisturbed"]


@dataclass(frozen=True)
class Undisturbed:
    """What a recording makes and does where nothing goes wrong.

    Attributes
    ----------
    base
        Folder with what was there before.
    kept
        Labels of the runs that were complete before.
    plain, attlas
        What the readers find at the end.
    files
        Every file at the end.
    operations
        Of the recording, in order.
    """

    scenario: Scenario
    base: Path
    kept: frozenset[str]
    plain: Found
    attlas: Found
    files: frozenset[str]
    operations: tuple[Operation, ...]


@dataclass
class Seen:
    """What is to be seen at a path: None where there is no store."""

    plain: Found | None = None
    attlas: Found | None = None
    files: frozenset[str] = frozenset()
    problems: list[str] = field(default_factory=list)


def undisturbed(scenario: Scenario, folder: Path) -> Undisturbed:
    """Record without a fault below `folder`, and look at what that makes."""
    base, whole = folder / "base", folder / "whole"
    base.mkdir(parents=True)
    if scenario.before is not None:
        prepare = scenario.before
        _returned(in_child(lambda _: prepare(base / STORE) and None), f"what {scenario.name} builds on")
    shutil.copytree(base, whole)
    kept = frozenset(look(base).plain.runs) if scenario.before is not None else frozenset()

    def counted(note: Note) -> None:
        scenario.disturbed(whole / STORE, lambda: count(whole, lambda operation: note(str(operation))))

    ended = in_child(counted)
    _returned(ended, scenario.name)
    operations = [Operation(*text.split(" ", 1)) for text in ended.notes]
    seen = look(whole)
    if seen.plain is None or seen.attlas is None or seen.problems:
        raise AssertionError(f"{scenario.name}, undisturbed, is not sound: {seen.problems}")
    return Undisturbed(scenario, base, kept, seen.plain, seen.attlas, seen.files, tuple(operations))


def prepare() -> None:
    """Make this process one that can be forked for faults."""

    def example() -> None:
        with _copy_of(None) as folder:
            for scenario in SCENARIOS.values():
                scenario.disturbed(folder / STORE, lambda: None)
                read_with_attlas(folder / STORE)
                read_plain(folder / STORE)
                validate_store(folder / STORE, deep=True)
                shutil.rmtree(folder)

    pipelines.prepare_forks(example)


def _returned(ended: Ended, what: str) -> Any:
    if not ended.returned:
        raise AssertionError(f"{what}, undisturbed, {ended}\n{ended.trace}")
    return ended.value


def look(folder: Path, *, deep: bool = True) -> Seen:
    """Read everything below `folder` in a process of its own; what a reader raises is raised here."""

    def read(_: Note) -> Seen:
        path = folder / STORE
        try:
            attlas = read_with_attlas(path)
        except StoreNotFoundError:
            return Seen(files=frozenset(files_below(folder)))
        problems = validate_store(path, deep=True) if deep else []
        return Seen(read_plain(path), attlas, frozenset(files_below(folder)), problems)

    ended = in_child(read)
    if not ended.returned:
        raise UnreadableError(f"{ended}\n{ended.trace}")
    seen: Seen = ended.value
    return seen


class UnreadableError(Exception):
    """A reader failed at a store."""


def disturb(reference: Undisturbed, fault: Fault) -> Outcome:
    """Record with `fault`, look, resume, look again; the outcome lists everything that is not as promised."""
    began = time.perf_counter()
    outcome = Outcome(reference.scenario.name, fault.mode, fault.number)
    with _copy_of(reference.base) as folder:
        # Whoever sees an error may call again at once, in the process in which it was raised.
        at_once = not fault.deadly and fault.mode not in ("full", "gone") and fault.number % 2 == 1
        ended = in_child(lambda note: _call(reference.scenario, folder, fault, note, again=at_once))
        outcome.operation = ended.notes[0] if ended.notes else ""
        finished = _judge_end(outcome, ended, dead=fault.deadly and not reference.scenario.survives)
        if not at_once:
            _judge_after_fault(outcome, reference, folder, finished=finished)
            again = in_child(lambda _: reference.scenario.call(folder / STORE) and None)
            if not again.returned:
                outcome.add("not resumed", f"{again}\n{again.trace}")
        _judge_end_state(outcome, reference, folder)
    outcome.seconds = time.perf_counter() - began
    return outcome


@contextmanager
def _copy_of(base: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="attlas-fault-", dir=scratch()) as folder:
        copy = Path(folder) / "store"
        if base is not None:
            shutil.copytree(base, copy)
        yield copy


@dataclass
class Called:
    """How a call ended whose process lives: the classes and words of its error, and what it left in the pipeline."""

    bases: tuple[str, ...] = ()
    error: str = ""
    trace: str = ""
    hooks: int = 0


def _call(scenario: Scenario, folder: Path, fault: Fault, note: Note, *, again: bool) -> Called:
    import traceback

    called = Called()
    try:
        scenario.disturbed(folder / STORE, lambda: arm(folder, fault, lambda operation: note(str(operation))))
    except Exception as err:  # noqa: BLE001 - which it may be is the question
        called.bases = tuple(base.__name__ for base in type(err).__mro__)
        called.error, called.trace = str(err), "".join(traceback.format_exception(err))
    called.hooks = _hooks(scenario.pipe())
    if again and called.bases:
        scenario.call(folder / STORE)
    return called


def _hooks(pipe: Any) -> int:
    """Hooks on any module of the pipeline."""
    import torch

    modules = (part for part in pipe.components.values() if isinstance(part, torch.nn.Module))
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for part in modules for m in part.modules())


def _judge_end(outcome: Outcome, ended: Ended, *, dead: bool) -> bool:
    """Judge how the process ended that made the call; return whether it said success."""
    outcome.reached = bool(ended.notes)
    if dead and outcome.reached:
        if not ended.signal:
            outcome.add("not killed", str(ended))
        return False
    if ended.hung:
        outcome.add("hang", str(ended))
    elif ended.signal:
        outcome.add("foreign exception", f"the process died: {ended}")
    elif ended.error is not None:
        outcome.add("not resumed", f"the call that followed an error: {ended}\n{ended.trace}")
    else:
        called: Called = ended.value
        if called.hooks:
            outcome.add("left over", f"{called.hooks} hooks in the pipeline after {called.error or 'success'}")
        if called.bases and "AttlasError" not in called.bases:
            outcome.add("foreign exception", f"{called.bases[0]}: {called.error}\n{called.trace}")
        outcome.raised = called.bases[0] if called.bases else ""
        return not called.bases
    return False


def _judge_after_fault(outcome: Outcome, reference: Undisturbed, folder: Path, *, finished: bool) -> None:
    """Complete runs are there and right, for attlas and for plain xarray; all of them where success was said."""
    try:
        seen = look(folder, deep=False)
    except UnreadableError as err:
        outcome.add("loss", f"after the fault a reader fails: {err}")
        return
    readers = {"attlas": (seen.attlas, reference.attlas), "plain xarray": (seen.plain, reference.plain)}
    for name, (found, expected) in readers.items():
        if found is None:
            if reference.kept or finished:
                outcome.add("loss", f"after the fault {name} finds no store")
            continue
        outcome.runs += len(found.runs)
        lost = reference.kept - found.runs.keys()
        if lost:
            outcome.add("loss", f"{name}: runs {sorted(lost)} were complete before the fault")
        if finished and expected.runs.keys() != found.runs.keys():
            outcome.add(
                "loss", f"{name}: success was said, and {sorted(expected.runs.keys() - found.runs.keys())} lack"
            )
        lines = differences(found, expected, whole=False)
        if lines:
            outcome.add("wrong number", f"{name}, after the fault, {len(lines)} arrays: {'; '.join(lines[:5])}")


def _judge_end_state(outcome: Outcome, reference: Undisturbed, folder: Path) -> None:
    """The store equals one that was never disturbed, and nothing is left over."""
    try:
        seen = look(folder)
    except UnreadableError as err:
        outcome.add("loss", f"after resuming a reader fails: {err}")
        return
    for name, found, expected in (
        ("attlas", seen.attlas, reference.attlas),
        ("plain xarray", seen.plain, reference.plain),
    ):
        if found is None:
            outcome.add("loss", f"after resuming {name} finds no store")
            continue
        outcome.runs += len(found.runs)
        lines = differences(found, expected)
        if lines:
            outcome.add("differs", f"{name}, after resuming, {len(lines)} arrays: {'; '.join(lines[:5])}")
    for kind, files in (("left over", seen.files - reference.files), ("differs", reference.files - seen.files)):
        if files:
            what = "that the undisturbed store has are missing" if kind == "differs" else "are too many"
            outcome.add(kind, f"{len(files)} files {what}: {', '.join(sorted(files)[:5])}")
    for problem in seen.problems:
        outcome.add("not valid", f"after resuming: {problem}")

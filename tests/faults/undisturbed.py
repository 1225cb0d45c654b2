"""What a recording makes and does where nothing goes wrong: what every disturbed one is held against."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from faults import pipelines
from faults.children import Ended, Note, in_child
from faults.evidence import Found, read_plain, read_with_attlas
from faults.interrupt import Operation, count
from faults.scenarios import SCENARIOS, STORE, Scenario
from faults.scratch import scratch

from attlas.schemas import validate_store

__all__ = ["Undisturbed", "copy_of", "digests", "prepare", "undisturbed"]


@dataclass(frozen=True)
class Undisturbed:
    """What a recording makes where nothing goes wrong.

    Attributes
    ----------
    base
        Folder with what was there before.
    kept
        Labels of the runs that were complete before.
    plain, attlas
        What the readers find at the end.
    files
        Every file at the end, and a digest of it; see `digests`.
    operations
        Of the recording, in order.
    """

    scenario: Scenario
    base: Path
    kept: frozenset[str]
    plain: Found
    attlas: Found
    files: dict[str, str]
    operations: tuple[Operation, ...]


def prepare() -> None:
    """Make this process one that can be forked for faults."""

    def example() -> None:
        with copy_of(None) as folder:
            for scenario in SCENARIOS.values():
                # Whoever asks for the scenario is told what is wrong with it.
                with suppress(Exception):
                    scenario.disturbed(folder / STORE, lambda: None)
                    _read(folder)
                shutil.rmtree(folder, ignore_errors=True)

    pipelines.prepare_forks(example)


def undisturbed(scenario: Scenario, folder: Path) -> Undisturbed:
    """Record without a fault below `folder`, and read what that makes."""
    base, whole = folder / "base", folder / "whole"
    base.mkdir(parents=True)
    kept: frozenset[str] = frozenset()
    if scenario.before is not None:
        before = scenario.before
        _sound(in_child(lambda _: before(base / STORE) and None), f"what {scenario.name} builds on")
        kept = frozenset(_sound(in_child(lambda _: _read(base)), scenario.name).value[0].runs)
    shutil.copytree(base, whole)

    def counted(note: Note) -> None:
        scenario.disturbed(whole / STORE, lambda: count(whole, lambda operation: note(str(operation))))

    ended = _sound(in_child(counted), scenario.name)
    operations = tuple(Operation(*text.split(" ", 1)) for text in ended.notes)
    plain, attlas, problems = _sound(in_child(lambda _: _read(whole)), scenario.name).value
    if problems:
        raise AssertionError(f"{scenario.name}, undisturbed, is not valid: {problems}")
    return Undisturbed(scenario, base, kept, plain, attlas, digests(whole), operations)


def _read(folder: Path) -> tuple[Found, Found, list[str]]:
    path = folder / STORE
    return read_plain(path), read_with_attlas(path), validate_store(path, deep=True)


def _sound(ended: Ended, what: str) -> Ended:
    if not ended.returned:
        raise AssertionError(f"{what}, undisturbed, {ended}\n{ended.trace}")
    return ended


@contextmanager
def copy_of(base: Path | None) -> Iterator[Path]:
    """Folder with the files of `base`, or an empty one, for one use."""
    with tempfile.TemporaryDirectory(prefix="attlas-fault-", dir=scratch()) as folder:
        copy = Path(folder) / "store"
        if base is not None:
            shutil.copytree(base, copy)
        yield copy


MOMENTS = ("created", "finished")
"""Attributes of a store that say when something was done."""


def digests(folder: Path) -> dict[str, str]:
    """Digest of every file below `folder`, and ``folder`` for one that is empty.

    That of a store's root document is of what it says, less moments and the checksum, which covers them.
    """
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if not path.is_dir():
            content = path.read_bytes()
            found[name] = _timeless(content) if name == f"{STORE}/zarr.json" else hashlib.sha256(content).hexdigest()
        elif not any(path.iterdir()):
            found[name] = "folder"
    return found


def _timeless(content: bytes) -> str:
    told = json.loads(content)
    for name in MOMENTS:
        told["attributes"].pop(name, None)
    told["attributes"]["attlas"].pop("checksum", None)
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

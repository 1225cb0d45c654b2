"""Readers that open a store again and again while several processes write to it."""

import os
import random
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from faults import pipelines
from faults.children import Ended, Note, in_child, start
from faults.evidence import Found, read_plain, read_with_attlas
from faults.outcome import Outcome
from faults.scenarios import STORE, TEXT, requests
from faults.scratch import scratch

from attlas.recorder import Capture, record
from attlas.schemas import open_store, validate_store

__all__ = ["afterwards", "read_beside_writers", "share_a_list"]

WRITERS = 4
SEEDS = 4
"""Different pictures that are drawn."""

OF_THE_CALL = ("run", "request")
"""Columns in which runs of the same seed differ."""


def read_beside_writers(openings: int, seed: int = 0) -> Outcome:
    """Four processes record run after run; meanwhile a store is opened by attlas and by plain xarray."""
    began = time.perf_counter()
    outcome = Outcome("readers beside writers", "openings", seed, f"{openings} openings, {WRITERS} writers")
    with tempfile.TemporaryDirectory(prefix="attlas-beside-", dir=scratch()) as folder:
        path, stop = Path(folder) / "store" / STORE, Path(folder) / "stop"
        known = in_child(lambda _: _known(Path(folder) / "known.zarr"))
        if not known.returned:
            raise AssertionError(f"undisturbed, {known}\n{known.trace}")
        in_child(lambda _: _record(path, "first", 0))
        writers = [start(lambda _, name=name: _write(path, name, stop)) for name in "abcd"[:WRITERS]]
        reader = in_child(lambda _: _read(path, known.value, openings, seed), limit=1200)
        stop.touch()
        ended = [writer.wait() for writer in writers]
        _judge(outcome, reader, ended)
        wanted = {"first", *(label for one in ended if one.returned for label in one.value)}
        outcome.problems += afterwards(path, wanted)
    outcome.seconds = time.perf_counter() - began
    return outcome


def share_a_list(count: int, seed: int = 0) -> Outcome:
    """Four processes are given one list of `count` requests: each is drawn once, and all say success."""
    began = time.perf_counter()
    outcome = Outcome("a shared list", "calls", seed, f"{count} requests, {WRITERS} processes")
    with tempfile.TemporaryDirectory(prefix="attlas-shared-", dir=scratch()) as folder:
        path = Path(folder) / "store" / STORE
        writers = [start(lambda _: _draw(path, count)) for _ in range(WRITERS)]
        ended = [writer.wait(300) for writer in writers]
        for one in ended:
            if not one.returned:
                outcome.add("not resumed" if one.ours else "foreign exception", f"a process {one}\n{one.trace}")
        drawn = sum(one.value for one in ended if one.returned)
        if drawn != count:
            outcome.add("drawn twice", f"{drawn} pictures for {count} requests")
        outcome.problems += afterwards(path, {f"{place:04d}" for place in range(count)})
    outcome.seconds = time.perf_counter() - began
    return outcome


def _record(path: Path, label: str, seed: int) -> None:
    record(pipelines.small(), path, requests(seed, id=label), Capture(**TEXT), progress=False)


def _known(path: Path) -> dict[int, dict[str, str]]:
    """What each seed's run holds, by array, as both readers find it."""
    for seed in range(SEEDS):
        _record(path, str(seed), seed)
    held = read_with_attlas(path).runs, read_plain(path).runs
    return {seed: {**held[0][str(seed)], **{f"plain {k}": v for k, v in held[1][str(seed)].items()}}
            for seed in range(SEEDS)}  # fmt: skip


def _write(path: Path, name: str, stop: Path) -> list[str]:
    """Record one run after the other, each with a call of its own, until the file `stop` is there."""
    made: list[str] = []
    while not stop.exists():
        label = f"{name}{len(made)}"
        _record(path, label, len(made) % SEEDS)
        made.append(label)
    return made


def _draw(path: Path, count: int) -> int:
    """Record the list; return how many pictures were drawn here."""
    drawn = []
    asked = requests(*(place % SEEDS for place in range(count)))
    record(pipelines.small(), path, asked, Capture(**TEXT), progress=False, annotate=lambda *_: drawn.append(1) or {})
    return len(drawn)


def _read(path: Path, known: dict[int, dict[str, str]], openings: int, seed: int) -> tuple[int, list[tuple[str, str]]]:
    rng, problems, runs = random.Random(seed), [], 0
    readers: tuple[tuple[str, Callable[..., Found], str], ...] = (
        ("attlas", read_with_attlas, ""),
        ("plain xarray", read_plain, "plain "),
    )
    before = 0
    for opening in range(openings):
        for name, read, prefix in readers:
            try:
                found = read(path, shared=False, choose=lambda labels: rng.sample(labels, min(2, len(labels))))
            except Exception as err:  # noqa: BLE001 - there is to be none at all
                problems.append(("loss", f"opening {opening} by {name}: {_told(err)}"))
                continue
            for label, arrays in found.runs.items():
                runs += 1
                number = 0 if label == "first" else int(label[1:]) % SEEDS
                right = {k.removeprefix(prefix): v for k, v in known[number].items() if k.startswith(prefix)}
                wrong = [k for k, v in arrays.items() if k not in OF_THE_CALL and right[k] != v]
                if wrong:
                    problems.append(("wrong number", f"opening {opening} by {name}, run {label!r}: {wrong}"))
        complete = int(open_store(path).complete.sum())
        if complete < before:
            problems.append(("loss", f"opening {opening}: {complete} runs where there were {before}"))
        before = complete
    return runs, problems


def _judge(outcome: Outcome, reader: Ended, writers: list[Ended]) -> None:
    if reader.returned:
        outcome.runs, problems = reader.value
        for kind, text in problems:
            outcome.add(kind, text)
    else:
        outcome.add("hang" if reader.hung else "foreign exception", f"the reader {reader}\n{reader.trace}")
    for one in writers:
        if not one.returned:
            outcome.add("not resumed" if one.ours else "foreign exception", f"a writer {one}\n{one.trace}")


def afterwards(path: Path, wanted: set[str]) -> list[tuple[str, str]]:
    """Problems of the store when nobody writes any more."""

    def look(_: Note) -> list[tuple[str, str]]:
        store = open_store(path)
        held = {label for label, done in zip(store.run_ids, store.complete, strict=True) if done}
        found = [("not valid", problem) for problem in validate_store(path, deep=True)]
        if held != wanted:
            found.append(("loss", f"complete are {sorted(held)}; {sorted(wanted)} are wanted"))
        if len(store.run_ids) != len(wanted):
            found.append(("left over", f"{len(store.run_ids)} rows for {len(wanted)} runs"))
        beside = [name for name in os.listdir(path.parent) if name != path.name]
        if beside:
            found.append(("left over", ", ".join(beside)))
        return found

    ended = in_child(look)
    return ended.value if ended.returned else [("loss", f"afterwards, {ended}\n{ended.trace}")]


def _told(err: BaseException) -> str:
    return "".join(traceback.format_exception(err))[-2500:]

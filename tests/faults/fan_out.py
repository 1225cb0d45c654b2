"""Many requests over Dask workers, without any fault: what nothing disturbs must not fail either."""

import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from faults import pipelines
from faults.beside import afterwards
from faults.children import in_child
from faults.cluster import forked_cluster
from faults.outcome import Outcome
from faults.scenarios import STORE, TEXT, requests
from faults.scratch import scratch

from attlas.recorder import Capture, record

__all__ = ["record_on_workers"]

WORKERS = 3


def record_on_workers(count: int, seed: int = 0) -> Outcome:
    """Three workers draw `count` requests in two calls, one after the other, of which the second knows the first's."""
    began = time.perf_counter()
    outcome = Outcome("three Dask workers", "calls", seed, f"{count} requests")
    with tempfile.TemporaryDirectory(prefix="attlas-workers-", dir=scratch()) as folder:
        path = Path(folder) / "store" / STORE
        drawn = Path(folder) / "drawn"
        drawn.mkdir()
        ended = in_child(lambda _: _record(path, drawn, count), limit=600)
        if not ended.returned:
            outcome.add("not resumed" if ended.ours else "foreign exception", f"{ended}\n{ended.trace}")
        times = Counter(file.suffix for file in drawn.iterdir())
        if len(times) != count or set(times.values()) != {1}:
            outcome.add("drawn twice", f"{len(times)} of {count} requests, {sum(times.values())} times")
        outcome.problems += afterwards(path, {f"{place:04d}" for place in range(count)})
        outcome.runs = count
    outcome.seconds = time.perf_counter() - began
    return outcome


def _record(path: Path, drawn: Path, count: int) -> None:
    asked = requests(*range(count))
    with forked_cluster(*[_nothing] * WORKERS) as client:
        for part in (asked[: count // 2], asked):
            record(
                pipelines.small,
                path,
                part,
                Capture(**TEXT),
                client=client,
                progress=False,
                annotate=partial(note_picture, drawn),
            )


def note_picture(folder: Path, request: dict[str, Any], _: Any) -> dict[str, Any]:
    """Leave a file for a picture; its suffix is the seed."""
    tempfile.mkstemp(dir=folder, suffix=f".{request['seed']}")
    return {}


def _nothing() -> None:
    """Leave a worker as it is."""

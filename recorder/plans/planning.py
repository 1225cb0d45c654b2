"""`plan`: what a recording will write and how long it will take, without writing it."""

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from zarr.storage import MemoryStore

from attlas.recorder.capture import Capture
from attlas.recorder.describe import describe
from attlas.recorder.destination import open_matching
from attlas.recorder.job import Annotate
from attlas.recorder.ledger import check_ids, check_role_holders, missing_runs
from attlas.recorder.models.inventory import Subject, select
from attlas.recorder.plans.arrays import fill_table, planned_arrays
from attlas.recorder.plans.counting import counting_store
from attlas.recorder.plans.planned import Plan, PlannedTime
from attlas.recorder.plans.unmeasured import empty_store
from attlas.recorder.progress import call_bar
from attlas.recorder.recording import Recorder
from attlas.recorder.requests import Request, prepare
from attlas.schemas import Store, create_store
from attlas.schemas.errors import InvalidValueError
from attlas.schemas.root import ROOT

__all__ = ["plan"]


def plan(
    pipe: Any,
    requests: Iterable[Mapping[str, Any]],
    capture: Capture | None = None,
    path: str | Path | None = None,
    *,
    measure: bool = True,
    progress: bool = True,
    annotate: Annotate | None = None,
) -> Plan:
    """Say what `record` would write for `requests`, and how long it would take; nothing is written to disk.

    The first run is made under the recorder, into a store that counts bytes after compression and drops them: so sizes
    and time are measured, and those of the other runs are taken to be the same.

    Parameters
    ----------
    pipe, requests, capture, annotate
        As for `record`.
    path
        Where the recording is to go: runs that are complete there are not counted. Nothing need be there.
    measure
        Whether to draw the first picture. If False, shapes and raw bytes come from an empty copy of the denoiser;
        compressed size and time are not known then, and guidance is taken to be on where its scale says so.
    progress
        Whether a bar on stderr shows the denoiser calls of the measured run.

    Returns
    -------
    `Plan`: arrays with dims, shapes, dtypes, raw and stored bytes; files; runs, calls, branches; seconds. Its repr is a
    table.

    Raises
    ------
    CaptureError
        If the pipeline cannot be recorded so, or, without measuring, if its shapes show only in a run.
    StoreMismatchError
        If the store at `path` is of another model, sampler, capture or geometry.

    Examples
    --------
    >>> from attlas.recorder import Capture, load_pipeline, plan
    >>> requests = [{"prompt": "a red disc", "seed": seed, "num_inference_steps": 2} for seed in range(3)]
    >>> planned = plan(load_pipeline("demo:shapes"), requests, Capture(kinds="text"), progress=False)
    >>> planned.runs, planned.branches, planned.calls
    (3, ('uncond', 'cond'), 2)
    >>> {array.name: array.shape for array in planned.arrays}["text/16x16/log_attention"]
    (3, 2, 2, 3, 8, 256, 12)
    """
    capture = capture or Capture()
    subject = select(pipe, capture)
    manifest = describe(pipe, capture, subject.kinds)
    held = open_matching(path, manifest)
    prepared = [prepare(subject, request, f"{index:04d}") for index, request in enumerate(requests)]
    if not prepared:
        raise InvalidValueError("there are no requests; give at least one")
    check_ids(prepared)
    check_role_holders(held, prepared)
    todo = [(request, list(request.ids)) for request in prepared] if held is None else missing_runs(held, prepared)
    runs = sum(len(wanted) for _, wanted in todo)
    complete = sum(request.pictures for request in prepared) - runs
    said = ("" if path is None else str(path), runs, complete)
    if not runs and held is not None:
        return Plan(type(pipe).__name__, *said, held.branches, held.calls, held.calls, (), 0, 0, None)
    before = None if held is None else sum(bool(label) for label in held.run_ids)
    if not measure:
        store, steps = empty_store(subject, manifest, todo[0][0])
        arrays = planned_arrays(store, None, runs, 0, before)
        described = [] if held is not None else _described(store.storage.keys())
        return Plan(type(pipe).__name__, *said, store.branches, steps, store.calls, arrays, None, len(described), None)
    backend, files = counting_store()
    target = backend if held is None else _like(held, backend)
    clock = _Stopwatch()
    bar = call_bar(pipe, 1, show=progress, what="measured run")
    with Recorder(pipe, target, capture, annotate=annotate) as recorder, bar as ticked:
        with _same_noise(todo[0][0]):
            clock.run(recorder, subject, todo, runs, ticked)
        store = recorder.store
        fill_table(store, todo)
        arrays = planned_arrays(store, files.sizes, runs, len(todo[0][1]), before)
        described = [] if held is not None else _described(files.sizes)
        metadata = sum(files.sizes[name] for name in described)
    return Plan(
        type(pipe).__name__,
        *said,
        store.branches,
        clock.calls,
        store.calls,
        arrays,
        metadata,
        len(described),
        PlannedTime(clock.seconds, clock.warm_up, len(todo[0][1])),
    )


def _described(names: Iterable[str]) -> list[str]:
    """Files that describe the arrays."""
    return [name for name in names if name.rsplit("/", 1)[-1] == ROOT]


class _Stopwatch:
    """Takes the time of a recorded run, and of each of its denoiser calls."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0
        self._begun: list[float] = []
        self._ended: list[float] = []

    def run(
        self, recorder: Recorder, subject: Subject, todo: Sequence[tuple[Request, list[str]]], runs: int, ticked: Any
    ) -> None:
        """Record the first request, and wait until it is stored."""

        def tick(calls: int) -> None:
            self.calls = calls
            self._ended.append(time.perf_counter())
            ticked(calls)

        def begin(_module: nn.Module, _args: Any) -> None:
            # Passes of one call count as one.
            if len(self._begun) == len(self._ended):
                self._begun.append(time.perf_counter())

        with ExitStack() as hooks:
            for denoiser in subject.denoisers:
                hooks.callback(denoiser.register_forward_pre_hook(begin).remove)
            start = time.perf_counter()
            recorder.run(*todo[0], capacity=runs, ticked=tick)
            self.seconds = time.perf_counter() - start

    @property
    def warm_up(self) -> float:
        """Seconds that the first call took longer than the others: what is made ready once, the store among it."""
        first, *others = (end - begin for begin, end in zip(self._begun, self._ended, strict=True))
        return max(0.0, first - statistics.median(others)) if others else 0.0


@contextmanager
def _same_noise(request: Request) -> Iterator[None]:
    """Leave the random numbers as they are, so that a recording afterwards draws what it would have drawn."""
    given = request.arguments.get("generator")
    generators = [one for one in (given if isinstance(given, list) else [given]) if one is not None]
    states = [generator.get_state() for generator in generators]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _like(held: Store, backend: MemoryStore) -> Store:
    """Lay out a store that takes the same runs as `held`, and whose errors name it."""
    made = create_store(
        backend,
        held.manifest,
        held.leaves.values(),
        held.branches,
        held.calls,
        held.image_shape,
        held.reference_shape,
        t_labels=held.t_labels,
        frames=held.frames,
    )
    return Store(made.snapshot, held.path)

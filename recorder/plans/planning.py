"""`plan`: what a recording will write and how long it will take, without writing it."""

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch import nn
from zarr.storage import MemoryStore

from attlas.recorder.capture import Capture
from attlas.recorder.describe import describe
from attlas.recorder.destination import open_matching
from attlas.recorder.job import Annotate
from attlas.recorder.ledger import check_ids, check_role_holders, missing_runs
from attlas.recorder.models.inventory import Subject, select
from attlas.recorder.plans.counting import CountedFiles, counting_store
from attlas.recorder.plans.planned import Plan, PlannedArray, PlannedTime
from attlas.recorder.plans.unmeasured import empty_store
from attlas.recorder.progress import call_bar
from attlas.recorder.recording import Recorder
from attlas.recorder.requests import Request, prepare
from attlas.schemas import Store, create_store
from attlas.schemas.errors import InvalidValueError
from attlas.schemas.variables import LEAF_VARIABLES

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
    if not measure:
        store, steps = empty_store(subject, manifest, todo[0][0])
        arrays = _arrays(store, None, runs, 0, added=held is not None)
        return Plan(type(pipe).__name__, *said, store.branches, steps, store.calls, arrays, None, 0, None)
    backend, files = counting_store()
    target = backend if held is None else _like(held, backend)
    clock = _Stopwatch()
    bar = call_bar(pipe, 1, show=progress, what="measured run")
    with Recorder(pipe, target, capture, annotate=annotate) as recorder, bar as ticked:
        with _same_noise(todo[0][0]):
            clock.run(recorder, subject, todo, runs, ticked)
        _fill_table(recorder.store, todo)
    measured = len(todo[0][1])
    store = recorder.store
    arrays = _arrays(store, files, runs, measured, added=held is not None)
    described = [size for name, size in files.sizes.items() if name.rsplit("/", 1)[-1] == "zarr.json"]
    if held is not None:
        described = []
    return Plan(
        type(pipe).__name__,
        *said,
        store.branches,
        clock.calls,
        store.calls,
        arrays,
        sum(described),
        len(described),
        PlannedTime(clock.seconds, clock.warm_up, measured),
    )


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
        t_labels=tuple(int(call) for call in held.group["t"][...]),
        frames=held.frames,
    )
    return Store(made.group, held.path)


def _fill_table(store: Store, todo: Sequence[tuple[Request, list[str]]]) -> None:
    """Write the rows of all runs into the table, which is compressed as a whole."""
    rows = [(request, request.ids.index(run)) for request, wanted in todo for run in wanted]
    columns: dict[str, Any] = {
        "run": np.asarray([request.ids[place] for request, place in rows], dtype=object),
        "prompt": np.asarray([request.prompts[place] or "" for request, place in rows], dtype=object),
        "request": np.asarray([request.text for request, _ in rows], dtype=object),
        "seed": np.asarray([request.seeds[place] for request, place in rows]),
        "complete": np.ones(len(rows), bool),
    }
    for name in ("step", "timestep", "sigma"):
        columns[name] = np.repeat(store.group[name][:1], len(rows), axis=0)
    for name, values in columns.items():
        store.group[name][: len(rows)] = values


def _arrays(
    store: Store, files: CountedFiles | None, runs: int, measured: int, *, added: bool
) -> tuple[PlannedArray, ...]:
    """Every array of a store for `runs` runs, of which it has `measured`; only those with a row a run if `added`."""
    made = []
    for name, array in sorted(store.group.members(max_depth=None), key=lambda member: _place(store, member[0])):
        if not isinstance(array, zarr.Array):
            continue
        dims = tuple(str(dim) for dim in array.metadata.dimension_names or ())
        by_run = dims[:1] == ("run",)
        if added and not by_run:
            continue
        shape = (runs, *array.shape[1:]) if by_run else array.shape
        own = [] if files is None else [size for file, size in files.sizes.items() if file.startswith(f"{name}/c")]
        # A file of its own for each run, or one for the table of all.
        times = runs / measured if measured and by_run and (array.shards or array.chunks)[0] == 1 else 1
        stored = None if files is None else round(sum(own) * times)
        count = None if files is None else round(len(own) * times)
        dtype = "str" if array.dtype.kind in "TO" else str(array.dtype)
        made.append(PlannedArray.of(name, dims, shape, dtype, stored, count))
    return tuple(made)


def _place(store: Store, name: str) -> tuple[int, int, str]:
    """Where an array stands in the table: what belongs to no leaf first, then leaf by leaf as the registry has them."""
    leaf, _, variable = name.rpartition("/")
    leaves, variables = list(store.leaves), list(LEAF_VARIABLES)
    if leaf not in leaves:
        return -1, 0, name
    return leaves.index(leaf), variables.index(variable), name

"""What a worker of a cluster does for a recording: it keeps one pipeline and one recorder for as long as it lasts."""

import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attlas.recorder.agenda import Item
from attlas.recorder.capture import Capture
from attlas.recorder.job import Annotate
from attlas.recorder.pipelines import load_pipeline
from attlas.recorder.recording import Recorder
from attlas.recorder.requests import Draft
from attlas.schemas.errors import AttlasError, ObservationError, RunTakenError

__all__ = ["Errand", "Source", "check", "draw", "end"]

Source = str | Path | Callable[[], Any]

IDLE = 60.0
"""Seconds after which a bench whose client went without a word is given up, where another recording needs the room."""


@dataclass(frozen=True)
class Errand:
    """A recording that workers share; `token` tells it from all others. See `record` for the rest."""

    token: str
    source: Source
    path: str
    capture: Capture
    annotate: Annotate | None
    durable: bool


class _Bench:
    """A pipeline of a worker, and the recorder that has it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.token = ""
        self.used = time.monotonic()
        self._pipe: Any = None
        self._recorder: Recorder | None = None

    def recorder(self, errand: Errand) -> Recorder:
        """Give the errand's recorder; that of another errand with the same pipeline ends. The lock is held."""
        if self.token != errand.token or self._recorder is None:
            self._leave()
            if self._pipe is None:
                source = errand.source
                # Libraries change settings of the whole process while they load a model.
                with _loading:
                    self._pipe = source() if callable(source) else load_pipeline(source)
                self._pipe.set_progress_bar_config(disable=True)
            made = Recorder(self._pipe, errand.path, errand.capture, annotate=errand.annotate, durable=errand.durable)
            self._recorder, self.token = made.__enter__(), errand.token
        return self._recorder

    def close(self) -> None:
        """Let go of everything. The lock is held."""
        self._leave()
        self._pipe = None
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()

    def _leave(self) -> None:
        recorder, self._recorder, self.token = self._recorder, None, ""
        if recorder is not None:
            # What it drew is stored; whoever asked for the runs looks whether all of them are there.
            with suppress(AttlasError):
                recorder.__exit__(None, None, None)


_benches: dict[tuple[str, str], _Bench] = {}
"""By the worker's address and what the pipeline is made of: in one process there may be several workers."""

_ended: deque[tuple[str, str]] = deque(maxlen=1000)
"""Workers and tokens of errands that are over: a task of one may still begin, or be loading its pipeline."""

_changing = threading.Lock()
_loading = threading.Lock()


def check(errand: Errand, items: Sequence[Item]) -> list[Draft]:
    """Check requests without drawing them."""
    with _session(errand) as recorder:
        return [recorder.prepare(item.given, item.name, read=False).draft for item in items]


def draw(errand: Errand, item: Item, capacity: int) -> bool:
    """Record one request, as far as no other recorder is at work on it; return whether one is."""
    with _session(errand) as recorder:
        request = recorder.prepare(item.given, item.name)
        try:
            refused = recorder.claim([request], capacity)
            for error in refused.values():
                if error.why == "another request":
                    raise error
            wanted = [run for run in request.ids if run not in refused]
            if wanted:
                recorder.run(request, wanted, capacity=capacity)
        except RunTakenError as taken:
            if taken.why == "another request":
                raise
            # In a new store another was quicker.
            return True
        return any(error.why == "recording" for error in refused.values())


def end(token: str, dask_worker: Any = None) -> None:
    """Let go of the errand's pipeline, now or when the request at hand is drawn."""
    address = str(dask_worker.address)
    with _changing:
        _ended.append((address, token))
        own = [(key, bench) for key, bench in _benches.items() if key[0] == address and bench.token == token]
    for key, bench in own:
        _close_if_free(key, bench)


@contextmanager
def _session(errand: Errand) -> Iterator[Recorder]:
    """Have the errand's recorder, alone: a pipeline draws one request at a time."""
    from distributed import get_worker

    source = errand.token if callable(errand.source) else str(errand.source)
    key = (str(get_worker().address), source)
    bench = _taken(key)
    place = (key[0], errand.token)
    try:
        if place in _ended:
            raise ObservationError("this recording is over")
        for other_key, other in list(_benches.items()):
            if other_key[0] == key[0] and other is not bench and time.monotonic() - other.used > IDLE:
                _close_if_free(other_key, other)
        yield bench.recorder(errand)
    finally:
        bench.used = time.monotonic()
        if place in _ended:
            _close(key, bench)
        bench.lock.release()


def _taken(key: tuple[str, str]) -> _Bench:
    """Return the bench of this name with its lock held; one that was given up meanwhile is none."""
    while True:
        with _changing:
            bench = _benches.setdefault(key, _Bench())
        bench.lock.acquire()
        if _benches.get(key) is bench:
            return bench
        bench.lock.release()


def _close_if_free(key: tuple[str, str], bench: _Bench) -> None:
    if bench.lock.acquire(blocking=False):
        try:
            _close(key, bench)
        finally:
            bench.lock.release()


def _close(key: tuple[str, str], bench: _Bench) -> None:
    with _changing:
        if _benches.get(key) is bench:
            del _benches[key]
    bench.close()

"""Many requests over the workers of a Dask cluster, into one store: each worker has a pipeline and runs of its own."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from attlas.recorder.capture import Capture
from attlas.recorder.job import Annotate
from attlas.recorder.ledger import check_ids
from attlas.recorder.pipelines import load_pipeline
from attlas.recorder.recording import Recorder
from attlas.schemas import Store, open_store
from attlas.schemas.errors import InvalidValueError

__all__ = ["record_on"]

Source = str | Path | Callable[[], Any]

_pipelines: dict[str, Any] = {}
"""Pipelines of this process by the task that made them: a worker loads its model once."""

_loading = threading.Lock()
_drawing: dict[str, threading.Lock] = {}


def record_on(
    client: Any,
    source: Any,
    path: str | Path | None,
    requests: Sequence[Mapping[str, Any]],
    capture: Capture,
    *,
    progress: bool,
    annotate: Annotate | None,
) -> Store:
    """Fan `requests` over the workers of `client`; see `record`."""
    if path is None:
        raise InvalidValueError("a store in memory cannot be shared between workers; give a path that all of them see")
    # A pipeline can be called, too; what makes one has no scheduler.
    if not isinstance(source, str | Path) and (not callable(source) or hasattr(source, "scheduler")):
        raise InvalidValueError(
            f"with client= the pipeline is made on each worker: give its name or folder, or a function that makes it; "
            f"got {type(source).__name__}"
        )
    given = [dict(request) for request in requests]
    where = str(Path(path).absolute())
    token = f"{source}-{id(client)}"
    todo = client.submit(_missing, token, source, where, given, capture, pure=False).result()
    futures = [
        client.submit(_record_one, token, source, where, given[place], f"{place:04d}", capture, annotate, pure=False)
        for place in todo
    ]
    try:
        for future in tqdm(futures, unit="request", disable=not progress or not futures, dynamic_ncols=True):
            future.result()
    finally:
        # After an error the rest is not begun; what is complete stays.
        client.cancel([future for future in futures if not future.done()])
    store = open_store(where)
    store.finish()
    return store


def _missing(token: str, source: Source, path: str, requests: list[dict[str, Any]], capture: Capture) -> list[int]:
    """Check every request before the first one runs; return the places of those that the store lacks."""
    with _lock(token), Recorder(_pipeline(token, source), path, capture) as recorder:
        prepared = [recorder.prepare(request, f"{place:04d}") for place, request in enumerate(requests)]
        if not prepared:
            raise InvalidValueError("there are no requests; give at least one")
        check_ids(prepared)
        missing = {id(request) for request, _ in recorder.unfinished(prepared)}
        return [place for place, request in enumerate(prepared) if id(request) in missing]


def _record_one(
    token: str,
    source: Source,
    path: str,
    request: dict[str, Any],
    name: str,
    capture: Capture,
    annotate: Annotate | None,
) -> None:
    """Record one request into the shared store. A pipeline draws one request at a time."""
    with _lock(token), Recorder(_pipeline(token, source), path, capture, annotate=annotate) as recorder:
        for prepared, wanted in recorder.unfinished([recorder.prepare(request, name)]):
            recorder.run(prepared, wanted)


def _lock(token: str) -> threading.Lock:
    with _loading:
        return _drawing.setdefault(token, threading.Lock())


def _pipeline(token: str, source: Source) -> Any:
    """Return this process's pipeline, made when it is first needed. Its lock is held."""
    if token not in _pipelines:
        pipe = source() if callable(source) else load_pipeline(source)
        pipe.set_progress_bar_config(disable=True)
        _pipelines[token] = pipe
    return _pipelines[token]

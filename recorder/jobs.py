"""`record`: many requests into one store, going on where an earlier attempt stopped."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attlas.recorder.agenda import Agenda, Item
from attlas.recorder.capture import Capture
from attlas.recorder.completeness import check_made
from attlas.recorder.fan_out import record_on
from attlas.recorder.job import Annotate
from attlas.recorder.progress import call_bar
from attlas.recorder.recording import Recorder
from attlas.recorder.requests import Draft
from attlas.recorder.share import Share
from attlas.schemas import Store
from attlas.schemas.errors import StoreExistsError
from attlas.schemas.storage import open_storage

__all__ = ["record"]


def record(
    pipe: Any,
    path: str | Path | None,
    requests: Iterable[Mapping[str, Any]],
    capture: Capture | None = None,
    *,
    resume: bool = True,
    progress: bool = True,
    annotate: Annotate | None = None,
    client: Any = None,
    durable: bool = True,
) -> Store:
    """Run every request through `pipe`, record it into the store at `path`, and return the finished store.

    Several processes, on one machine or many, may be given the same requests at once: each run is drawn by one of
    them, what another has made or is at work on is passed over, and runs of a process that died are taken over. Each
    returns when all runs are complete.

    Parameters
    ----------
    pipe
        A diffusers pipeline; it is left as it was found. With `client`, its name or folder, or a function of no
        arguments that makes it: every worker makes its own.
    path
        Folder or URL (``s3://``, ``gs://``, ``az://``) of the store. None keeps it in memory.
    requests
        Dictionaries of pipeline arguments, each perhaps with ``seed``, ``annotations`` and ``id`` (by default the
        place in the list, as ``0000``). A list is checked whole before the first one runs; an iterator, which may make
        requests as it goes, is checked request by request.
    capture
        What to keep; ``Capture()`` by default.
    resume
        Whether runs that the store holds complete are skipped; so the same call after a crash makes the rest. If
        False, nothing may be at `path`.
    progress
        Whether a bar on stderr shows denoiser calls done, rate and time left, in place of the pipeline's own.
    annotate
        See `Recorder`.
    client
        A `distributed.Client`: its workers draw the requests, one at a time each, into the one store, whose path all
        of them must see. Runs never share a shard, so that workers do not wait for one another.
    durable
        See `Recorder`.

    Returns
    -------
    The store, open, with one run for each picture. Before it returns, it has looked that every run that was asked for
    is complete, and that its files are there.

    Raises
    ------
    StoreExistsError
        If `resume` is False and something is at `path`, or if what is there is no store.
    StoreMismatchError
        If the store is of another model, sampler, capture or geometry, or holds a run of the same id from another
        request.
    ObservationError
        If a run cannot be recorded, or one is not complete at the end; complete runs stay.

    Examples
    --------
    >>> from attlas.recorder import Capture, load_pipeline, record
    >>> pipe = load_pipeline("demo:shapes")
    >>> requests = [{"prompt": "a red disc", "seed": seed, "num_inference_steps": 2} for seed in range(3)]
    >>> record(pipe, "shapes.zarr", requests, Capture(kinds="text"), progress=False).run_ids
    ['0000', '0001', '0002']
    """
    if not resume and path is not None:
        _check_new(path)
    if client is not None:
        return record_on(
            client, pipe, path, requests, capture or Capture(), progress=progress, annotate=annotate, durable=durable
        )
    with Recorder(pipe, path, capture, annotate=annotate, durable=durable) as recorder:

        def drafts(items: Iterable[Item]) -> Iterator[Draft]:
            return (recorder.prepare(item.given, item.name, read=False).draft for item in items)

        agenda = Agenda(requests, drafts, recorder.found)
        with call_bar(pipe, agenda.requests, show=progress) as bar:
            Share(recorder, agenda, bar).draw()
        unread = (recorder.prepare(item.given, item.name).draft for item in agenda.unread)
        check_made(recorder.store, agenda.asked.runs, unread)
    return recorder.store


def _check_new(path: str | Path) -> None:
    storage = open_storage(path)
    there = storage.folder.exists() if storage.folder is not None else next(storage.keys(), None) is not None
    if there:
        raise StoreExistsError(f"{path} exists; leave out resume=False to add to it, or choose another path")

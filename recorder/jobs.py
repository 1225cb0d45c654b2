"""`record`: many requests into one store, going on where an earlier attempt stopped."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attlas.recorder.capture import Capture
from attlas.recorder.fan_out import record_on
from attlas.recorder.job import Annotate
from attlas.recorder.ledger import check_ids
from attlas.recorder.progress import call_bar
from attlas.recorder.recording import Recorder
from attlas.schemas import Store
from attlas.schemas.errors import InvalidValueError, StoreExistsError

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
) -> Store:
    """Run every request through `pipe`, record it into the store at `path`, and return the finished store.

    Parameters
    ----------
    pipe
        A diffusers pipeline; it is left as it was found. With `client`, its name or folder, or a function of no
        arguments that makes it: every worker makes its own.
    path
        Folder of the store. None keeps it in memory.
    requests
        Dictionaries of pipeline arguments, each perhaps with ``seed``, ``annotations`` and ``id`` (by default the
        place in the list, as ``0000``). All are checked before the first one runs.
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

    Returns
    -------
    The store, open, with one run for each picture.

    Raises
    ------
    StoreExistsError
        If `resume` is False and something is at `path`, or if what is there is no store.
    StoreMismatchError
        If the store is of another model, sampler, capture or geometry, or holds a run of the same id from another
        request.
    ObservationError
        If a run cannot be recorded; complete runs stay.

    Examples
    --------
    >>> from attlas.recorder import Capture, load_pipeline, record
    >>> pipe = load_pipeline("demo:shapes")
    >>> requests = [{"prompt": "a red disc", "seed": seed, "num_inference_steps": 2} for seed in range(3)]
    >>> record(pipe, "shapes.zarr", requests, Capture(kinds="text"), progress=False).run_ids
    ['0000', '0001', '0002']
    """
    if not resume and path is not None and Path(path).exists():
        raise StoreExistsError(f"{path} exists; leave out resume=False to add to it, or choose another path")
    if client is not None:
        listed = list(requests)
        return record_on(client, pipe, path, listed, capture or Capture(), progress=progress, annotate=annotate)
    with Recorder(pipe, path, capture, annotate=annotate) as recorder:
        prepared = [recorder.prepare(request, f"{index:04d}") for index, request in enumerate(requests)]
        if not prepared:
            raise InvalidValueError("there are no requests; give at least one")
        check_ids(prepared)
        todo = recorder.unfinished(prepared)
        left = sum(len(wanted) for _, wanted in todo)
        with call_bar(pipe, len(todo), show=progress) as ticked:
            for request, wanted in todo:
                recorder.run(request, wanted, capacity=left, wait=False, ticked=ticked)
                left -= len(wanted)
            recorder.flush()
    return recorder.store

"""Many requests over the workers of a Dask cluster, into one store: each worker has a pipeline and runs of its own."""

import queue
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from attlas.recorder.agenda import Agenda, Item
from attlas.recorder.capture import Capture
from attlas.recorder.completeness import check_made
from attlas.recorder.destination import storing
from attlas.recorder.file_values import with_files_read
from attlas.recorder.job import Annotate
from attlas.recorder.requests import Draft
from attlas.recorder.worker import Errand, check, draw, end
from attlas.schemas import Store, open_store
from attlas.schemas.errors import InvalidValueError, ObservationError
from attlas.schemas.root import ROOT
from attlas.schemas.storage import open_storage
from attlas.schemas.storage.opening import scheme_of

__all__ = ["record_on"]

AHEAD = 2
"""Requests that are with the scheduler for each worker: one that it draws, one that it draws next."""

ALONE = 60.0
"""Seconds for which workers are waited for when there is none."""

LOOK = 2.0
"""Seconds between two looks at who is there."""

CHECKED = (200, 8 * 2**20)
"""Most requests, and bytes of them, that are checked by one task."""

AGAIN = (0.5, 15.0)
"""Seconds after which a request is asked for again that another recorder has, at first and at most."""


def record_on(
    client: Any,
    source: Any,
    path: str | Path | None,
    requests: Iterable[Mapping[str, Any]],
    capture: Capture,
    *,
    progress: bool,
    annotate: Annotate | None,
    durable: bool,
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
    where = str(Path(path).absolute()) if scheme_of(path) is None else str(path)
    found = open_store(where) if open_storage(where).size(ROOT) is not None else None
    workers = _Workers(client, Errand(uuid.uuid4().hex, source, where, capture, annotate, durable))
    try:
        agenda = Agenda(requests, workers.drafts, found)
        with tqdm(total=agenda.requests, unit="request", disable=not progress, dynamic_ncols=True) as bar:
            workers.draw(agenda, bar)
        store = open_store(where, durable=durable)
        unread = workers.drafts(map(workers.read, agenda.unread))
        check_made(store, agenda.asked.runs, unread)
    finally:
        workers.end()
    with storing(where, "the end"):
        store.finish()
    return store


class _Workers:
    """The workers of a cluster, with as many tasks as keep them busy."""

    def __init__(self, client: Any, errand: Errand) -> None:
        self._client = client
        self._errand = errand
        self._tasks: dict[Any, Item] = {}
        self._done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._count = 1
        self._looked = 0.0
        self._seen = time.monotonic()

    def drafts(self, items: Iterable[Item]) -> Iterator[Draft]:
        """Check requests on the workers; drafts come in order."""
        waiting: deque[Any] = deque()
        what = "the check of the requests"
        for part in _parts(items):
            # Before what is to be drawn.
            waiting.append(self._submit(check, part, priority=1))
            if len(waiting) >= AHEAD * self._workers():
                yield from self._result(waiting.popleft(), what)
        while waiting:
            yield from self._result(waiting.popleft(), what)

    def draw(self, agenda: Agenda, bar: Any) -> None:
        """Have every request drawn that is not complete."""
        taken: list[Item] = []
        for item in self._wanted(agenda):
            while len(self._tasks) >= AHEAD * self._workers():
                taken += self._finished(bar)
            self._begin(item, agenda)
        pause, longest = AGAIN
        while self._tasks or taken:
            while self._tasks:
                taken += self._finished(bar)
            if taken:
                bar.set_description(f"waiting for other recorders ({len(taken)} requests)")
                time.sleep(pause * random.uniform(0.5, 1))
                pause = min(1.5 * pause, longest)
                number = AHEAD * self._workers()
                part, taken = taken[:number], taken[number:]
                for item in part:
                    self._begin(item, agenda)

    def _wanted(self, agenda: Agenda) -> Iterator[Item]:
        """Give the requests that are to be drawn; those of an iterator are checked here."""
        items = iter(agenda)
        while part := [self.read(item) for item in islice(items, AHEAD * self._workers())]:
            if agenda.listed:
                yield from part
            else:
                yield from (item for item, draft in zip(part, self.drafts(part), strict=True) if agenda.admit(draft))

    def _begin(self, item: Item, agenda: Agenda) -> None:
        self._tasks[self._submit(draw, item, agenda.capacity)] = item

    def _finished(self, bar: Any) -> list[Item]:
        """Wait for a task, and return the requests of those that are done which other recorders have."""
        if not any(task.done() for task in self._tasks):
            self._wait()
        taken = []
        for task in [task for task in self._tasks if task.done()]:
            item = self._tasks.pop(task)
            if self._result(task, f"request {item.name!r}"):
                taken.append(item)
            else:
                bar.update()
        return taken

    @staticmethod
    def read(item: Item) -> Item:
        """Read what lies in files, which the workers need not see."""
        return replace(item, given=with_files_read(item.given))

    def end(self) -> None:
        """Have nothing more begun, and have the workers let go of their pipelines."""
        self._client.cancel(list(self._tasks))
        self._tasks.clear()
        # Of workers that are gone there is nothing to let go of.
        with suppress(OSError, TimeoutError):
            self._client.run(end, self._errand.token, on_error="ignore")

    def _submit(self, work: Callable[..., Any], *given: Any, priority: int = 0) -> Any:
        with self._translated():
            task = self._client.submit(work, self._errand, *given, pure=False, priority=priority)
            task.add_done_callback(lambda _: self._done.put(None))
        return task

    def _wait(self) -> None:
        """Wait until a task is done, whichever, or for a moment."""
        try:
            self._done.get(timeout=LOOK)
        except queue.Empty:
            # Raises where nobody is there to do it.
            self._workers()

    def _result(self, task: Any, what: str) -> Any:
        """Return what a task returns; errors of the cluster are told as what they mean for the recording."""
        while not task.done():
            self._wait()
        with self._translated(what):
            while True:
                try:
                    return task.result(timeout=LOOK)
                except TimeoutError:
                    if task.status == "error":
                        raise
                    # It is done once more, because the worker that had its result is gone.
                    self._workers()

    @contextmanager
    def _translated(self, what: str = "") -> Iterator[None]:
        from distributed import KilledWorker
        from distributed.comm import CommClosedError

        rest = f"complete runs in {self._errand.path} are intact: record again, it goes on where it stopped"
        try:
            yield
        except KilledWorker as err:
            raise ObservationError(
                f"{err.allowed_failures + 1} workers died one after the other over {what} (out of memory?); {rest}"
            ) from err
        except CancelledError as err:
            raise ObservationError(f"the cluster gave {what} up ({err}); {rest}") from err
        except CommClosedError as err:
            raise ObservationError(f"the scheduler of the cluster does not answer ({err}); {rest}") from err

    def _workers(self) -> int:
        """Return the number of workers; raise where there has been none for long."""
        now = time.monotonic()
        if now - self._looked >= LOOK:
            self._looked = now
            with self._translated():
                self._count = len(self._client.nthreads())
            if self._count:
                self._seen = now
            elif now - self._seen > ALONE:
                raise ObservationError(
                    f"the cluster has had no worker for {ALONE:.0f} s; complete runs in {self._errand.path} are "
                    "intact: start workers and record again, it goes on where it stopped"
                )
        return max(1, self._count)


def _parts(items: Iterable[Item]) -> Iterator[Sequence[Item]]:
    """Cut requests into parts that are not many, nor large."""
    from dask.sizeof import sizeof

    part: list[Item] = []
    size = 0
    for item in items:
        part.append(item)
        size += sizeof(dict(item.given))
        if len(part) >= CHECKED[0] or size >= CHECKED[1]:
            yield part
            part, size = [], 0
    if part:
        yield part

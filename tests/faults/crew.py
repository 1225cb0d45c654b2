"""Processes that do tasks, each prepared once and without threads, so that it can be forked."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context

from faults import work
from faults.interrupt import Operation
from faults.outcome import Outcome
from faults.samples import SAMPLES
from faults.scratch import own_scratch
from faults.work import Task

__all__ = ["Crew", "crew"]


class Crew:
    """Does tasks in other processes."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def operations(self, scenarios: Iterable[str], failed: list[Outcome]) -> dict[str, tuple[Operation, ...]]:
        """File operations of recordings by name; those that fail without any fault are added to `failed`."""
        asked = {name: self._pool.submit(work.operations, name) for name in scenarios}
        found = {}
        for name, future in asked.items():
            try:
                found[name] = future.result()
            except AssertionError as err:
                failed.append(Outcome(name, "undisturbed", 0, problems=[("not resumed", str(err))]))
        return found

    def files(self) -> dict[str, list[str]]:
        """Files of every sample store."""
        asked = {name: self._pool.submit(work.files, name) for name in SAMPLES}
        return {name: future.result() for name, future in asked.items()}

    def perform(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Do the tasks, and give what comes of them as it comes."""
        futures: list[Future[Outcome]] = [self._pool.submit(work.perform, task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()


@contextmanager
def crew(workers: int) -> Iterator[Crew]:
    """Start processes; all that they leave goes with them."""
    # Notices of libraries that they import are of no interest here.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "error")
    with own_scratch():
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=work.ready)
        try:
            yield Crew(pool)
        finally:
            # Whoever interrupts it does not wait for what is left to do.
            pool.shutdown(cancel_futures=True)

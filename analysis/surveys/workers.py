"""Worker processes for surveys on this machine, and how any worker is made ready."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from attlas.schemas.errors import InvalidValueError

__all__ = ["local_workers", "made_ready", "threads_of"]

MODULES = ("attlas.analysis.surveys.blocks", "attlas.analysis.aggregation.aggregate", "flox.core")
"""What blocks need; torch comes with them, and takes longer than all the rest."""

LEAN = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
}
"""Blocks take seconds, and there is no dashboard, which would be fed many times a second and take part of a core."""


@contextmanager
def local_workers(count: int) -> Iterator[Any]:
    """Start worker processes on this machine and give a client for `survey`.

    They have one thread each and have loaded attlas; there is no dashboard. Use it in a program under
    ``if __name__ == "__main__":``, as every worker imports that program.

    Parameters
    ----------
    count
        Worker processes, 1 or more; more than the cores of the machine gain nothing.

    Yields
    ------
    A `distributed.Client`; the processes end with the context.

    Raises
    ------
    InvalidValueError
        If `count` is less than 1.

    Examples
    --------
    ::

        with local_workers(4) as client:
            made = survey("tryon.zarr", "imacs_g", client=client)
    """
    if count < 1:
        raise InvalidValueError(f"{count} workers; at least 1 is needed")
    import dask
    from distributed import Client, LocalCluster

    with (
        dask.config.set(LEAN),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            # Its HTTP server is there without a dashboard too: on a free port, not on the one that all ask for.
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.gather(made_ready(client))
        yield client


def threads_of(client: Any) -> int:
    """Blocks that the workers of a client compute at the same time; 0 without a client."""
    return 0 if client is None else max(1, sum(client.nthreads().values()))


def made_ready(client: Any) -> list[Any]:
    """Have every worker load what blocks need, while the caller prepares them; returns at once.

    What fails there fails again in the first block, which tells it. Keep what is returned: else it is not done.
    """
    if client is None:
        return []
    return [
        client.submit(_ready, workers=[address], priority=1, key=f"attlas-ready-{address}")
        for address in client.nthreads()
    ]


def _ready() -> None:
    for name in MODULES:
        import_module(name)

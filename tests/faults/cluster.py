"""A Dask cluster of forked processes, up in a tenth of a second: a scheduler in this process, two workers beside it."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask

__all__ = ["forked_cluster"]


@contextmanager
def forked_cluster(*inside: Callable[[], None]) -> Iterator[Any]:
    """Client of a cluster with one worker for each of `inside`, which is called in its process before it begins.

    The first is waited for; others may come late. A worker that dies is not started again. This process must not have
    threads yet; it is the scheduler's, too.
    """
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.ERROR)
    told = [_fork_worker(place, prepare) for place, prepare in enumerate(inside)]
    # The scheduler otherwise waits for minutes for who does not answer.
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "5s", "distributed.scheduler.allowed-failures": 3}),
        LocalCluster(
            n_workers=0, processes=False, protocol="tcp", dashboard_address=None, silence_logs=logging.ERROR
        ) as cluster,
        Client(cluster) as client,
    ):
        for pipe in told:
            os.write(pipe, cluster.scheduler_address.encode())
            os.close(pipe)
        client.wait_for_workers(1, timeout=30)
        yield client


def _fork_worker(place: int, prepare: Callable[[], None]) -> int:
    """Fork a worker; it begins when the scheduler's address is written to the pipe that is returned."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(reader)
        return writer
    try:
        os.close(writer)
        address = os.read(reader, 1000).decode()
        prepare()
        asyncio.run(_serve(address, place))
    finally:
        os._exit(0)


async def _serve(address: str, place: int) -> None:
    from distributed import Worker

    async with Worker(address, nthreads=1, name=f"worker-{place}", dashboard=False) as worker:
        await worker.finished()

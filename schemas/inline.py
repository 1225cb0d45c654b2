"""Writing to a zarr array in the thread that asks for it.

zarr hands a write to an event loop of its own and to a pool of threads. A recording has a thread for that already; more
of them take cores from the model, and each keeps the memory that it once used.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

__all__ = ["write_inline"]


def write_inline(array: "zarr.Array[Any]", region: tuple[slice, ...], values: NDArray[np.generic]) -> None:
    """Do ``array[region] = values`` in this thread; in one whose event loop is running, as zarr would."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if not hasattr(_own, "here"):
            _own.here = _Loop()
        _own.here.run(array.async_array.setitem(region, values))
        return
    array[region] = values


class _Loop:
    """Event loop of one thread, which ends with it: to make and end one takes longer than a small write."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_Here(1))

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            self._loop.run_until_complete(work)
        finally:
            # After an error, other chunks of the same write still wait to be written.
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    def __del__(self) -> None:
        self._loop.close()


_own = threading.local()


class _Here(ThreadPoolExecutor):
    """Does at once what it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        # What it raises is raised where it was asked for, which waits for it in any case.
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future

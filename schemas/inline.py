"""Writing to a zarr array in the thread that asks for it.

zarr hands a write to an event loop of its own and to a pool of threads. A recording has a thread for that already; more
of them take cores from the model, and each keeps the memory that it once used.
"""

import asyncio
from collections.abc import Callable
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
        with asyncio.Runner(loop_factory=_loop) as runner:
            runner.run(array.async_array.setitem(region, values))
        return
    array[region] = values


class _Here(ThreadPoolExecutor):
    """Does at once what it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        # What it raises is raised where it was asked for, which waits for it in any case.
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_default_executor(_Here(1))
    return loop

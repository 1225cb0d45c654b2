"""A bounded queue and the one thread that empties it."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

__all__ = ["Sink"]

Item = TypeVar("Item")


class Sink(Generic[Item]):
    """Hands items to `consume` in another thread, in order; `put` waits while too many bytes are on their way.

    An error in `consume` stops the thread and is raised by the next `put`, or by `close`.

    Examples
    --------
    >>> seen = []
    >>> sink = Sink(seen.append, limit=100)
    >>> sink.put("a", 10)
    >>> sink.close()
    >>> seen
    ['a']
    """

    def __init__(self, consume: Callable[[Item], None], limit: int) -> None:
        self._consume = consume
        self._limit = limit
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._stopped = False
        self._change = threading.Condition()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="attlas-writer")
        self._work: Future[None] = self._pool.submit(self._run)

    def put(self, item: Item, size: int) -> None:
        """Queue `item` of `size` bytes; one larger than the limit waits until it is alone."""
        with self._change:
            while self._bytes and self._bytes + size > self._limit and not self._stopped:
                self._change.wait()
            if not self._stopped:
                self._items.append((item, size))
                self._bytes += size
                self._change.notify_all()
                return
        self._work.result()

    def close(self) -> None:
        """Wait until everything is consumed, and raise what went wrong."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._pool.shutdown()
        self._work.result()

    def abort(self) -> None:
        """Stop after the item at work; the rest is dropped, and so is any error. After `close` it does nothing."""
        with self._change:
            self._closed = True
            self._items.clear()
            self._change.notify_all()
        self._pool.shutdown()

    def _run(self) -> None:
        try:
            with torch.no_grad():
                while (entry := self._next()) is not None:
                    self._consume(entry[0])
                    with self._change:
                        self._bytes -= entry[1]
                        self._change.notify_all()
        finally:
            with self._change:
                self._stopped = True
                self._items.clear()
                self._change.notify_all()

    def _next(self) -> tuple[Item, int] | None:
        with self._change:
            while not self._items and not self._closed:
                self._change.wait()
            return self._items.popleft() if self._items else None

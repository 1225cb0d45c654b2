"""A bounded queue of work and the one thread that does it."""

import atexit
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable

import torch

__all__ = ["Sink"]

NICENESS = 10
"""Of the writer, where threads have one of their own: the model goes first where cores are few."""

Work = Callable[[], None]

_open: "weakref.WeakSet[Sink]" = weakref.WeakSet()


class Sink:
    """Does pieces of work in another thread, in order; `put` waits while too many bytes are on their way.

    An error in a piece of work stops the thread for good; it is raised by the next `put`, `drain` or `close`.

    Examples
    --------
    >>> done = []
    >>> sink = Sink(limit=100)
    >>> sink.put(lambda: done.append("a"), 10)
    >>> sink.close()
    >>> done
    ['a']
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: deque[tuple[Work, int]] = deque()
        self._bytes = 0
        self._busy = False
        self._closed = False
        self._stopped = False
        self._error: BaseException | None = None
        self._change = threading.Condition()
        # Whoever forgets to close it can end the process all the same; what is not complete then is made again.
        self._thread = threading.Thread(target=self._run, name="attlas-writer", daemon=True)
        self._thread.start()
        _open.add(self)

    @property
    def stopped(self) -> bool:
        """Whether the thread has ended, by an error or because it was closed."""
        return self._stopped

    @property
    def error(self) -> BaseException | None:
        """What stopped the thread; None while it lives, and where it was only closed."""
        return self._error

    def put(self, work: Work, size: int = 0) -> None:
        """Queue `work` that holds `size` bytes; one larger than the limit waits until it is alone."""
        with self._change:
            while self._bytes and self._bytes + size > self._limit and not self._stopped:
                self._change.wait()
            if not self._stopped:
                self._queue.append((work, size))
                self._bytes += size
                self._change.notify_all()
                return
        self._raise()

    def settle(self) -> None:
        """Wait until there is nothing to do, or the thread has ended."""
        with self._change:
            while (self._queue or self._busy) and not self._stopped:
                self._change.wait()

    def drain(self) -> None:
        """Wait until everything is done, and raise what went wrong."""
        self.settle()
        self._raise()

    def close(self) -> None:
        """End the thread when everything is done, and raise what went wrong."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._thread.join()
        self._raise()

    def abort(self) -> None:
        """End the thread after the work at hand; the rest is dropped, and so is any error."""
        with self._change:
            self._closed = True
            self._queue.clear()
            self._change.notify_all()
        self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            _step_back()
            with torch.no_grad():
                while (entry := self._next()) is not None:
                    entry[0]()
                    with self._change:
                        self._busy = False
                        self._bytes -= entry[1]
                        self._change.notify_all()
                    del entry
        except BaseException as err:  # noqa: BLE001 - whatever it is, it is raised where it can be heard
            self._error = err
        finally:
            with self._change:
                self._stopped = True
                self._queue.clear()
                self._change.notify_all()

    def _next(self) -> tuple[Work, int] | None:
        with self._change:
            while not self._queue and not self._closed:
                self._change.wait()
            if not self._queue:
                return None
            self._busy = True
            return self._queue.popleft()


def _step_back() -> None:
    """Lower the priority of this thread alone."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


@atexit.register
def _end_all() -> None:
    """End threads before the interpreter takes away what they work with."""
    for sink in tuple(_open):
        sink.abort()

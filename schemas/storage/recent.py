"""Bytes that were read last, up to a bound: what a distant place need not be asked for again."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

__all__ = ["Recent"]


class Recent:
    """What was read last, by name. Threads that want the same at once wait for the one that fetches it.

    Parameters
    ----------
    bound
        Bytes that are kept at most.
    largest
        Bytes of an entry at most; what is larger is not kept.
    """

    def __init__(self, bound: int, largest: int) -> None:
        self._bound = bound
        self._largest = min(bound, largest)
        self._kept: OrderedDict[Hashable, bytes | None] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        self._fetching: dict[Hashable, threading.Lock] = {}

    def get(self, name: Hashable, fetch: Callable[[], bytes | None]) -> bytes | None:
        """Return what is kept under `name`; fetch it where nothing is. None, for what is not there, is kept too."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
            own = self._fetching.setdefault(name, threading.Lock())
        with own:
            with self._lock:
                if name in self._kept:
                    return self._kept[name]
            try:
                found = fetch()
                self._keep(name, found)
            finally:
                with self._lock:
                    self._fetching.pop(name, None)
            return found

    def forget(self) -> None:
        """Keep nothing of what was read so far."""
        with self._lock:
            self._kept.clear()
            self._size = 0

    def _keep(self, name: Hashable, data: bytes | None) -> None:
        cost = _cost(data)
        if cost > self._largest:
            return
        with self._lock:
            if name not in self._kept:
                self._size += cost
            self._kept[name] = data
            while self._size > self._bound:
                self._size -= _cost(self._kept.popitem(last=False)[1])


def _cost(data: bytes | None) -> int:
    """Bytes of an entry with what it takes to keep it."""
    return 200 + len(data or b"")

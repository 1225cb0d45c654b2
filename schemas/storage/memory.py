"""Bytes in the memory of this process, for notebooks and tests."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attlas.schemas.errors import InvalidValueError
from attlas.schemas.storage.base import Coordinator, Data, Storage

__all__ = ["MemoryStorage"]


class MemoryStorage(Storage):
    """A dictionary; what lies beside it is made once and found again."""

    def __init__(self, url: str = "the store in memory") -> None:
        self.url = url
        self.writable = True
        self._held: dict[str, bytes] = {}
        self._beside: dict[str, MemoryStorage] = {}
        self._threads = _Threads()

    def get(self, key: str, start: int | None = None, length: int | None = None) -> bytes | None:
        """Return the bytes, or a part of them."""
        data = self._held.get(key)
        if data is None or (start is None and length is None):
            return data
        first = 0 if start is None else max(0, len(data) + start if start < 0 else start)
        return data[first : len(data) if length is None else first + length]

    def put(self, key: str, data: Data, *, sync: bool = True) -> None:  # noqa: ARG002 - it lasts as long as the process
        """Keep a copy."""
        self._held[key] = bytes(data)

    def delete(self, key: str) -> None:
        """Forget it."""
        self._held.pop(key, None)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Give the names that there are now."""
        yield from [key for key in tuple(self._held) if key.startswith(prefix)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Refuse: the bytes are here."""
        raise InvalidValueError(f"{self.url} cannot go to another process; keep it in a folder")

    def size(self, key: str) -> int | None:
        """Return the number of bytes."""
        data = self._held.get(key)
        return None if data is None else len(data)

    def beside(self, suffix: str) -> "MemoryStorage":
        """Return the same one for the same suffix."""
        return self._beside.setdefault(suffix, MemoryStorage(self.url + suffix))

    def coordinator(self) -> Coordinator:
        """Return the one by which threads agree."""
        return self._threads

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()


class _Threads(Coordinator):
    """Writers of one process, which live and die together."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._writers: set[str] = set()
        self._numbers = itertools.count()

    @contextmanager
    def turn(self, *, wait: bool = True) -> Iterator[bool]:
        if not self._lock.acquire(blocking=wait):
            yield False
            return
        try:
            yield True
        finally:
            self._lock.release()

    def join(self) -> str:
        name = f"thread{next(self._numbers)}"
        self._writers.add(name)
        return name

    def leave(self, name: str) -> None:
        self._writers.discard(name)

    def alive(self, name: str) -> bool:
        return name in self._writers

    def others(self, name: str) -> bool:
        return bool(self._writers - {name})

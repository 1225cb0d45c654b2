"""Memory that a worker frees within a block, kept at hand until the block is done.

Dask tells the C library of its workers to give back to the system whatever is freed above 64 KiB, at once. A block of
runs frees and takes arrays of the same few sizes thousands of times, so that every one is mapped and zeroed anew: that
is a third of all its time, in the kernel, and it does not get faster with more workers.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

__all__ = ["kept_at_hand"]

# Numbers of the parameters in glibc's malloc.h.
TRIM, MAP = -1, -3
AT_HAND = 256 * 2**20
"""Bytes free at the end of the heap that are kept."""
MAPPED = 32 * 2**20
"""Bytes from which an array is mapped by itself; glibc takes no more."""
DEFAULT = 128 * 2**10
"""Glibc's own value of both."""

_lock = threading.Lock()
_inside = 0


@contextmanager
def kept_at_hand() -> Iterator[None]:
    """Keep freed memory within; give it back at the end, and set what the environment says again.

    Where the environment does not set ``MALLOC_TRIM_THRESHOLD_``, as Dask's workers do, glibc finds good values by
    itself, and nothing is done; nor is with another C library.
    """
    trim = os.environ.get("MALLOC_TRIM_THRESHOLD_", "")
    libc = _glibc() if trim.isdecimal() else None
    if libc is None:
        yield
        return
    mapped = os.environ.get("MALLOC_MMAP_THRESHOLD_", "")
    _enter(libc, 1)
    try:
        yield
    finally:
        _enter(libc, -1, int(trim), int(mapped) if mapped.isdecimal() else DEFAULT)


def _enter(libc: Any, step: int, trim: int = AT_HAND, mapped: int = MAPPED) -> None:
    """Count the threads that are inside; the first sets what holds there, the last sets it back."""
    global _inside
    with _lock:
        _inside += step
        if _inside == max(step, 0):
            libc.mallopt(TRIM, trim)
            libc.mallopt(MAP, mapped)
            if not _inside:
                libc.malloc_trim(0)


@lru_cache(maxsize=1)
def _glibc() -> Any:
    """Give the C library if it has glibc's two calls, else None."""
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None

"""Where stores are made that live for a second."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["own_scratch", "scratch"]

SCRATCH = "ATTLAS_FAULTS"
"""Environment variable that names the folder to children."""


def scratch() -> Path:
    """Folder for many small files, that of `own_scratch` where there is one."""
    return Path(os.environ.get(SCRATCH) or _memory())


@contextmanager
def own_scratch() -> Iterator[None]:
    """Everything that this process and its children make is below one folder, and goes with it, whoever was killed."""
    with tempfile.TemporaryDirectory(prefix="attlas-faults-", dir=_memory(), ignore_cleanup_errors=True) as folder:
        os.environ[SCRATCH] = folder
        try:
            yield
        finally:
            del os.environ[SCRATCH]


def _memory() -> str:
    """A file system in memory where there is one: each store lives for a second."""
    memory = "/dev/shm"  # noqa: S108 - each use makes a folder of its own there
    return memory if os.access(memory, os.W_OK) else tempfile.gettempdir()

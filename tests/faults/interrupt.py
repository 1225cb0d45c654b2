"""File operations of a process, counted, and one of them turned into a fault.

An audit hook sees every operation that Python makes, in every thread, before it happens; `os.fsync` and
`os.fdatasync`, which have no audit event, are wrapped. What `shutil` does arrives as the operations it is made of.
Files that are opened for writing relative to an open folder are not seen: the event does not name the folder.
A hook cannot be taken away again, so that all this belongs into a process that is forked for it.
"""

import errno
import itertools
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ERRORS", "MODES", "WITHOUT_CHANGE", "Fault", "Operation", "arm", "count"]

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

PLACES = {
    "open": (0, None),
    "os.rename": (1, 3),
    "os.link": (1, 3),
    "os.symlink": (1, 2),
    "os.remove": (0, 1),
    "os.mkdir": (0, 2),
    "os.rmdir": (0, 1),
    "os.truncate": (0, None),
    "os.utime": (0, 3),
    "os.chmod": (0, 2),
    "fcntl.flock": (0, None),
    "fcntl.lockf": (0, None),
}
"""Audit events, and where among their arguments stand the path that is written and the folder it is relative to."""

UNLOCK = 8
"""``fcntl.LOCK_UN``: letting go of a lock changes no file and cannot fail."""

ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EACCES": errno.EACCES}

MODES = ("kill", "torn", *ERRORS, "short", "full", "gone")
"""What can happen at an operation:

``kill``: SIGKILL before it. ``torn``: death in the middle of writing the file that it opens. ``EIO``, ``ENOSPC``,
``EACCES``: it fails so. ``short``: writing or closing the file that it opens fails. ``full``: from there on nothing
can be added (ENOSPC), only removed. ``gone``: from there on everything fails (EIO).
"""

WITHOUT_CHANGE = ("os.fsync", "os.fdatasync", "fcntl.flock", "fcntl.lockf")
"""Operations after which a killed process leaves what it would have left before them."""

REMOVING = ("os.remove", "os.rmdir", "os.truncate", "fcntl.flock", "fcntl.lockf")


@dataclass(frozen=True)
class Operation:
    """One file operation: its audit event, and the path that it changes, relative to the watched folder."""

    event: str
    path: str

    @property
    def writes(self) -> bool:
        """Whether it opens a file for writing."""
        return self.event == "open"

    def __str__(self) -> str:
        return f"{self.event} {self.path}"


@dataclass(frozen=True)
class Fault:
    """What happens at operation `number`, counted from 0; `mode` is one of MODES."""

    mode: str
    number: int

    @property
    def deadly(self) -> bool:
        """Whether the process dies of it."""
        return self.mode in ("kill", "torn")

    @property
    def lasting(self) -> bool:
        """Whether what comes later fails as well."""
        return self.mode in ("full", "gone")

    @property
    def first_bytes(self) -> int:
        """How many bytes of a file are written where it is cut off."""
        return 1 + 37 * self.number % 400


Act = Callable[[int, Operation], None]


Told = Callable[[Operation], None]


def count(folder: Path, told: Told) -> None:
    """Tell every operation of this process below `folder`, from now on."""
    _watch(folder, lambda _, operation: told(operation))


def arm(folder: Path, fault: Fault, told: Told) -> None:
    """Let `fault` happen in this process, at an operation below `folder`; `told` hears of it just before."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def act(number: int, operation: Operation) -> None:
        if number == fault.number:
            told(operation)
            if fault.mode == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif fault.mode == "torn":
                # Beyond the limit the kernel ends the process, after it wrote what fits.
                resource.setrlimit(resource.RLIMIT_FSIZE, (fault.first_bytes, unlimited[1]))
            elif fault.mode == "short":
                resource.setrlimit(resource.RLIMIT_FSIZE, (fault.first_bytes, unlimited[1]))
            elif fault.mode in ERRORS:
                _fail(ERRORS[fault.mode], operation)
        elif number == fault.number + 1 and fault.mode == "torn":
            # The file was shorter than what is written of it.
            os.kill(os.getpid(), signal.SIGKILL)
        elif number == fault.number + 1 and fault.mode == "short":
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        if number >= fault.number and fault.mode == "full" and operation.event not in REMOVING:
            _fail(errno.ENOSPC, operation)
        if number >= fault.number and fault.mode == "gone":
            _fail(errno.EIO, operation)

    if fault.mode == "torn":
        # Python ignores this signal, and takes changes from the main thread only.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    _watch(folder, act)


def _fail(code: int, operation: Operation) -> None:
    raise OSError(code, f"{os.strerror(code)} (injected)", operation.path)


def _watch(folder: Path, act: Act) -> None:
    """Call `act` with number and kind of each operation of this process below `folder`, before it happens."""
    root = os.path.realpath(folder)
    numbers = itertools.count()

    def look(event: str, place: Any, relative_to: Any) -> None:
        path = _path(place, relative_to)
        inside = path is not None and (path == root or path.startswith(root + os.sep))
        if path is not None and inside and not _vain(event, path):
            act(next(numbers), Operation(event, os.path.relpath(path, root)))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in PLACES:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        if event.startswith("fcntl") and arguments[1] & UNLOCK:
            return
        place, relative_to = PLACES[event]
        look(event, arguments[place], -1 if relative_to is None else arguments[relative_to])

    for name in ("fsync", "fdatasync"):
        _wrap(name, look)
    sys.addaudithook(hook)


def _wrap(name: str, look: Callable[[str, Any, Any], None]) -> None:
    real = getattr(os, name)

    def watched(file: Any) -> None:
        look(f"os.{name}", file if isinstance(file, int) else file.fileno(), -1)
        real(file)

    setattr(os, name, watched)


def _path(place: Any, relative_to: int) -> str | None:
    """Absolute path of what is named by a path or an open file; None where it has none."""
    try:
        if isinstance(place, int):
            return os.readlink(f"/proc/self/fd/{place}")
        path = os.fsdecode(place)
        if relative_to >= 0 and not os.path.isabs(path):
            path = os.path.join(os.readlink(f"/proc/self/fd/{relative_to}"), path)
    except (OSError, TypeError):
        return None
    return os.path.abspath(path)


def _vain(event: str, path: str) -> bool:
    """Whether the operation finds its work done: code that wants a folder often asks for it again."""
    return event == "os.mkdir" and os.path.isdir(path)

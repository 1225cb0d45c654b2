"""Work in a forked process that may be killed, hang or raise; its parent learns how it ended."""

import ctypes
import faulthandler
import gc
import io
import os
import pickle
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

__all__ = [
    "Child",
    "Ended",
    "Note",
    "adopt_orphans",
    "die_with_parent",
    "in_child",
    "quiet_before_forks",
    "start",
]

Note = Callable[[str], None]
"""Tells the parent something at once, whatever becomes of the process."""

PRINTED = 6000
"""Bytes that are kept of what a process printed last."""

PATIENCE = 0.01
"""Seconds between looks whether a process that says nothing is dead."""

HANG = 60.0
"""Seconds after which a process that only has milliseconds of work counts as hung."""


@dataclass
class Ended:
    """How a process ended.

    Attributes
    ----------
    value
        What the work returned.
    error, bases, trace
        Message, names of the classes, and traceback of the exception that it raised.
    signal
        That killed it.
    hung
        Whether it was given up.
    notes
        What it told.
    printed
        The end of what it printed.
    """

    value: Any = None
    error: str | None = None
    bases: tuple[str, ...] = ()
    trace: str = ""
    signal: int = 0
    hung: bool = False
    notes: list[str] = field(default_factory=list)
    printed: str = ""

    @property
    def ours(self) -> bool:
        """Whether it raised an error of attlas."""
        return "AttlasError" in self.bases

    @property
    def returned(self) -> bool:
        """Whether the work came to its end."""
        return self.error is None and not self.signal and not self.hung

    def __str__(self) -> str:
        if self.hung:
            return f"hung; {self.printed}"
        if self.signal:
            return f"killed by {signal.Signals(self.signal).name}; {self.printed}"
        return f"{self.bases[0]}: {self.error}" if self.error is not None else "returned"


@dataclass
class Child:
    """A process at work; see `in_child`."""

    process: int
    reader: int
    printed: IO[bytes]

    def wait(self, limit: float = HANG) -> Ended:
        """Wait until it ends, `limit` seconds at most, and say how."""
        messages, hung = _messages(self.reader, self.process, time.monotonic() + limit)
        # Before it is waited for: until then no stranger has its number.
        _end_group(self.process)
        _, status = os.waitpid(self.process, 0)
        _bury(self.process)
        with self.printed as printed:
            size = printed.seek(0, io.SEEK_END)
            printed.seek(max(0, size - PRINTED))
            ended = Ended(hung=hung, printed=printed.read().decode("utf-8", "replace"))
        if os.WIFSIGNALED(status) and not hung:
            ended.signal = os.WTERMSIG(status)
        for kind, content in messages:
            if kind == "note":
                ended.notes.append(content)
            elif kind == "value":
                ended.value = content
            else:
                ended.error, ended.bases, ended.trace = content
        if not hung and not ended.signal and not any(kind != "note" for kind, _ in messages):
            ended.error, ended.bases = f"left with status {os.waitstatus_to_exitcode(status)}", ("SystemExit",)
        return ended


def start(work: Callable[[Note], Any]) -> Child:
    """Call `work` in a forked process; it takes what passes on a note.

    The calling process must have no other Python thread, since a fork has none of them.
    """
    reader, writer = os.pipe()
    # Closed where the child has been waited for.
    printed = tempfile.TemporaryFile()  # noqa: SIM115
    with warnings.catch_warnings():
        # Newer Pythons warn of threads, those of numerical libraries among them, which do nothing here.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process == 0:
        os.close(reader)
        _work(work, writer, printed.fileno())
    os.close(writer)
    return Child(process, reader, printed)


def in_child(work: Callable[[Note], Any], *, limit: float = HANG) -> Ended:
    """Call `work` in a forked process and wait for it, `limit` seconds at most; see `start`."""
    return start(work).wait(limit)


def _work(work: Callable[[Note], Any], writer: int, printed: int) -> None:
    """Be the child."""
    status = 1
    # It does not live long enough for garbage.
    gc.disable()
    try:
        die_with_parent()
        os.setpgid(0, 0)
        for number in (1, 2):
            os.dup2(printed, number)
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0, closefd=False), write_through=True)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", 0, closefd=False), write_through=True)
        faulthandler.enable(sys.stderr)
        faulthandler.register(signal.SIGUSR1, sys.stderr, all_threads=True)
        try:
            value = work(lambda text: _send(writer, ("note", text)))
            _send(writer, ("value", value))
            status = 0
        except BaseException as err:  # noqa: BLE001 - whatever it is, the parent is to know
            bases = tuple(base.__name__ for base in type(err).__mro__)
            _send(writer, ("error", (str(err), bases, "".join(traceback.format_exception(err)))))
    finally:
        # Without the end of an interpreter, which would wait for threads that a fault may have stopped.
        os._exit(status)


def _send(writer: int, message: tuple[str, Any]) -> None:
    content = pickle.dumps(message)
    content = len(content).to_bytes(8, "little") + content
    while content:
        content = content[os.write(writer, content) :]


def _messages(reader: int, process: int, deadline: float) -> tuple[list[tuple[str, Any]], bool]:
    """Everything that the child sends until it ends, and whether it had to be killed."""
    content, hung = bytearray(), False
    with os.fdopen(reader, "rb", buffering=0) as file:
        # Not until the pipe is closed: processes that the child forked may hold it longer than it lives.
        while not _ended(process):
            if time.monotonic() > deadline:
                hung = True
                _give_up(process)
            elif select.select([file], [], [], PATIENCE)[0]:
                content += file.read(1 << 16)
        while select.select([file], [], [], 0)[0] and (part := file.read(1 << 16)):
            content += part
    messages = []
    while len(content) >= 8 and len(content) >= 8 + (size := int.from_bytes(content[:8], "little")):
        messages.append(pickle.loads(content[8 : 8 + size]))  # noqa: S301 - from our own child
        del content[: 8 + size]
    return messages, hung


def _ended(process: int) -> bool:
    """Whether the process is dead; its number stays taken until it is waited for."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _give_up(process: int) -> None:
    """Let the process print where its threads are, then kill it."""
    os.kill(process, signal.SIGUSR1)
    time.sleep(0.2)
    os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)


def _end_group(process: int) -> None:
    """Kill what the process may have left running."""
    try:
        os.killpg(process, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _bury(group: int) -> None:
    """Wait for the processes of a group that are children of this process now; see `adopt_orphans`."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)


SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36
"""Of Linux' ``prctl``."""


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent dies, which nobody else might wait for."""
    _prctl(SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Let this process be killed when the one that made it ends, however it does."""
    _prctl(SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def quiet_before_forks() -> None:
    """Collect garbage once and keep what is left out of later collections, which would copy its pages in a child."""
    gc.collect()
    gc.freeze()

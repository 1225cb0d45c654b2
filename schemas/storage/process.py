"""Which process this is, so that others of the same machine can tell whether it still runs."""

import os
import socket
from functools import lru_cache
from pathlib import Path

__all__ = ["has_ended", "this_process"]

Told = dict[str, str | int]


def this_process() -> Told:
    """Return machine, number and birth of this process; nothing where the system does not tell them."""
    machine, born = _machine(), _born(os.getpid())
    if machine is None or born is None:
        return {}
    return {"machine": machine, "process": os.getpid(), "born": born}


def has_ended(told: object) -> bool:
    """Whether what `this_process` told was of this machine, and runs no more. False where nobody can know."""
    if not isinstance(told, dict) or told.get("machine") != _machine() or _machine() is None:
        return False
    number = told.get("process")
    return isinstance(number, int) and _born(number) != told.get("born")


@lru_cache(maxsize=1)
def _machine() -> str | None:
    """Name what process numbers are counted in: a machine since its start, or a container of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None
    return f"{socket.gethostname()} {boot} {space}"


def _born(number: int) -> int | None:
    """When a process began, in ticks of the kernel; None where there is none, or only what is left of one."""
    try:
        told = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return None
    # The name, in brackets, may hold anything.
    state, *fields = told.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])

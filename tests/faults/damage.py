"""Every file of a store, damaged in every way: found by whoever needs it, listed by who validates, never a number."""

import os
import shutil
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from faults.children import in_child
from faults.evidence import Found
from faults.outcome import Outcome
from faults.piecewise import read_piecewise
from faults.samples import surveyed
from faults.scratch import scratch

from attlas.schemas import validate_store
from attlas.schemas.errors import AttlasError

__all__ = ["DAMAGES", "FLIPS", "STRANGE", "damage", "files_of"]


def _removed(file: Path, _: np.random.Generator) -> None:
    file.unlink()


def _halved(file: Path, _: np.random.Generator) -> None:
    _write(file, file.read_bytes()[: file.stat().st_size // 2])


def _emptied(file: Path, _: np.random.Generator) -> None:
    _write(file, b"")


def _zeroed(file: Path, _: np.random.Generator) -> None:
    _write(file, bytes(file.stat().st_size))


def _flipped(file: Path, rng: np.random.Generator) -> None:
    content = bytearray(file.read_bytes())
    content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    _write(file, bytes(content))


def _fifo(file: Path, _: np.random.Generator) -> None:
    file.unlink()
    os.mkfifo(file)


def _folder(file: Path, _: np.random.Generator) -> None:
    file.unlink()
    file.mkdir()


def _endless(file: Path, _: np.random.Generator) -> None:
    """A link to a device of which no read comes to an end."""
    file.unlink()
    file.symlink_to("/dev/zero")


def _loop(file: Path, _: np.random.Generator) -> None:
    file.unlink()
    file.symlink_to(file.name)


def _write(file: Path, content: bytes) -> None:
    """Write a new file: the old one has a second name in the undamaged store."""
    file.unlink()
    file.write_bytes(content)


FLIPS = tuple(f"flipped {number}" for number in range(64))
"""One bit of a file, each time another."""

STRANGE = ("fifo", "folder", "endless", "loop")
"""What is no regular file."""

DAMAGES: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "removed": _removed,
    "halved": _halved,
    "emptied": _emptied,
    "zeroed": _zeroed,
    "fifo": _fifo,
    "folder": _folder,
    "endless": _endless,
    "loop": _loop,
    **dict.fromkeys(FLIPS, _flipped),
}
"""What is done to a file, by name."""


def files_of(store: Path) -> list[str]:
    """Every file of a store, relative to it."""
    return sorted(str(path.relative_to(store)) for path in store.rglob("*") if path.is_file())


def damage(store: Path, expected: Found, surveys: dict[str, str], file: str, kind: str) -> Outcome:
    """Damage one file of a copy of `store` and look; `expected` and `surveys` are what the whole store gives."""
    began = time.perf_counter()
    number = zlib.crc32(f"{store.name} {file} {kind}".encode())
    outcome = Outcome(f"files of the {store.stem} store", kind.split()[0], number, f"{file} {kind}")
    with _linked(store) as copy:
        DAMAGES[kind](copy / file, np.random.default_rng(number))
        ended = in_child(lambda _: _look(copy, expected, surveys), limit=30)
    if ended.returned:
        outcome.runs, problems = ended.value
        for name, text in problems:
            outcome.add(name, text)
    else:
        outcome.add("hang" if ended.hung else "foreign exception", f"{ended}\n{ended.trace}")
    outcome.seconds = time.perf_counter() - began
    return outcome


@contextmanager
def _linked(store: Path) -> Iterator[Path]:
    """Copy of a store whose files are second names of the same bytes."""
    with tempfile.TemporaryDirectory(prefix="attlas-damage-", dir=scratch()) as folder:
        yield shutil.copytree(store, Path(folder) / store.name, copy_function=os.link)


def _look(copy: Path, expected: Found, surveys: dict[str, str]) -> tuple[int, list[tuple[str, str]]]:
    problems = []
    try:
        if not validate_store(copy, deep=True):
            problems.append(("not found", "validate_store says that the store is sound"))
    except Exception as err:  # noqa: BLE001 - it is to raise nothing at all
        kind = "not found" if isinstance(err, AttlasError) else "foreign exception"
        problems.append((kind, f"validate_store raised {_told(err)}"))
    piecewise = read_piecewise(copy)
    problems += piecewise.problems(expected)
    try:
        found = surveyed(copy)
        if found != surveys:
            problems.append(("wrong number", f"a survey gives {found}; undamaged {surveys}"))
    except AttlasError:
        pass
    except Exception as err:  # noqa: BLE001 - which it may be is the question
        problems.append(("foreign exception", f"a survey raised {_told(err)}"))
    return piecewise.compared, problems


def _told(err: BaseException) -> str:
    return "".join(traceback.format_exception(err))[-2500:]

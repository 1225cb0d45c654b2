"""Root documents that no attlas wrote: changed at random, hostile on purpose, their checksums made to fit."""

import copy
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from faults.children import in_child
from faults.evidence import Found
from faults.outcome import Outcome
from faults.piecewise import read_piecewise
from faults.scratch import scratch

from attlas.schemas import validate_store
from attlas.schemas.errors import AttlasError
from attlas.schemas.root import RootDocument

__all__ = ["WHOLE_FILES", "fuzz", "write_strange"]

SECONDS = 2.0
"""Of processor time that opening a store may take, sound or not."""

MEMORY = 300 * 2**20
"""Bytes that it may take."""

ROOM = 2 * 2**30
"""Address space beyond what the process has: threads reserve some, and what asks for more gets no memory."""

Value = Any
STRANGE: tuple[Value, ...] = (
    None,
    True,
    "",
    "x",
    "../../../etc/passwd",
    "a/../b",
    "/absolute",
    "nul\x00byte",
    "\ud800",
    "<script>alert(1)</script>",
    "x" * 100_000,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    10**400,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [10**9] * 4,
    list(range(5000)),
    {"name": "unknown", "configuration": {}},
)
"""What takes the place of a value."""

WHOLE_FILES: dict[str, Callable[[bytes], bytes]] = {
    "deep lists": lambda _: b"[" * 200_000,
    "deep objects": lambda _: b'{"a":' * 100_000,
    "twice": lambda content: content + content,
    "no text": lambda content: b"\xff\xfe" + content,
    "mark of byte order": lambda content: b"\xef\xbb\xbf" + content,
    "another encoding": lambda content: content.decode().encode("utf-16"),
    "long number": lambda content: content.replace(b'"schema": 2', b'"schema": ' + b"9" * 100_000),
    "huge exponent": lambda content: content.replace(b'"schema": 2', b'"schema": 1e999999999'),
    "keys that stand twice": lambda content: content.replace(b'"shape"', b'"shape": [1000000000000], "shape"'),
    "a list": lambda _: b"[]",
    "a number": lambda _: b"2",
    "null": lambda _: b"null",
    "spaces": lambda _: b" " * 2**20,
    "100 MB": lambda content: content + b" " * 100 * 2**20,
}
"""Files that are no changed document but something else."""


def write_strange(store: Path, seed: int) -> frozenset[str]:
    """Change one to three places of the root document; return the arrays whose own metadata are changed."""
    rng = np.random.default_rng(seed)
    file = store / "zarr.json"
    told = json.loads(file.read_bytes())
    touched = [_change(told, rng) for _ in range(rng.integers(1, 4))]
    _seal(told)
    file.unlink()
    file.write_text(json.dumps(told))
    nodes = ("consolidated_metadata", "metadata")
    return frozenset(path[2] for path in touched if path[:2] == nodes and len(path) > 2)


def _seal(told: dict[str, Any]) -> None:
    """Make the checksum fit, where there is still a place for it: what is behind it is to be reached."""
    try:
        nodes = told["consolidated_metadata"]["metadata"]
        told["attributes"]["attlas"]["checksum"] = RootDocument(told["attributes"], nodes).checksum
    except (KeyError, TypeError, AttributeError, ValueError):
        return


def _change(told: dict[str, Any], rng: np.random.Generator) -> tuple[str, ...]:
    """Change one place; return its path."""
    places = list(_places(told, ()))
    path, holder, key = places[int(rng.integers(len(places)))]
    value = holder[key]
    what = int(rng.integers(6))
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(value, int | float):
        holder[key] = [-value, value + 1, value * 10**9, value - 1][int(rng.integers(4))]
    elif what == 2 and isinstance(value, str):
        holder[key] = [f"../{value}", value.upper(), value + "x", value[:-1]][int(rng.integers(4))]
    elif what == 3 and isinstance(value, list):
        holder[key] = [value + value, value[:-1], value[::-1], [value]][int(rng.integers(4))]
    elif what == 4 and isinstance(holder, dict):
        # What an array or group is told of stands in a second place, too, or in that of another.
        other = places[int(rng.integers(len(places)))][1:]
        holder[f"{key}2" if rng.integers(2) else f"../{key}"] = copy.deepcopy(other[0][other[1]])
    else:
        holder[key] = copy.deepcopy(STRANGE[int(rng.integers(len(STRANGE)))])
    return path


def _places(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Every place of a document: its path, and what it is an entry of."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(entries):
        here = (*path, str(key))
        yield here, value, key
        yield from _places(inner, here)


def fuzz(store: Path, expected: Found, case: int | str) -> Outcome:
    """Look at a copy of `store` with a strange root document: a seed, or one of WHOLE_FILES."""
    began = time.perf_counter()
    name = case if isinstance(case, str) else f"seed {case}"
    outcome = Outcome(f"metadata of the {store.stem} store", "fuzzed", case if isinstance(case, int) else -1, name)
    with tempfile.TemporaryDirectory(prefix="attlas-fuzz-", dir=scratch()) as folder:
        path = shutil.copytree(store, Path(folder) / store.name, copy_function=os.link)
        if isinstance(case, int):
            touched = write_strange(path, case)
        else:
            touched = frozenset()
            content = (path / "zarr.json").read_bytes()
            (path / "zarr.json").unlink()
            (path / "zarr.json").write_bytes(WHOLE_FILES[case](content))
        ended = in_child(lambda _: _look(path, expected, touched), limit=20)
    if ended.returned:
        outcome.runs, problems = ended.value
        for kind, text in problems:
            outcome.add(kind, text)
    else:
        outcome.add("hang" if ended.hung else "foreign exception", f"{ended}\n{ended.trace}")
    outcome.seconds = time.perf_counter() - began
    return outcome


def _look(path: Path, expected: Found, touched: frozenset[str]) -> tuple[int, list[tuple[str, str]]]:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    used, clock = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    problems = []
    piecewise = read_piecewise(path)
    # What a user annotates may have any dtype: only of arrays of the schema is another one a lie.
    free = frozenset(name for name in touched if name.startswith("annotations/"))
    problems += piecewise.problems(expected, beside=free)
    try:
        validate_store(path, deep=True)
    except AttlasError:
        pass
    except Exception as err:  # noqa: BLE001 - which it may be is the question
        problems.append(("foreign exception", f"validate_store raised {type(err).__name__}: {err}"))
    seconds = time.process_time() - clock
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) * 1024
    if seconds > SECONDS or taken > MEMORY:
        problems.append(("too much", f"{seconds:.1f} s and {taken / 2**20:.0f} MB"))
    return piecewise.compared, problems

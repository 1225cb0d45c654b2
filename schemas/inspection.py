"""Looks at every file of a store, and says of each fault which runs it takes with it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attlas.schemas.errors import AttlasError, CorruptDataError, StorageError
from attlas.schemas.growth import chunk_names, chunks_of
from attlas.schemas.root import (
    ANNOTATIONS,
    ROOT,
    STATISTICS,
    Node,
    RootDocument,
    array_file,
    has_runs,
    is_column,
)
from attlas.schemas.runs import holds_of
from attlas.schemas.snapshot import Snapshot
from attlas.schemas.storage import Storage

__all__ = ["OPTIONAL", "Fault", "file_faults", "run_faults"]

OPTIONAL = ("generated_image", "generated_video", "reference_image")
"""Arrays of the root that a run has or has not, as its ``holds`` says."""

Ticked = Callable[[int], object]


@dataclass(frozen=True)
class Fault:
    """Something that is wrong.

    ``rows`` are the complete runs that it takes with it; ``file`` is a metadata file or a label that can be made again
    from the root document.
    """

    text: str
    rows: tuple[int, ...] = ()
    file: str | None = None


def file_faults(storage: Storage, doc: RootDocument) -> Iterator[Fault]:
    """Compare the metadata files of arrays and groups with the root document, by which attlas goes."""
    for path, node in doc.files.items():
        name = array_file(path)
        try:
            data = storage.get(name)
        except StorageError as err:
            yield Fault(str(err), file=name)
            continue
        if data is None:
            # A user may remove what a statistic found, all of it: it is computed anew.
            group = "/".join(path.split("/")[:2]) + "/"
            if not path.startswith(f"{STATISTICS}/") or next(storage.keys(group), None) is not None:
                yield Fault(f"{name}: missing", file=name)
        elif not _same(data, node):
            yield Fault(f"{name}: is not what {ROOT} says of {path}", file=name)


def _same(data: bytes, node: Node) -> bool:
    try:
        return bool(json.loads(data) == node)
    except (ValueError, RecursionError):
        return False


def run_faults(snapshot: Snapshot, *, deep: bool, ticked: Ticked | None = None) -> Iterator[Fault]:
    """Look for every chunk that is needed; `deep` also reads them all. `ticked` is told of each array."""
    try:
        complete = snapshot.table.complete()
    except AttlasError as err:
        yield Fault(f"complete: {err}")
        complete = np.zeros(snapshot.doc.rows, bool)
    nodes = {path: node for path, node in snapshot.doc.nodes.items() if node["node_type"] == "array"}
    holds: list[frozenset[str]] = []
    yield from _table_faults(snapshot, complete, holds)
    for path, node in nodes.items():
        if ticked is not None:
            ticked(1)
        if path.split("/")[0] == STATISTICS or path == "complete":
            continue
        if not has_runs(node):
            yield from _fixed_faults(snapshot, path, deep=deep)
        elif is_column(node):
            yield from _column_faults(snapshot, path, complete, deep=deep)
        else:
            optional = path in OPTIONAL or path.startswith(f"{ANNOTATIONS}/")
            rows = [int(row) for row in np.flatnonzero(complete) if not optional or (holds and path in holds[int(row)])]
            yield from _shard_faults(snapshot, path, rows, deep=deep)


def _table_faults(snapshot: Snapshot, complete: NDArray[np.bool_], holds: list[frozenset[str]]) -> Iterator[Fault]:
    """Check labels of runs, and what each says that it has; fill `holds`, an entry a row."""
    try:
        labels = [str(label) for label in snapshot.table.column("run", complete)]
        told = [str(text) for text in snapshot.table.column("holds", complete)]
    except AttlasError:
        # The column itself is at fault, and is named as such.
        return
    done = [int(row) for row in np.flatnonzero(complete)]
    for row in done:
        if not labels[row]:
            yield Fault(f"run: row {row} is complete but has no label", (row,))
        elif labels.count(labels[row]) > 1 and labels.index(labels[row]) == row:
            twins = tuple(other for other in done if labels[other] == labels[row])
            yield Fault(f"run: the label {labels[row]!r} stands in {labels.count(labels[row])} rows", twins[1:])
    for row, text in enumerate(told):
        try:
            held = holds_of(text, f"holds: row {row}") if complete[row] else frozenset()
        except CorruptDataError as err:
            yield Fault(str(err), (row,))
            held = frozenset()
        for name in sorted(held - snapshot.doc.nodes.keys()):
            yield Fault(f"holds: run {labels[row]!r} has {name}, of which there is no array", (row,))
        holds.append(frozenset(held))


def _fixed_faults(snapshot: Snapshot, path: str, *, deep: bool) -> Iterator[Fault]:
    try:
        if deep:
            snapshot.read(path)
        elif any(snapshot.storage.size(name) is None for name in chunks_of(path, snapshot.doc.nodes[path])):
            yield Fault(f"{path}: a chunk is missing", file=path)
    except AttlasError as err:
        yield Fault(f"{path}: {err}", file=path)


def _column_faults(snapshot: Snapshot, path: str, complete: NDArray[np.bool_], *, deep: bool) -> Iterator[Fault]:
    block = snapshot.array(path).chunks[0]
    for start in range(0, len(complete), block):
        part = slice(start, min(start + block, len(complete)))
        rows = tuple(int(row) for row in start + np.flatnonzero(complete[part]))
        if not rows:
            continue
        names = chunk_names(path, snapshot.doc.nodes[path], start)
        try:
            missing = [name for name in names if snapshot.storage.size(name) is None]
            for name in missing:
                yield Fault(f"{path}: {name} is missing, with the entries of {len(rows)} complete runs", rows)
            if deep and not missing:
                snapshot.read(path, part)
        except AttlasError as err:
            yield Fault(f"{path}: {err} ({len(rows)} complete runs)", rows)


def _shard_faults(snapshot: Snapshot, path: str, rows: list[int], *, deep: bool) -> Iterator[Fault]:
    array, node = snapshot.array(path), snapshot.doc.nodes[path]
    shards = array.shards or array.chunks
    for row in rows:
        for name in chunk_names(path, node, row):
            place = [int(part) for part in name.rpartition("/c.")[2].split(".")]
            region = tuple(slice(i * size, (i + 1) * size) for i, size in zip(place[1:], shards[1:], strict=True))
            try:
                if snapshot.storage.size(name) is None:
                    yield Fault(f"{path}: run {_label(snapshot, row)} is complete but shard {name} is missing", (row,))
                elif deep:
                    snapshot.read(path, (row, *region))
            except AttlasError as err:
                yield Fault(f"{path}: run {_label(snapshot, row)}, shard {name} cannot be read: {err}", (row,))


def _label(snapshot: Snapshot, row: int) -> str:
    try:
        return repr(str(snapshot.read("run", row)))
    except AttlasError:
        return f"in row {row}"

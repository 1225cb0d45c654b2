"""Changes of a store's metadata: more rows, new arrays, fewer rows at the end; the root document makes each visible.

Every array has its metadata in a file of its own too, for readers of single arrays. These files are written before the
root document when a store grows, and after it when it shrinks, so that they never fall short of it.
"""

import math
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from attlas.schemas.inline import write_inline
from attlas.schemas.root import ROOT, Node, Nodes, RootDocument, array_file, has_runs, is_column, node_bytes
from attlas.schemas.snapshot import Snapshot
from attlas.schemas.storage import Storage

__all__ = [
    "add_nodes",
    "chunk_names",
    "chunks_of",
    "grow",
    "publish",
    "purge",
    "remove_below",
    "repair_files",
    "show",
    "shrink",
    "swap_nodes",
]

STEP = 1024
"""Most rows that are added for runs to come that nobody has announced."""


def grow(old: Snapshot, needed: int, capacity: int) -> Snapshot:
    """Make room for `needed` rows, for `capacity` more runs after these; the caller has the turn.

    Where nobody knows how many runs will come, the room is doubled. The run axis stays: it ends with a complete run.
    """
    had = old.doc.room
    room = max(needed + max(0, capacity - 1), had + min(STEP, max(8, had)))
    made = old.resized(old.doc.with_room(room).with_attributes(finished=None))
    flags = made.wide.lenient("complete")
    block = flags.chunks[0]
    for number in range(math.ceil(had / block), math.ceil(room / block)):
        part = slice(number * block, min((number + 1) * block, room))
        write_inline(flags, (part,), np.zeros(part.stop - part.start, bool))
    publish(old.storage, old.doc, made.doc)
    return made


def show(old: Snapshot, rows: int) -> Snapshot:
    """Let the run axis end at `rows`: the act that makes runs visible; the caller has the turn, and they are whole."""
    made = old.resized(old.doc.with_rows(rows))
    old.storage.put(ROOT, made.data)
    return made


def add_nodes(old: Snapshot, nodes: Nodes) -> Snapshot:
    """Add arrays and groups, or replace their metadata; the caller has the turn."""
    doc = old.doc.with_nodes(nodes)
    made = Snapshot(old.storage, doc.to_bytes())
    publish(old.storage, old.doc, doc)
    return made


def swap_nodes(old: Snapshot, nodes: Nodes, gone: Iterable[str], fill: Callable[[Snapshot], None]) -> Snapshot:
    """Add arrays and groups, filled before anybody sees them, in place of groups; the caller has the turn."""
    groups = tuple(f"{path}/" for path in gone)
    kept = {path: node for path, node in old.doc.nodes.items() if not f"{path}/".startswith(groups)}
    doc = replace(old.doc, nodes={**kept, **nodes})
    made = Snapshot(old.storage, doc.to_bytes())
    fill(made)
    publish(old.storage, old.doc, doc)
    for path in groups:
        remove_below(old.storage, path)
    return made


def remove_below(storage: Storage, path: str) -> None:
    """Remove all files whose names begin so, up to a ``/``, and the folders that are empty then."""
    for key in list(storage.keys(path)):
        storage.delete(key)
    if storage.folder is not None:
        shutil.rmtree(storage.folder / path, ignore_errors=True)


def shrink(old: Snapshot, rows: int, finished: str) -> Snapshot:
    """Leave no room beyond `rows`, and say when; the caller has the turn, and no other writer lives."""
    made = old.resized(old.doc.with_rows(rows).with_room(rows).with_attributes(finished=finished))
    old.storage.put(ROOT, made.data)
    for path, node in old.doc.nodes.items():
        if is_column(node):
            block = node["chunk_grid"]["configuration"]["chunk_shape"][0]
            for row in range(math.ceil(rows / block) * block, old.doc.room, block):
                for name in chunk_names(path, node, row):
                    old.storage.delete(name)
    repair_files(old.storage, made.doc)
    return made


def publish(storage: Storage, old: RootDocument | None, new: RootDocument) -> None:
    """Write what changed, and the root document last."""
    before = {} if old is None else old.files
    for path, node in new.files.items():
        if before.get(path) != node:
            storage.put(array_file(path), node_bytes(node), sync=False)
    storage.flush()
    storage.put(ROOT, new.to_bytes())


def repair_files(storage: Storage, doc: RootDocument) -> list[str]:
    """Write metadata files of arrays and groups anew that differ from the root document; return their names."""
    changed = []
    for path, node in doc.files.items():
        data = node_bytes(node)
        if storage.get(array_file(path)) != data:
            storage.put(array_file(path), data, sync=False)
            changed.append(array_file(path))
    storage.flush()
    return changed


def purge(snapshot: Snapshot, row: int) -> None:
    """Remove what an unfinished run has stored at `row`: its shards, pictures and annotations."""
    for path, node in snapshot.doc.nodes.items():
        if has_runs(node) and not is_column(node):
            for name in chunk_names(path, node, row):
                snapshot.storage.delete(name)


def chunk_names(path: str, node: Node, row: int) -> list[str]:
    """Names of the chunks of an array that hold a row."""
    block, rest = _blocks(node)
    return [_name(path, (row // block, *place)) for place in np.ndindex(*rest)]


def chunks_of(path: str, node: Node) -> list[str]:
    """Names of all chunks of an array."""
    chunk = node["chunk_grid"]["configuration"]["chunk_shape"]
    blocks = [math.ceil(size / part) for size, part in zip(node["shape"], chunk, strict=True)]
    return [_name(path, place) for place in np.ndindex(*blocks)]


def _blocks(node: Node) -> tuple[int, tuple[int, ...]]:
    """Rows in a chunk, and the number of chunks along the other axes."""
    chunk = node["chunk_grid"]["configuration"]["chunk_shape"]
    return chunk[0], tuple(math.ceil(size / part) for size, part in zip(node["shape"][1:], chunk[1:], strict=True))


def _name(path: str, place: tuple[int, ...]) -> str:
    return f"{path}/c.{'.'.join(map(str, place))}"

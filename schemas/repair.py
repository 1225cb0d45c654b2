"""Makes a damaged store sound: what can be made again is, and runs that are damaged are given back to be recorded."""

from collections import Counter
from pathlib import Path

import numpy as np

from attlas.schemas.create import fixed_labels
from attlas.schemas.errors import CorruptDataError, InvalidValueError, StoreInvalidError
from attlas.schemas.growth import chunk_names, publish, repair_files
from attlas.schemas.inline import write_inline
from attlas.schemas.inspection import OPTIONAL, Fault
from attlas.schemas.notes import Notes
from attlas.schemas.rebuild import rebuilt_document
from attlas.schemas.root import ANNOTATIONS, STATISTICS, RootDocument, has_runs, is_column, read_root
from attlas.schemas.snapshot import Snapshot
from attlas.schemas.statistics import remove_statistics
from attlas.schemas.storage import Storage, open_storage
from attlas.schemas.store import open_store
from attlas.schemas.table import BLOCK
from attlas.schemas.validate import faults_of

__all__ = ["repair_store"]


def repair_store(path: str | Path, *, progress: bool = False) -> list[str]:
    """Repair the store at `path` and return what was done, one line each; an empty list says that it was sound.

    Metadata and labels that follow from others are made again; runs that lack a chunk or have a damaged one are marked
    incomplete, so that the same `attlas record` makes them again; what dead recorders left is put into the run table
    where it is whole, and removed where it is not. Every byte is read; ``progress`` shows a bar.

    Raises
    ------
    StoreNotFoundError, StoreExistsError, SchemaVersionError
        If there is no store of this schema.
    StoreInvalidError
        If something is broken that cannot be made again; all of it is named.
    InvalidValueError
        If the place can only be read, or a recorder is at work there.

    Examples
    --------
    >>> from attlas.schemas import simulate_store
    >>> _ = simulate_store("sound.zarr", runs=1)
    >>> repair_store("sound.zarr")
    []
    """
    storage = open_storage(path)
    if not storage.writable:
        raise InvalidValueError(f"{path} can only be read; copy it to a folder and repair the copy")
    if read_root(storage) is None and rebuilt_document(storage) is None:
        # Says what is there instead.
        open_store(path)
    notes = Notes(storage)
    with notes.turn():
        if not notes.alone:
            raise InvalidValueError(f"{path} is being recorded; repair it when the recorder has ended")
        done = _repair_metadata(storage)
        snapshot = Snapshot(storage, read_root(storage) or b"")
        done += _repair_flags(snapshot)
        groups = {name for name, node in snapshot.doc.nodes.items() if node["node_type"] == "group"}
        faults = list(faults_of(storage, deep=True, progress=progress))
        done += _repair_labels(snapshot, faults)
        waiting = {row: record.run for row, record in notes.finished().items()}
        begun = {row: claim.run for row, claim in notes.claims().items() if row not in waiting}
        notes.tidy()
    done += [f"put into the run table: run {run!r}, which was finished" for run in waiting.values()]
    done += [f"removed: what was stored of run {run!r}, which was not finished" for run in begun.values()]
    rows = sorted({row for fault in faults for row in fault.rows})
    store = open_store(path)
    spoilt = sorted({fault.file for fault in faults if fault.file and fault.file.startswith(f"{STATISTICS}/")} & groups)
    if spoilt:
        remove_statistics(store, spoilt)
        done += [f"removed: {name}, which is computed anew" for name in spoilt]
    if rows:
        labels = store.run_labels(rows)
        store.give_back(rows)
        counts = Counter(row for fault in faults for row in fault.rows)
        done += [f"marked incomplete: run {labels[row]}, {counts[row]} problems" for row in rows]
    if done:
        store.finish()
    left = [fault.text for fault in faults_of(storage, deep=False)]
    left += [fault.text for fault in faults if not fault.rows and fault.file is None and fault.text not in left]
    if left:
        raise StoreInvalidError(storage.url, [*left, *(f"done: {line}" for line in done)])
    return done


def _repair_metadata(storage: Storage) -> list[str]:
    """Make the root document again where it is damaged, and then what differs from it."""
    done = []
    try:
        doc = RootDocument.from_bytes(read_root(storage) or b"", storage.url)
    except StoreInvalidError as err:
        rebuilt = rebuilt_document(storage)
        if rebuilt is None:
            raise
        doc = rebuilt
        publish(storage, None, doc)
        done.append(f"made again: {err.problems[0]}")
    return [*done, *(f"made again: {name}" for name in repair_files(storage, doc))]


def _repair_flags(snapshot: Snapshot) -> list[str]:
    """Make blocks of flags again that cannot be read: a run is complete that has a label and every chunk."""
    done = []
    flags = snapshot.lenient("complete")
    for start in range(0, snapshot.doc.rows, BLOCK):
        part = slice(start, min(start + BLOCK, snapshot.doc.rows))
        try:
            snapshot.table.complete(part)
        except CorruptDataError:
            labels = snapshot.table.column("run", np.zeros(part.stop - start, bool), part)
            whole = [bool(label) and _whole(snapshot, row) for row, label in enumerate(labels, start)]
            write_inline(flags, (part,), np.asarray(whole))
            done.append(f"made again: complete, rows {start} to {part.stop - 1}, {sum(whole)} runs")
    snapshot.storage.flush()
    return done


def _whole(snapshot: Snapshot, row: int) -> bool:
    """Whether every chunk is there that each run has."""
    for path, node in snapshot.doc.nodes.items():
        free = path in OPTIONAL or path.split("/")[0] in (ANNOTATIONS, STATISTICS)
        if has_runs(node) and not is_column(node) and not free:
            for name in chunk_names(path, node, row):
                if snapshot.storage.size(name) is None:
                    return False
    return True


def _repair_labels(snapshot: Snapshot, faults: list[Fault]) -> list[str]:
    """Write labels again that follow from the geometry."""
    labels = {
        f"{name}/{label}": values
        for name, leaf in snapshot.leaves.items()
        for label, values in fixed_labels(leaf).items()
    }
    done = []
    for fault in list(faults):
        if fault.file in labels:
            values = labels[fault.file]
            write_inline(snapshot.lenient(fault.file), (slice(None),) * values.ndim, values)
            done.append(f"made again: {fault.file}")
            faults.remove(fault)
    snapshot.storage.flush()
    return done

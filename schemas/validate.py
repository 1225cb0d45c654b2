"""Every problem of a store at once: metadata, labels, missing chunks and, on request, every byte."""

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from attlas.schemas.errors import AttlasError, SchemaVersionError, StoreExistsError, StoreInvalidError
from attlas.schemas.inspection import Fault, file_faults, run_faults
from attlas.schemas.rebuild import rebuilt_document
from attlas.schemas.root import RootDocument, read_root
from attlas.schemas.snapshot import Snapshot
from attlas.schemas.statistics import statistic_problems
from attlas.schemas.storage import Storage, open_storage
from attlas.schemas.store import Store, open_store

__all__ = ["faults_of", "validate_store"]


def validate_store(store: Store | str | Path, *, deep: bool = False, progress: bool = False) -> list[str]:
    """List all problems of a store, one line each; an empty list says that it is sound.

    Checks that the metadata are whole and agree with each other, that each array of the schema is there with its dims,
    dtype and shape, that runs are labelled once, and that complete runs lack no chunk. ``deep`` also reads every chunk
    of every array, so that a flipped bit is found by its checksum; ``progress`` shows a bar over arrays.

    Raises
    ------
    StoreNotFoundError, StoreExistsError, SchemaVersionError
        If there is no store of this schema to look at.
    StorageError
        If the place cannot be read at all.

    Examples
    --------
    >>> from attlas.schemas import simulate_store
    >>> validate_store(simulate_store(runs=1), deep=True)
    []
    """
    storage = store.storage if isinstance(store, Store) else open_storage(store)
    if not isinstance(store, Store) and not _has_root(storage) and rebuilt_document(storage) is None:
        # Says what is there instead.
        open_store(store)
    return [fault.text for fault in faults_of(storage, deep=deep, progress=progress)]


def _has_root(storage: Storage) -> bool:
    """Whether a root document is there, readable or not."""
    try:
        return read_root(storage) is not None
    except AttlasError:
        return True


def faults_of(storage: Storage, *, deep: bool, progress: bool = False) -> Iterator[Fault]:
    """Look at everything that can be looked at, whatever else is broken."""
    snapshot = None
    try:
        data = read_root(storage)
        if data is None:
            yield Fault("zarr.json: missing; `attlas repair` makes it again where it can")
        else:
            RootDocument.from_bytes(data, storage.url)
            snapshot = Snapshot(storage, data)
    except (SchemaVersionError, StoreExistsError):
        raise
    except StoreInvalidError as err:
        yield from map(Fault, err.problems)
    except AttlasError as err:
        yield Fault(str(err))
    doc = snapshot.doc if snapshot is not None else rebuilt_document(storage)
    if doc is None:
        return
    yield from file_faults(storage, doc)
    if snapshot is None:
        try:
            snapshot = Snapshot(storage, doc.to_bytes())
        except AttlasError as err:
            yield Fault(str(err))
            return
    arrays = sum(node["node_type"] == "array" for node in doc.nodes.values())
    with tqdm(total=arrays, desc="validate", unit="array", disable=not progress, dynamic_ncols=True) as bar:
        yield from run_faults(snapshot, deep=deep, ticked=bar.update)
    for path, problem in statistic_problems(Store(snapshot, storage.url), deep=deep):
        yield Fault(problem, file=path)

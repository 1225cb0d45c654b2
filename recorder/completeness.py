"""Whether a call of `record` made what it was asked for: every run complete, and every file of it there."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

from attlas.recorder.ledger import Held
from attlas.recorder.requests import Draft
from attlas.schemas import Store
from attlas.schemas.errors import ObservationError
from attlas.schemas.growth import chunk_names
from attlas.schemas.inspection import OPTIONAL
from attlas.schemas.root import ANNOTATIONS, STATISTICS, has_runs, is_column
from attlas.schemas.runs import holds_of

__all__ = ["check_made"]

MANY = 64
"""Runs from which on files of a far store are listed, a thousand a request, and not asked for one by one."""

THREADS = 16
"""Requests to a server at a time."""


def check_made(store: Store, runs: Mapping[str, bool], unread: Iterable[Draft]) -> None:
    """Raise where a run is not complete, a file is missing, or a run was recorded from another request.

    Parameters
    ----------
    store
        Where everything should be.
    runs
        What was asked for: of each run whether it was not complete at the beginning. Of a far store only the files of
        these are looked for; there a file that was once stored does not go by itself.
    unread
        Requests whose values lie in files, with these, which are compared here.
    """
    store.settle()
    complete = store.complete
    rows = {run: row for row, run in enumerate(store.run_ids) if complete[row]}
    lacking = [run for run in runs if run not in rows]
    if lacking:
        raise ObservationError(
            f"{len(lacking)} of {len(runs)} runs are not complete in {_where(store)} ({_some(lacking)}), though no "
            "recorder is at work on them; record again, it goes on where it stopped"
        )
    held = Held(store)
    for request in unread:
        held.missing(request.ids, request.text)
    local = store.storage.folder is not None
    looked_at = [rows[run] for run, new in runs.items() if new or local]
    missing = list(_missing_files(store, looked_at))
    if missing:
        raise ObservationError(
            f"{len(missing)} files of complete runs are missing in {_where(store)} ({_some(missing)}): `attlas repair` "
            "marks the runs incomplete, then record again"
        )


def _missing_files(store: Store, rows: Sequence[int]) -> Iterator[str]:
    """Names of files that are not there, array by array, so that few names are held at once."""
    needed = _Needed(store, rows)
    storage = store.storage
    if storage.folder is not None or store.path is None:
        for path in needed.paths:
            yield from (name for name in needed.names(path) if storage.size(name) is None)
        return
    with ThreadPoolExecutor(THREADS) as pool:
        for path in needed.paths:
            if len(rows) >= MANY:
                there = set(storage.keys(f"{path}/"))
                yield from (name for name in needed.names(path) if name not in there)
            else:
                names = list(needed.names(path))
                sizes = pool.map(storage.size, names)
                yield from (name for name, size in zip(names, sizes, strict=True) if size is None)


class _Needed:
    """Files that runs must have."""

    def __init__(self, store: Store, rows: Sequence[int]) -> None:
        self._rows = rows
        self._nodes = store.snapshot.doc.nodes
        told = store.column("holds") if rows else ()
        parse = lru_cache(maxsize=64)(partial(holds_of, where=f"holds of {_where(store)}"))
        self._holds = {row: parse(str(told[row])) for row in rows}

    @property
    def paths(self) -> list[str]:
        """Arrays that have files of each run's own."""
        return [
            path
            for path, node in self._nodes.items()
            if has_runs(node) and not is_column(node) and path.split("/")[0] != STATISTICS
        ]

    def names(self, path: str) -> Iterator[str]:
        """Files of an array; of pictures and annotations those of the runs that have them."""
        optional = path in OPTIONAL or path.startswith(f"{ANNOTATIONS}/")
        for row in self._rows:
            if not optional or path in self._holds[row]:
                yield from chunk_names(path, self._nodes[path], row)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _where(store: Store) -> str:
    return store.path or "the store in memory"

"""From paths, URLs, patterns and open stores to a trace."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attlas.analysis.agreement import check_agreement
from attlas.analysis.run_axis import RunAxis
from attlas.analysis.store_files import StoreFiles, at_once
from attlas.analysis.store_paths import is_pattern, short_names, stores_at
from attlas.analysis.trace import Trace
from attlas.schemas import Store, open_store
from attlas.schemas.errors import InvalidValueError

__all__ = ["open_named", "open_trace"]


def open_trace(
    store: str | Path | Store | Any | Sequence[Any],
    *,
    incomplete: bool = False,
    prefix: bool = False,
    device: str = "cpu",
) -> Trace:
    """Open one or several stores for analysis; reads the run table and labels, no attention.

    Several stores of one model are one trace: their runs stand one behind the other, store by store in the order
    given, and everything that takes a trace takes it. Only stores whose runs are computed are read.

    Parameters
    ----------
    store
        Folder, URL, an open `attlas.schemas.Store` (in memory or not), or a zarr store object; a pattern, such as
        ``"runs/*.zarr"`` or ``"s3://bucket/runs/*.zarr"``, for all stores that match it, sorted; or a list of these.
    incomplete
        Also show runs that are unfinished or were interrupted; what they lack is NaN.
    prefix
        Label runs ``store/run``, by the short name of their store, so that stores may have runs of the same label.
    device
        Torch device on which attention is computed from stored arrays, such as ``"cuda"``.

    Returns
    -------
    Trace of the complete runs. An annotation or picture that some runs or stores do not have is all fill for these
    (NaN, -1, black or empty text), without anything being read.

    Raises
    ------
    StoreNotFoundError
        If nothing is at the path, or no store matches the pattern.
    StoreExistsError, SchemaVersionError, StoreInvalidError
        If what is there is no store, of a newer attlas, or broken.
    StoreMismatchError
        If two stores differ in model, pipeline, scheduler or capture, or in the shape of any array.
    InvalidValueError
        If two stores have a run of the same label and `prefix` is False, or a store is given twice.

    Examples
    --------
    >>> from attlas.schemas import simulate_store
    >>> open_trace(simulate_store(runs=2, kinds=("text",)))
    <attlas trace of the store in memory: 2 runs, 3 calls, branches uncond, cond>
      text/4x4         2 layers x  2 heads     16 queries x    10 keys  full, dense
      annotations    cross, disc
    >>> both = open_trace([simulate_store(runs=2), simulate_store(runs=1)], prefix=True)
    >>> both.run_ids
    ('memory 0/0000', 'memory 0/0001', 'memory 1/0000')
    """
    files = at_once(lambda one: _files(one, incomplete), _listed(store))
    _check_once(files)
    check_agreement(files)
    names = short_names([own.store.path or "memory" for own in files])
    prefixes = [f"{name}/" for name in names] if prefix else None
    axis = RunAxis.over(files, [own.rows for own in files], prefixes)
    _check_labels(axis)
    return Trace(axis, device=device)


def open_named(store: str) -> Trace:
    """Open what a command line names: a path, a URL, or a pattern, whose runs are labelled ``store/run``."""
    return open_trace(store, prefix=is_pattern(store))


def _listed(given: Any) -> list[Any]:
    """Give the stores one by one."""
    listed = given if isinstance(given, (list, tuple)) else [given]
    wanted = [found for own in listed for found in (stores_at(own) if isinstance(own, (str, Path)) else [own])]
    if not wanted:
        raise InvalidValueError("no store is given; one or more are needed")
    return wanted


def _files(given: Any, incomplete: bool) -> StoreFiles:
    made = StoreFiles(given if isinstance(given, Store) else open_store(given), incomplete=incomplete)
    made.label("run")
    return made


def _check_once(files: Sequence[StoreFiles]) -> None:
    """Refuse a store that is given twice, under whatever name."""
    seen = set()
    for own in files:
        folder = own.store.storage.folder
        place = own.store.path or id(own.store.storage) if folder is None else folder.resolve()
        if place in seen:
            raise InvalidValueError(f"{own.where} is given twice; its runs must count once")
        seen.add(place)


def _check_labels(axis: RunAxis) -> None:
    """Refuse two runs of one label."""
    if len(axis.files) < 2:
        return
    seen: dict[str, int] = {}
    for label, store in zip(axis.ids, axis.stores, strict=True):
        if label in seen:
            raise InvalidValueError(
                f"run {label!r} is in {axis.files[seen[label]].where} and in {axis.files[store].where}; "
                "open_trace(..., prefix=True) puts the store's name before each label"
            )
        seen[label] = store

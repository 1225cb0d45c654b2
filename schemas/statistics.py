"""Numbers that were computed of each run, kept in the store beside the data they come from.

``statistics/<name>-<digest>`` holds one statistic with one set of options, as one version of its code computed it. Each
row tells by a fingerprint which run it was computed of: whoever reads one compares it.

Where a later run does not fit the arrays (it has more words than there are places), all are laid out anew beside them,
under the same name with a number, and the root document goes from the one to the other in one act. So no array changes
its shape under those who read it, and a writer that is killed leaves the one or the other whole.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from attlas.schemas.errors import CorruptDataError, StorageError
from attlas.schemas.growth import remove_below
from attlas.schemas.root import STATISTICS, RootDocument
from attlas.schemas.snapshot import Snapshot
from attlas.schemas.statistic_arrays import block_rows
from attlas.schemas.statistic_forms import Form
from attlas.schemas.statistic_groups import StatisticGroup, group_nodes, open_group, root_dims
from attlas.schemas.statistic_records import Record
from attlas.schemas.store import Store

__all__ = [
    "PROVENANCE",
    "Record",
    "read_block",
    "read_records",
    "remove_statistics",
    "statistic_problems",
    "write_records",
]

PROVENANCE = ("statistic", "options", "digest", "version", "attlas", "units", "meaning", "source")
"""What the attributes of a statistic's group say of it, beside the form of its arrays."""

Found = TypeVar("Found")


def read_records(store: Store, name: str, rows: Sequence[int]) -> dict[int, Record]:
    """Read the records of the statistic `name` at these rows of the store, by row; a row without one is left out.

    Raises
    ------
    CorruptDataError
        If they are there and cannot be read.
    """
    nothing: dict[int, Record] = {}
    return _look(store, name, lambda group: group.read(rows), nothing)


def read_block(store: Store, name: str, row: int) -> tuple[range, dict[int, Record]]:
    """Read a row, and those that are read as fast as it alone: which these are, and their records by row.

    Raises
    ------
    CorruptDataError
        If they are there and cannot be read.
    """

    def read(group: StatisticGroup) -> tuple[range, dict[int, Record]]:
        rows = group.block_of(row)
        return rows, group.read(rows)

    nothing: tuple[range, dict[int, Record]] = (range(row, row + 1), {})
    return _look(store, name, read, nothing)


def write_records(store: Store, name: str, provenance: Mapping[str, Any], records: Mapping[int, Record]) -> None:
    """Keep records by row; others stay.

    Raises
    ------
    InvalidValueError
        If they cannot be stored, or not with those that are kept: they have other dims.
    CorruptDataError
        If those that are kept cannot be read.
    """
    if not records:
        return
    needed = Form.of(records.values())
    with store.locked():
        path = _newest(store.snapshot, name)
        kept = None if path is None else open_group(store.snapshot, path)
        wanted = needed if kept is None else kept.form.joined(needed)
        if kept is None or wanted != kept.form:
            kept = _lay_out(store, name, provenance, wanted, path, kept)
        kept.write(records)


def remove_statistics(store: Store, paths: Iterable[str]) -> None:
    """Take the groups of statistics out of a store: their numbers are computed anew when they are asked for."""
    with store.locked():
        store.swap_nodes({}, paths, lambda _: None)


def statistic_problems(store: Store, *, deep: bool) -> Iterator[tuple[str, str]]:
    """Find problems of what is kept of statistics: path of the group, and a line; `deep` also reads every record."""
    snapshot = store.snapshot
    for path, node in sorted(snapshot.doc.nodes.items()):
        if path.count("/") != 1 or not path.startswith(f"{STATISTICS}/"):
            continue
        if node["node_type"] != "group":
            yield path, f"{path}: an array stands where the group of a statistic is needed"
            continue
        told = node.get("attributes", {}).get("attlas")
        lacking = [key for key in PROVENANCE if not isinstance(told, Mapping) or key not in told]
        if lacking:
            yield path, f"{path}: attribute 'attlas' lacks {', '.join(lacking)}"
        try:
            group = open_group(snapshot, path)
            if deep and group is not None:
                group.read(range(snapshot.doc.rows))
        except (CorruptDataError, StorageError) as err:
            yield path, str(err)


def _look(store: Store, name: str, read: Callable[[StatisticGroup], Found], nothing: Found) -> Found:
    """Read something of a statistic's group, if there is one."""
    path = _newest(store.snapshot, name)
    if path is None:
        return nothing
    try:
        group = open_group(store.snapshot, path)
        return nothing if group is None else read(group)
    except CorruptDataError:
        present = RootDocument.read(store.storage)
        if present is not None and path not in present.nodes:
            # A writer laid it out anew since this store was opened.
            return nothing
        raise


def _newest(snapshot: Snapshot, name: str) -> str | None:
    """Path of a statistic's group, laid out last."""
    return max(_paths(snapshot, name), key=lambda path: _number(path, name), default=None)


def _paths(snapshot: Snapshot, name: str) -> list[str]:
    """Paths of all that was laid out of a statistic: one, unless the root document had to be made again."""
    return [path for path in snapshot.doc.nodes if _number(path, name)]


def _number(path: str, name: str) -> int:
    """How often the statistic was laid out until it had this path; 0 where the path is of another."""
    match = re.fullmatch(rf"{re.escape(f'{STATISTICS}/{name}')}(?:-(\d{{1,9}}))?", path)
    return int(match[1] or 1) if match else 0


def _lay_out(
    store: Store,
    name: str,
    provenance: Mapping[str, Any],
    wanted: Form,
    old_path: str | None,
    old: StatisticGroup | None,
) -> StatisticGroup:
    """Make the arrays of a form, with all that the old ones hold, in their place; the caller has the turn."""
    number = 1 if old_path is None else _number(old_path, name) + 1
    path = f"{STATISTICS}/{name}" + (f"-{number}" if number > 1 else "")
    form, rows, size = wanted.named(root_dims(store.snapshot)), store.snapshot.doc.rows, block_rows(wanted)

    def fill(snapshot: Snapshot) -> None:
        # A writer that was killed while it did the same may have left something.
        remove_below(snapshot.storage, f"{path}/")
        made = StatisticGroup(snapshot, path, form)
        made.write_shared()
        for start in range(0, rows if old is not None else 0, size):
            made.write({} if old is None else old.read(range(start, min(start + size, rows))))

    store.swap_nodes(group_nodes(path, form, provenance, rows), _paths(store.snapshot, name), fill)
    return StatisticGroup(store.snapshot, path, form)

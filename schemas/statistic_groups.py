"""A statistic's group in a store: reads and writes blocks of rows, and says what its arrays are to be."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.schemas.errors import CorruptDataError, InvalidValueError
from attlas.schemas.inline import write_inline
from attlas.schemas.nodes import array_document
from attlas.schemas.reading import DECODE_ERRORS
from attlas.schemas.root import STATISTICS, group_document
from attlas.schemas.snapshot import Snapshot
from attlas.schemas.statistic_arrays import (
    FINGERPRINT,
    VALUE,
    Arrays,
    array_shape,
    array_variables,
    blank,
    block_rows,
    pack,
    shared,
    unpack,
)
from attlas.schemas.statistic_forms import Form
from attlas.schemas.statistic_records import Record

__all__ = ["StatisticGroup", "group_nodes", "open_group", "root_dims"]


@dataclass(frozen=True)
class StatisticGroup:
    """One statistic's arrays, as a snapshot of the store has them."""

    snapshot: Snapshot
    path: str
    form: Form

    def read(self, rows: Iterable[int]) -> dict[int, Record]:
        """Read records by row; rows that hold none are left out.

        Raises
        ------
        CorruptDataError
            If a file is damaged, or missing where the fingerprints say that it is there.
        """
        found: dict[int, Record] = {}
        for part, own in self._blocks(rows):
            arrays = self._block(part)
            if arrays is not None:
                records = {row: unpack(self.form, arrays, row - part.start) for row in own}
                found |= {row: record for row, record in records.items() if record is not None}
        return found

    def write(self, records: Mapping[int, Record]) -> None:
        """Put records, which the form holds, into their rows; the caller has the turn.

        Blocks are written whole and their fingerprints last, when all else is on disk.
        """
        prints = []
        for part, rows in self._blocks(records):
            arrays = self._block(part) or blank(self.form, part.stop - part.start)
            kept = {row: unpack(self.form, arrays, row - part.start) for row in rows}
            fresh = [row for row, own in kept.items() if own is None or own.checksum != records[row].checksum]
            if not fresh:
                continue
            for row in fresh:
                pack(self.form, records[row], arrays, row - part.start)
            prints.append((part, arrays.pop(FINGERPRINT)))
            for name, values in arrays.items():
                self._put(name, part, values)
        self.snapshot.storage.flush()
        for part, values in prints:
            self._put(FINGERPRINT, part, values)
        self.snapshot.storage.flush()

    def block_of(self, row: int) -> range:
        """Rows that lie in one block with a row, and are read as fast as it alone."""
        first = row - row % self._rows
        return range(first, first + self._rows)

    def write_shared(self) -> None:
        """Write the labels that all runs share."""
        for name, values in shared(self.form).items():
            self._put(name, slice(None), values)

    @property
    def _rows(self) -> int:
        """Rows in a block."""
        return int(self.snapshot.array(f"{self.path}/{FINGERPRINT}").chunks[0])

    def _blocks(self, rows: Iterable[int]) -> Iterator[tuple[slice, list[int]]]:
        """Blocks in which these rows lie, and those of the rows that lie there."""
        size, most = self._rows, self.snapshot.doc.rows
        wanted = [row for row in rows if row < most]
        for number in sorted({row // size for row in wanted}):
            part = slice(number * size, min((number + 1) * size, most))
            yield part, [row for row in wanted if row // size == number]

    def _block(self, part: slice) -> Arrays | None:
        """Read a block of rows; None where nothing was computed in any of them."""
        names = [own.name for own in array_variables(self.form, "", "") if own.dims[:1] == ("run",)]
        try:
            prints = np.array(self.snapshot.lenient(f"{self.path}/{FINGERPRINT}")[part], dtype=object)
            if not any(prints):
                return None
            read = {name: np.array(self.snapshot.array(f"{self.path}/{name}")[part]) for name in names[:-1]}
        except DECODE_ERRORS as err:
            raise _damage(self.snapshot, self.path, err) from err
        texts = {name: values.astype(object) if values.dtype.kind == "T" else values for name, values in read.items()}
        return {**texts, FINGERPRINT: prints}

    def _put(self, name: str, part: slice, values: NDArray[Any]) -> None:
        region = (part, *(slice(None) for _ in values.shape[1:]))[: values.ndim]
        write_inline(self.snapshot.lenient(f"{self.path}/{name}"), region, values)


def open_group(snapshot: Snapshot, path: str) -> StatisticGroup | None:
    """Open the group that a snapshot has at a path; None where somebody removed its folder.

    Raises
    ------
    CorruptDataError
        If what it says of its arrays, or a label that all runs share, cannot be read.
    """
    nodes, told = snapshot.doc.nodes, snapshot.doc.nodes[path].get("attributes", {}).get("attlas")

    def labels(array: str) -> NDArray[Any]:
        name = f"{path}/{array}"
        if name not in nodes:
            raise InvalidValueError(f"array {array!r} is missing")
        chunk = ".".join(["c", *("0" for _ in nodes[name]["shape"])])
        if 0 not in nodes[name]["shape"] and snapshot.storage.size(f"{name}/{chunk}") is None:
            raise _RemovedError
        return np.asarray(snapshot.array(name)[...])

    try:
        form = Form.from_json(told.get("form") if isinstance(told, Mapping) else None, labels)
        for own in array_variables(form, "", ""):
            node, shape = nodes.get(f"{path}/{own.name}", {}), array_shape(form, own, snapshot.doc.rows)
            if (node.get("dimension_names"), node.get("shape")) != (list(own.dims), list(shape)):
                raise InvalidValueError(f"array {own.name!r} does not have dims {own.dims} and shape {shape}")
    except _RemovedError:
        return None
    except DECODE_ERRORS as err:
        raise _damage(snapshot, path, err) from err
    return StatisticGroup(snapshot, path, form)


class _RemovedError(Exception):
    """A file is gone that was there before the group was."""


def group_nodes(path: str, form: Form, provenance: Mapping[str, Any], rows: int) -> dict[str, dict[str, Any]]:
    """Metadata documents of a statistic's group and arrays."""
    told = {**provenance, "form": form.to_json()}
    nodes = {STATISTICS: group_document({}), path: group_document({"attlas": told})}
    variables = array_variables(form, str(provenance.get("units", "")), str(provenance.get("meaning", "")))
    beside = [own.name for own in variables if own.role == "coord"]
    for own in variables:
        shape = array_shape(form, own, rows)
        chunk = (block_rows(form), *shape[1:]) if own.dims[:1] == ("run",) else shape
        attributes = {"coordinates": " ".join(beside)} if own.name == VALUE and beside else {}
        nodes[f"{path}/{own.name}"] = array_document(own, shape, chunk, attributes=attributes)
    return nodes


def root_dims(snapshot: Snapshot) -> dict[str, Sequence[Any] | int]:
    """Dims of the arrays at a store's root but ``run``: their labels where they have some, else their length."""
    dims: dict[str, Sequence[Any] | int] = {}
    for path, node in snapshot.doc.nodes.items():
        if "/" not in path and node["node_type"] == "array":
            dims |= dict(zip(node["dimension_names"], node["shape"], strict=True))
    del dims["run"]
    return {**dims, "t": list(snapshot.t_labels), "branch": list(snapshot.branches)}


def _damage(snapshot: Snapshot, path: str, err: Exception) -> CorruptDataError:
    return CorruptDataError(
        f"{path} in {snapshot.storage.url} cannot be read: {err}; remove that folder, it is computed anew"
    )

"""The root document: what a store says of itself and of every array, in one file that is replaced whole.

It is the root group's ``zarr.json`` with the consolidated metadata of all arrays, so that stock zarr and xarray open a
store by this file alone, and never see two arrays of different length. A checksum covers what attlas goes by.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from attlas.schemas.errors import AttlasError, SchemaVersionError, StoreExistsError, StoreInvalidError
from attlas.schemas.storage import Storage, open_storage
from attlas.schemas.storage.opening import scheme_of
from attlas.schemas.variables import SCHEMA_VERSION

__all__ = [
    "ANNOTATIONS",
    "LARGEST",
    "ROOT",
    "STATISTICS",
    "VOCABULARY",
    "Node",
    "Nodes",
    "RootDocument",
    "array_file",
    "group_document",
    "has_runs",
    "is_column",
    "is_store",
    "node_bytes",
    "read_root",
]

ROOT = "zarr.json"

ANNOTATIONS, STATISTICS, VOCABULARY = "annotations", "statistics", "vocabulary"
"""Groups beside the leaves."""

LARGEST = 2**26
"""Bytes of the largest root document that is read: a store of 1,000 arrays has 2 MB."""

MOST_ROWS = 10**9
"""Most runs of a store."""

OWN = ("attlas", "coordinates", "created", "finished")
"""Attributes of the root that the checksum covers; others are the user's own."""

Node = Mapping[str, Any]
Nodes = Mapping[str, Node]


@dataclass(frozen=True)
class RootDocument:
    """Attributes of the root group, and the metadata document of every array and group by path."""

    attributes: Mapping[str, Any]
    nodes: Nodes

    @cached_property
    def checksum(self) -> str:
        """Digest of what attlas goes by."""
        own = {name: self.attributes.get(name) for name in OWN}
        own["attlas"] = {key: value for key, value in self.attributes["attlas"].items() if key != "checksum"}
        plain = json.dumps([own, self.nodes], sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()

    @property
    def rows(self) -> int:
        """Length of the run axis."""
        return int(self.nodes["run"]["shape"][0])

    @property
    def room(self) -> int:
        """Rows for which there is room: those beyond the run axis belong to runs that are not complete yet."""
        return int(self.attributes["attlas"]["room"])

    @property
    def files(self) -> Nodes:
        """Metadata documents as they stand in files of their own, which have all the room there is."""
        return self.with_rows(self.room).nodes

    def to_bytes(self) -> bytes:
        """Return the file, checksum included."""
        info = {**self.attributes["attlas"], "checksum": self.checksum}
        # zarr takes for the children of a group only those that stand together.
        nodes = dict(sorted(self.nodes.items(), key=lambda entry: entry[0].rpartition("/")[0]))
        return node_bytes(
            {
                "attributes": {**self.attributes, "attlas": info},
                "zarr_format": 3,
                "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": nodes},
                "node_type": "group",
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "RootDocument":
        """Read the file.

        Raises
        ------
        StoreExistsError
            If it is not a store's.
        SchemaVersionError
            If it is of another schema.
        StoreInvalidError
            If it is damaged.
        """
        try:
            plain = json.loads(data)
        except (ValueError, RecursionError) as err:
            raise _damaged(where, f"it is no JSON ({err})") from err
        if not isinstance(plain, dict) or not isinstance(plain.get("attributes"), dict):
            raise _damaged(where, "it describes no group")
        attributes = plain["attributes"]
        info = attributes.get("attlas")
        if info is None:
            raise StoreExistsError(f"{where} is a zarr group, but not an attlas store: attribute 'attlas' is missing")
        schema = info.get("schema") if isinstance(info, dict) else None
        if not isinstance(schema, int) or isinstance(schema, bool):
            raise _damaged(where, f"its schema is {schema!r}; a whole number is needed")
        _check_version(schema, where)
        held = plain.get("consolidated_metadata")
        nodes = held.get("metadata") if isinstance(held, dict) else None
        room = info.get("room")
        if type(room) is not int or not 0 <= room <= MOST_ROWS:
            raise _damaged(where, f"its room is {str(room)[:40]!r}; a number of rows is needed")
        if not isinstance(nodes, dict) or plain.get("node_type") != "group" or plain.get("zarr_format") != 3:
            raise _damaged(where, "it lacks the metadata of the arrays")
        made = cls(attributes, {path: _own(node) for path, node in nodes.items()})
        if info.get("checksum") != made.checksum:
            raise _damaged(where, "its checksum does not fit: it was damaged, or changed by other software")
        return made

    @classmethod
    def read(cls, storage: Storage) -> "RootDocument | None":
        """Read the root document of a place; None where there is none."""
        data = read_root(storage)
        return None if data is None else cls.from_bytes(data, storage.url)

    def with_nodes(self, changed: Nodes) -> "RootDocument":
        """Return a document with these nodes added or replaced."""
        return replace(self, nodes={**self.nodes, **changed})

    def with_rows(self, rows: int) -> "RootDocument":
        """Return a document whose run axis has another length, in every array."""
        return self.with_nodes(
            {
                path: {**node, "shape": [rows, *node["shape"][1:]]}
                for path, node in self.nodes.items()
                if has_runs(node) and node["shape"][0] != rows
            }
        )

    def with_room(self, room: int) -> "RootDocument":
        """Return a document with room for more rows, or fewer."""
        return self.with_attributes(attlas={**self.attributes["attlas"], "room": room})

    def with_attributes(self, **changed: Any) -> "RootDocument":
        """Return a document with other attributes."""
        return replace(self, attributes={**self.attributes, **changed})


def read_root(storage: Storage) -> bytes | None:
    """Read the file, unless it is larger than any store's."""
    size = storage.size(ROOT)
    if size is not None and size > LARGEST:
        raise _damaged(storage.url, f"it has {size} bytes; {LARGEST} are the most")
    return storage.get(ROOT)


def has_runs(node: Mapping[str, Any]) -> bool:
    """Whether a node is an array whose first axis are the runs."""
    return node["node_type"] == "array" and bool(node["shape"]) and node["dimension_names"][0] == "run"


def is_column(node: Node) -> bool:
    """Whether an array has several runs in a chunk, as the columns of the run table do; others have each run alone."""
    return has_runs(node) and node["chunk_grid"]["configuration"]["chunk_shape"][0] > 1


def node_bytes(node: Mapping[str, Any]) -> bytes:
    """Return a metadata document as it is stored."""
    return json.dumps(node).encode()


def array_file(path: str) -> str:
    """Return the name of a node's own metadata document, which only readers of single arrays go by."""
    return f"{path}/{ROOT}"


def group_document(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata document of a group."""
    return {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}


def is_store(path: str | Path) -> bool:
    """Whether an attlas store of any schema is at `path`, sound or not; nothing but its root document is read.

    A path that cannot be read is none.

    Examples
    --------
    >>> is_store("/nowhere.zarr")
    False
    """
    try:
        if scheme_of(path) is None and Path(path).is_dir() and not _is_file(Path(path) / ROOT):
            return False
        data = read_root(open_storage(path))
        plain = {} if data is None else json.loads(data)
    except StoreInvalidError:
        return True
    except (AttlasError, OSError, ValueError, RecursionError):
        return False
    attributes = plain.get("attributes") if isinstance(plain, dict) else None
    return isinstance(attributes, dict) and "attlas" in attributes


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _own(node: Any) -> Any:
    """Return a node without what zarr adds to groups when it consolidates."""
    if isinstance(node, dict) and node.get("node_type") == "group":
        return {name: value for name, value in node.items() if name != "consolidated_metadata"}
    return node


def _check_version(schema: int, where: str) -> None:
    if schema > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{where} has schema {schema}; this attlas reads schema {SCHEMA_VERSION}: upgrade attlas"
        )
    if schema < SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{where} has schema {schema}, which no release of attlas wrote; this one reads schema {SCHEMA_VERSION}: "
            "record again"
        )


def _damaged(where: str, why: str) -> StoreInvalidError:
    return StoreInvalidError(where, [f"{ROOT}: {why}; `attlas repair` rebuilds it where it can"])

"""What a store says of itself: its schema version, and the geometry of its leaves."""

import math
from collections.abc import Mapping
from typing import Any

import zarr

from attlas.schemas.errors import SchemaVersionError, StoreExistsError, StoreInvalidError
from attlas.schemas.layout import Leaf
from attlas.schemas.variables import KINDS, SCHEMA_VERSION

__all__ = ["read_leaves", "root_info"]


def root_info(group: zarr.Group, where: str) -> Mapping[str, Any]:
    """Attributes that make a group a store; raises where it is none, or one of a newer schema."""
    info = group.attrs.get("attlas")
    if not isinstance(info, Mapping):
        raise StoreExistsError(f"{where} is a zarr group, but not an attlas store: attribute 'attlas' is missing")
    schema = info.get("schema")
    if not isinstance(schema, int):
        raise StoreInvalidError(where, [f"root: schema is {schema!r}; a whole number is needed"])
    if schema > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{where} has schema {schema}; this attlas reads up to schema {SCHEMA_VERSION}: upgrade attlas"
        )
    return info


def read_leaves(group: zarr.Group) -> list[tuple[str, Leaf]]:
    """Geometry of every leaf with its group path, the largest grid of a kind first."""
    leaves = []
    for kind in KINDS:
        if kind not in group:
            continue
        for name, node in sorted(group[kind].groups(), key=lambda item: _area(item[0]), reverse=True):
            labels: dict[str, tuple[Any, ...]] = {"layers": tuple(str(v) for v in node["layer"][...])}
            labels["head_labels"] = tuple(int(v) for v in node["head"][...])
            if "key_y" in node:
                labels["key_y"] = tuple(int(v) for v in node["key_y"][...])
                labels["key_x"] = tuple(int(v) for v in node["key_x"][...])
                labels["key_picture"] = tuple(int(v) for v in node["key_picture"][...])
                labels["key_segments"] = tuple(str(v) for v in node["key_segment"][...])
            if "key_frame" in node:
                labels["key_frame"] = tuple(int(v) for v in node["key_frame"][...])
            leaves.append((f"{kind}/{name}", Leaf.from_json(node.attrs["attlas"], labels)))
    return leaves


def _area(name: str) -> int:
    return math.prod(int(size) for size in name.split("-")[0].split("x"))

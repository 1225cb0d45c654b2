"""The root document made again from what else is there: the metadata files of single arrays and groups."""

import json
from typing import Any

from attlas.schemas.check import document_problems
from attlas.schemas.errors import AttlasError
from attlas.schemas.nodes import node_problems
from attlas.schemas.root import LARGEST, ROOT, RootDocument, group_document, read_root
from attlas.schemas.storage import Storage
from attlas.schemas.variables import KINDS, SCHEMA_VERSION

__all__ = ["rebuilt_document"]


def rebuilt_document(storage: Storage) -> RootDocument | None:
    """Make the root document from the metadata files below it, or None where they do not suffice.

    Groups of the kinds hold a copy of what the root says of the store. What the damaged root document still says
    where a file is missing is taken from there.
    """
    old = _plain_root(storage)
    nodes: dict[str, Any] = {}
    for key in sorted(storage.keys(), key=lambda name: (name.count("/"), name)):
        if key.endswith(f"/{ROOT}"):
            node = _read(storage, key)
            if node is not None:
                nodes[key.removesuffix(f"/{ROOT}")] = node
    told = old.get("consolidated_metadata")
    held = told.get("metadata") if isinstance(told, dict) else None
    for path, node in held.items() if isinstance(held, dict) else ():
        if path not in nodes and not list(node_problems(path, node)):
            nodes[path] = node
    info = next((_info(nodes[kind]) for kind in KINDS if kind in nodes and _info(nodes[kind])), None)
    if info is None or "run" not in nodes:
        return None
    had = old.get("attributes")
    # The files have all the room there is; what of it is complete, the flags tell.
    room = nodes["run"]["shape"][0]
    attributes = {**(had if isinstance(had, dict) else {}), "attlas": {**info, "room": room}}
    attributes.setdefault("created", None)
    attributes.setdefault("finished", None)
    attributes.setdefault("coordinates", "step timestep sigma")
    try:
        doc = RootDocument(attributes, dict(sorted(nodes.items(), key=lambda item: item[0].count("/"))))
        doc = doc.with_rows(room)
        return None if list(document_problems(doc)) else doc
    except (AttlasError, KeyError, TypeError, IndexError, ValueError):
        return None


def _plain_root(storage: Storage) -> dict[str, Any]:
    try:
        plain = json.loads(read_root(storage) or b"{}")
    except (AttlasError, ValueError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}


def _read(storage: Storage, key: str) -> dict[str, Any] | None:
    try:
        if (storage.size(key) or 0) > LARGEST:
            return None
        node = json.loads(storage.get(key) or b"")
    except (AttlasError, ValueError, RecursionError):
        return None
    if list(node_problems(key, node)):
        return None
    return node if node["node_type"] == "array" else group_document(node.get("attributes", {}))


def _info(node: Any) -> dict[str, Any] | None:
    info = node.get("attributes", {}).get("attlas")
    if not isinstance(info, dict) or info.get("schema") != SCHEMA_VERSION or not isinstance(info.get("manifest"), dict):
        return None
    return {"schema": SCHEMA_VERSION, "manifest": info["manifest"]}

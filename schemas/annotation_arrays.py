"""Arrays of annotations: made when a run first has one of a name, and the same for every run."""

from collections.abc import Mapping
from typing import Any

from attlas.schemas.annotations import StoredAnnotation, check_roles
from attlas.schemas.errors import StoreMismatchError
from attlas.schemas.nodes import array_document
from attlas.schemas.root import ANNOTATIONS, group_document
from attlas.schemas.snapshot import Snapshot
from attlas.schemas.variables import Variable

__all__ = ["annotation_nodes"]


def annotation_nodes(snapshot: Snapshot, checked: Mapping[str, StoredAnnotation]) -> dict[str, dict[str, Any]]:
    """Return the metadata documents of the arrays that these annotations need.

    Raises
    ------
    StoreMismatchError
        If the store has an annotation of the name with another shape or role, or another one has the role.
    """
    where = snapshot.storage.url
    start = f"{ANNOTATIONS}/"
    held = {path.removeprefix(start): node for path, node in snapshot.doc.nodes.items() if path.startswith(start)}
    roles = {name: node["attributes"].get("role") for name, node in held.items()}
    check_roles({name: own.role for name, own in checked.items()}, roles, where)
    nodes: dict[str, dict[str, Any]] = {ANNOTATIONS: group_document({})}
    for name, own in checked.items():
        shape = tuple(held[name]["shape"][1:]) if name in held else own.values.shape
        if shape != own.values.shape:
            raise StoreMismatchError(f"annotation {name!r} of {where} has shape {shape}, got {own.values.shape}")
        variable = Variable(name, ("run", *own.dims), own.dtype, "", "annotation")
        nodes[start + name] = array_document(
            variable, (snapshot.doc.rows, *shape), (1, *shape), attributes=own.attributes, fill=own.fill
        )
    return nodes

"""Whether the arrays of a root document are those of its geometry, told from metadata and labels alone."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from attlas.schemas.layout import Leaf
from attlas.schemas.nodes import DTYPES, node_problems
from attlas.schemas.root import ANNOTATIONS, MOST_ROWS, STATISTICS, VOCABULARY, RootDocument
from attlas.schemas.variables import KINDS, LEAF_VARIABLES, ROOT_VARIABLES, VOCABULARY_VARIABLES, Variable

__all__ = ["LEAF_LABELS", "document_problems", "leaf_paths", "leaf_problems"]

MOST = {"branch": 64, "t": 100_000, "layer": 100_000, "head": 65_536, "query": 2**24, "key": 2**24, "run": MOST_ROWS}
"""Most entries of the axes whose labels are read when a store is opened, or that a run table has."""

PICTURE = 2**16
"""Most rows or columns of a picture."""

PATH = re.compile(r"\w[\w.-]*(/\w[\w.-]*){0,2}", re.ASCII)
"""What a path in a store looks like: no part begins with a point."""

LABELS = ("layers", "key_segments", "key_y", "key_x", "key_frame", "key_picture", "head_labels")
"""Fields of a leaf that stand in arrays, and not in its attributes."""

SHARED = ("run", "t", "branch", "image_y", "image_x", "reference_y", "reference_x", "video_frame")
"""Axes that have one length in the whole store."""

OTHER = 2**31
"""Most entries of any other axis."""

LEAF_LABELS = ("layer", "head", "key_y", "key_x", "key_picture", "key_segment", "key_frame")
"""Arrays that are read to know the geometry of a leaf."""


def document_problems(doc: RootDocument) -> Iterator[str]:
    """Say what is wrong with the arrays, one line each; nothing of their size is read or made."""
    broken = False
    for path, node in doc.nodes.items():
        if not PATH.fullmatch(path):
            broken = True
            yield f"{path!r:.80}: no name of an array or group"
        for problem in node_problems(path, node):
            broken = True
            yield problem
    if broken:
        return
    yield from _missing(doc)
    sizes: dict[str, int] = {}
    for path, node in doc.nodes.items():
        if node["node_type"] == "array":
            yield from _array_problems(path, node, sizes)
    for path in leaf_paths(doc):
        yield from _leaf_group(path, doc)


def leaf_paths(doc: RootDocument) -> list[str]:
    """Group paths of the leaves, as they stand."""
    return [
        path
        for path, node in doc.nodes.items()
        if node["node_type"] == "group" and path.count("/") == 1 and path.split("/")[0] in KINDS
    ]


def leaf_problems(path: str, leaf: Leaf, doc: RootDocument, *, branches: int, calls: int) -> Iterator[str]:
    """Say where the arrays of a leaf are not those of its geometry."""
    wanted = {variable.name: variable for variable in leaf.variables()}
    there = [name.removeprefix(f"{path}/") for name in doc.nodes if name.startswith(f"{path}/")]
    yield from (f"{path}/{name}: the schema has no such array here" for name in sorted(set(there) - set(wanted)))
    sizes = leaf.sizes(runs=doc.rows, branches=branches, calls=calls)
    for variable in wanted.values():
        node = doc.nodes.get(f"{path}/{variable.name}")
        if node is None or node["node_type"] != "array":
            yield f"{path}/{variable.name}: missing"
        else:
            yield from _compare(f"{path}/{variable.name}", node, variable, sizes)


def _missing(doc: RootDocument) -> Iterator[str]:
    for variable in ROOT_VARIABLES.values():
        if variable.group in ("always", "image") and variable.name not in doc.nodes:
            yield f"{variable.name}: missing"
    if not leaf_paths(doc):
        yield "no leaf: a store has attention of at least one kind"


def _array_problems(path: str, node: Mapping[str, Any], sizes: dict[str, int]) -> Iterator[str]:
    """Compare an array with the registry, and with the axes of those before it."""
    group, _, name = path.rpartition("/")
    table = {"": ROOT_VARIABLES, VOCABULARY: VOCABULARY_VARIABLES}.get(group, LEAF_VARIABLES)
    top, free = group.split("/")[0], group.split("/")[0] in (ANNOTATIONS, STATISTICS)
    dims = tuple(node["dimension_names"])
    unknown = name not in table or (table is LEAF_VARIABLES and (top not in KINDS or group.count("/") != 1))
    if not name.isidentifier() if free else unknown:
        yield f"{path}: the schema has no such array here"
        return
    if top == ANNOTATIONS and dims[:1] != ("run",):
        yield f"{path}: dims are {dims}; the first is to be run"
    for dim, size in zip(dims, node["shape"], strict=True):
        picture = dim.startswith(("image_", "reference_")) and dim.endswith(("_y", "_x"))
        if size > (PICTURE if picture else MOST.get(dim, OTHER)):
            yield f"{path}: {dim} has length {size}, more than any store has"
        if dim in SHARED and sizes.setdefault(dim, size) != size:
            yield f"{path}: {dim} has length {size}; {sizes[dim]} is needed"
    if not free:
        own = table[name]
        # Keys and values that do not change with t lack that axis.
        if dims not in (own.dims, tuple(dim for dim in own.dims if dim != "t")):
            yield f"{path}: dims are {dims}; {own.dims} are needed"
        if node["data_type"] != DTYPES[own.dtype]:
            yield f"{path}: dtype is {node['data_type']}; {DTYPES[own.dtype]} is needed"


def _leaf_group(path: str, doc: RootDocument) -> Iterator[str]:
    """Check what a leaf's group says of itself, as far as it can be without its labels."""
    told = doc.nodes[path].get("attributes", {}).get("attlas")
    wrong = list(_told_wrongly(told))
    if wrong:
        yield from (f"{path}: attribute 'attlas': {problem}" for problem in wrong)
        return
    sizes = {"head": told["heads"], "query": math.prod(told["query_grid"]), "key": told["keys"]}
    for name in ("layer", "head", "query", "key"):
        node = doc.nodes.get(f"{path}/{name}")
        if node is None or node["node_type"] != "array":
            yield f"{path}/{name}: missing"
        elif name in sizes and node["shape"] != [sizes[name]]:
            yield f"{path}/{name}: has shape {tuple(node['shape'])}; ({sizes[name]},) is needed"
    if path.split("/")[0] != told["kind"]:
        yield f"{path}: attribute 'attlas': kind is {told['kind']!r}"


def _told_wrongly(told: Any) -> Iterator[str]:
    """Compare what a leaf says of itself with what a leaf has to say."""
    if not isinstance(told, dict):
        yield f"is {type(told).__name__}; the geometry of a leaf is needed"
        return
    wanted = {name: kind for name, kind in get_type_hints(Leaf).items() if name not in LABELS}
    yield from (f"unknown key {name!r}" for name in told if name not in wanted)
    for name, kind in wanted.items():
        value = told.get(name)
        sizes = value if isinstance(value, list) else [value] if kind is int else []
        right = type(value) is kind or isinstance(value, list)
        if not right or not all(type(size) is int and 0 <= size <= MOST["query"] for size in sizes):
            yield f"{name} is {str(value)[:80]!r}; {getattr(kind, '__name__', 'a list of sizes')} is needed"
        elif isinstance(value, list) and (name != "query_grid" or min(value, default=0) < 1):
            yield f"{name} is {str(value)[:80]!r}"


def _compare(path: str, node: Mapping[str, Any], variable: Variable, sizes: Mapping[str, int]) -> Iterator[str]:
    if tuple(node["dimension_names"]) != variable.dims:
        yield f"{path}: dims are {tuple(node['dimension_names'])}; {variable.dims} are needed"
        return
    for dim, size in zip(variable.dims, node["shape"], strict=True):
        if dim in sizes and sizes[dim] != size:
            yield f"{path}: {dim} has length {size}; {sizes[dim]} is needed"

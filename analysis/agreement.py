"""Whether stores can be one trace: made of the same model and settings, with arrays of the same shapes."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from attlas.analysis.run_axis import PICTURES
from attlas.analysis.store_files import StoreFiles
from attlas.schemas import Leaf
from attlas.schemas.errors import StoreMismatchError

__all__ = ["check_agreement"]

MOST = 12
"""Most differences that a message lists."""


def check_agreement(files: Sequence[StoreFiles]) -> None:
    """Compare each store with the first.

    Raises
    ------
    StoreMismatchError
        If two differ; it names both, and in what.
    """
    for other in files[1:]:
        _refuse(files[0], other, list(_differences(files[0], other)))
    for name in dict.fromkeys((*PICTURES, *(own for one in files for own in one.annotations))):
        holders = [own for own in files if name in own]
        for other in holders[1:]:
            _refuse(holders[0], other, list(_differ(name, _form(holders[0], name), _form(other, name))))


def _refuse(first: StoreFiles, other: StoreFiles, found: Sequence[str]) -> None:
    if found:
        more = [f"... and {len(found) - MOST} more"] if len(found) > MOST else []
        lines = "\n".join(f"  {line}" for line in (*found[:MOST], *more))
        raise StoreMismatchError(
            f"{first.where} (store) and {other.where} (got) cannot be one trace; open them one by one:\n{lines}"
        )


def _differences(first: StoreFiles, other: StoreFiles) -> Iterator[str]:
    yield from first.store.manifest.differences(other.store.manifest)
    for name in ("branches", "calls", "t_labels", "image_shape", "frames"):
        yield from _differ(name, getattr(first.store, name), getattr(other.store, name))
    mine, theirs = first.store.leaves, other.store.leaves
    yield from _differ("leaves", [*mine], [*theirs])
    for name in mine.keys() & theirs.keys():
        yield from _leaf_differences(name, mine[name], theirs[name])
        for variable in mine[name].variables():
            yield from _array_differences(f"{name}/{variable.name}", first, other)


def _leaf_differences(name: str, mine: Leaf, theirs: Leaf) -> Iterator[str]:
    for own in fields(Leaf):
        yield from _differ(f"{name}: {own.name}", getattr(mine, own.name), getattr(theirs, own.name))


def _array_differences(name: str, first: StoreFiles, other: StoreFiles) -> Iterator[str]:
    """Compare arrays beyond their length in runs."""
    if name in first and name in other:
        yield from _differ(name, *(_form(own, name) for own in (first, other)))
    elif (name in first) != (name in other):
        yield f"{name}: only in {(first if name in first else other).where}"


def _form(files: StoreFiles, name: str) -> str:
    node = files.snapshot.doc.nodes[name]
    dims = zip(node["dimension_names"], node["shape"], strict=True)
    sizes = ", ".join(f"{dim} {size}" for dim, size in dims if dim != "run")
    role = node.get("attributes", {}).get("role")
    return f"{node['data_type']} ({sizes})" + ("" if role is None else f", role {role!r}")


def _differ(what: str, mine: Any, theirs: Any) -> Iterator[str]:
    if mine != theirs:
        yield f"{what}: store has {_shown(mine)}, got {_shown(theirs)}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."

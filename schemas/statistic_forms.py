"""What the numbers of one statistic have in common over many runs: which dims, how long, and which labels.

Labels that are the same for every run are stored once. A dim whose labels differ from run to run has places: a run
fills as many as it has labels.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.schemas.errors import InvalidValueError
from attlas.schemas.statistic_records import KINDS, Record, alike, decode, joined_kind, kind_of

__all__ = ["ROOM", "Axis", "Form", "Labels"]

ROOM = 16
"""Fewest places of a dim whose labels differ from run to run."""

RESERVED = ("run", "value", "fingerprint")


@dataclass(frozen=True)
class Labels:
    """Labels along some dims of a statistic.

    ``same`` holds them, row-major, where every run has the same; else it is None. ``ranks`` says that in each run they
    are just 0, 1, 2, ... ``array`` is where they are stored.
    """

    name: str
    dims: tuple[str, ...]
    kind: str
    same: tuple[Any, ...] | None
    ranks: bool = False
    array: str = ""

    @property
    def by_run(self) -> bool:
        """Whether each run's are stored."""
        return self.same is None and not self.ranks

    def joined(self, other: "Labels") -> "Labels":
        """Return what holds the labels of both."""
        if self.dims != other.dims:
            raise InvalidValueError(
                f"label {self.name!r} lies along {self.dims} in one run and {other.dims} in another"
            )
        both = self.same is not None and other.same is not None and alike(self.same, other.same)
        kind, ranks = joined_kind(self.kind, other.kind), self.ranks and other.ranks
        return replace(self, kind=kind, same=self.same if both else None, ranks=ranks)


@dataclass(frozen=True)
class Axis:
    """A dim of a statistic, its labels, and its length in the store.

    ``dim`` is its name in the store, ``count`` the array that says how many places each run fills.
    """

    labels: Labels
    size: int
    dim: str = ""
    count: str = ""

    @property
    def ragged(self) -> bool:
        """Whether labels differ from run to run."""
        return self.labels.same is None

    def joined(self, other: "Axis") -> "Axis":
        """Return an axis with room for the runs of both."""
        made = replace(self, labels=self.labels.joined(other.labels))
        return replace(made, size=_room(max(self.size, other.size))) if made.ragged else made


@dataclass(frozen=True)
class Form:
    """The axes of a statistic, and its further labels by name."""

    axes: tuple[Axis, ...]
    labels: tuple[Labels, ...]

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Form":
        """Return the form that these records need.

        Raises
        ------
        InvalidValueError
            If they cannot be stored, or not together.
        """
        return reduce(Form.joined, map(_form_of, records))

    def joined(self, other: "Form") -> "Form":
        """Return the form that holds the records of both; it equals this one where that holds them as it is.

        Raises
        ------
        InvalidValueError
            If dims or labels have other names.
        """
        one, two = ([own.name for own in form.every] for form in (self, other))
        if one != two or len(self.axes) != len(other.axes):
            raise InvalidValueError(f"dims and labels are {one} in one run and {two} in another")
        axes = tuple(mine.joined(its) for mine, its in zip(self.axes, other.axes, strict=True))
        ragged = {axis.labels.name for axis in axes if axis.ragged}
        labels = [mine.joined(its) for mine, its in zip(self.labels, other.labels, strict=True)]
        return Form(axes, tuple(replace(own, same=None) if ragged & set(own.dims) else own for own in labels))

    def named(self, root: Mapping[str, Sequence[Any] | int]) -> "Form":
        """Give each dim and array a name in the store, whose root has these dims: their labels, or their length.

        A dim called like one of the root's, but with other labels, gets another name: xarray opens no tree in which a
        group contradicts those above it.
        """
        used = {*RESERVED, *root}
        axes = [
            replace(axis, dim=axis.labels.name if _is_of_root(axis, root) else _unused(axis.labels.name, used))
            for axis in self.axes
        ]
        for place, axis in enumerate(axes):
            array = _unused(f"{axis.dim}_label", used) if axis.labels.by_run else axis.dim
            count = _unused(f"{axis.dim}_count", used) if axis.ragged else ""
            axes[place] = replace(axis, labels=replace(axis.labels, array=array), count=count)
        return Form(tuple(axes), tuple(replace(own, array=_unused(own.name, used)) for own in self.labels))

    @property
    def every(self) -> tuple[Labels, ...]:
        """All labels, those of the axes first."""
        return (*(axis.labels for axis in self.axes), *self.labels)

    @property
    def sizes(self) -> dict[str, int]:
        """Length in the store of each dim, by the statistic's name for it."""
        return {axis.labels.name: axis.size for axis in self.axes}

    @property
    def dims(self) -> dict[str, str]:
        """Name in the store of each dim."""
        return {axis.labels.name: axis.dim for axis in self.axes}

    def to_json(self) -> dict[str, Any]:
        """Return plain values; labels that are the same for every run are left to their arrays."""
        axes = [{**_plain(axis.labels), "size": axis.size, "dim": axis.dim, "count": axis.count} for axis in self.axes]
        return {"axes": axes, "labels": [_plain(own) for own in self.labels]}

    @classmethod
    def from_json(cls, plain: Any, read: Callable[[str], NDArray[Any]]) -> "Form":
        """Rebuild a form; `read` gives an array of labels by its name.

        Raises
        ------
        InvalidValueError
            If the values are no form.
        """
        try:
            axes = [
                Axis(_labels(own, read), int(own["size"]), str(own["dim"]), str(own["count"])) for own in plain["axes"]
            ]
            made = cls(tuple(axes), tuple(_labels(own, read) for own in plain["labels"]))
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise InvalidValueError(f"what it says of its arrays cannot be read ({err!r})") from err
        sizes = made.sizes
        for own in made.every:
            if not set(own.dims) <= set(sizes) or own.kind not in KINDS:
                raise InvalidValueError(f"label {own.name!r} of kind {own.kind!r} along {own.dims}; dims are {sizes}")
            if own.same is not None and len(own.same) != int(np.prod([sizes[dim] for dim in own.dims])):
                raise InvalidValueError(f"label {own.name!r} has {len(own.same)} values; dims are {sizes}")
        return made


def _form_of(record: Record) -> Form:
    record.check()
    axes = []
    for dim, size in record.sizes.items():
        own = tuple(record.coords[dim])
        axes.append(Axis(Labels(dim, (dim,), kind_of(own), own, ranks=alike(own, range(size))), size))
    further = [Labels(name, dims, kind_of(own), tuple(own)) for name, (dims, own) in sorted(record.labels.items())]
    return Form(tuple(axes), tuple(further))


def _room(size: int) -> int:
    """Power of two with room for `size`, at least `ROOM`."""
    return max(ROOM, 1 << (size - 1).bit_length()) if size else ROOM


def _is_of_root(axis: Axis, root: Mapping[str, Sequence[Any] | int]) -> bool:
    """Whether an axis is one of the root's: labels are the same, or the length where the root has none."""
    there = root.get(axis.labels.name)
    if there is None or axis.labels.same is None:
        return False
    return axis.size == there if isinstance(there, int) else alike(axis.labels.same, there)


def _unused(name: str, used: set[str]) -> str:
    """Return an identifier like `name` that was not used, and note it as used."""
    made = re.sub(r"[^0-9A-Za-z_]", "_", name).strip("_") or "dim"
    if made in used or made[0].isdigit():
        made = f"statistic_{made}"
    while made in used:
        made += "_"
    used.add(made)
    return made


def _plain(own: Labels) -> dict[str, Any]:
    return {
        "name": own.name,
        "dims": list(own.dims),
        "kind": own.kind,
        "same": own.same is not None,
        "ranks": own.ranks,
        "array": own.array,
    }


def _labels(plain: Mapping[str, Any], read: Callable[[str], NDArray[Any]]) -> Labels:
    kind, array = str(plain["kind"]), str(plain["array"])
    same = decode(read(array), kind) if plain["same"] else None
    dims = tuple(str(dim) for dim in plain["dims"])
    return Labels(str(plain["name"]), dims, kind, same, bool(plain["ranks"]), array)

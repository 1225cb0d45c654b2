"""What a statistic found in one run, and how its labels are stored: as numbers or texts, each kind as it is."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.schemas.errors import InvalidValueError

__all__ = ["KINDS", "LARGEST", "Record", "alike", "decode", "encode", "joined_kind", "kind_of"]

KINDS = {"str": "str", "int": "i8", "float": "f8", "bool": "bool", "json": "str", "": "str"}
"""Stored dtype of labels by their kind: ``json`` where a dim has labels of several kinds, empty where it has none."""

LARGEST = 2**25
"""Most numbers of one run that are kept."""


@dataclass(frozen=True)
class Record:
    """Numbers of one run: float64 with named, labelled dims (none where it is one number).

    ``labels`` are further coordinates, such as the part of speech of each word: name to dims and values, row-major.
    """

    fingerprint: str
    values: NDArray[np.float64]
    dims: tuple[str, ...] = ()
    coords: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    labels: Mapping[str, tuple[tuple[str, ...], Sequence[Any]]] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Length of each dim."""
        return dict(zip(self.dims, self.values.shape, strict=True))

    @cached_property
    def checksum(self) -> str:
        """Digest of the fingerprint, the numbers bit for bit, and all labels."""
        told = [
            self.fingerprint,
            self.dims,
            self.values.shape,
            {name: list(values) for name, values in self.coords.items()},
            {name: [dims, list(values)] for name, (dims, values) in self.labels.items()},
        ]
        made = hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=6)
        made.update(np.ascontiguousarray(self.values, dtype="<f8").tobytes())
        return made.hexdigest()

    def check(self) -> None:
        """Refuse a record whose labels do not fit its numbers, or that cannot be stored.

        Raises
        ------
        InvalidValueError
            With what is wrong.
        """
        shape = self.values.shape
        lengths = {dim: len(self.coords.get(dim, ())) for dim in self.dims}
        if (
            len(set(self.dims)) != len(shape)
            or list(lengths.values()) != list(shape)
            or set(self.coords) - set(lengths)
        ):
            raise InvalidValueError(f"numbers of shape {shape} do not fit dims {self.dims} with {lengths} labels")
        if self.values.size > LARGEST:
            raise InvalidValueError(f"a run has {self.values.size} numbers; up to {LARGEST} are kept")
        for name, (dims, values) in self.labels.items():
            needed = math.prod(lengths.get(dim, -1) for dim in dims)
            if len(set(dims)) != len(dims) or len(values) != needed or name in lengths:
                raise InvalidValueError(f"label {name!r} has {len(values)} values for dims {dims} of {lengths}")


def kind_of(labels: Sequence[Any]) -> str:
    """Kind of labels, a key of `KINDS`.

    Raises
    ------
    InvalidValueError
        If one is neither number, text, truth value nor None.

    Examples
    --------
    >>> kind_of([0, 1]), kind_of(["a", ""]), kind_of([0.5, None]), kind_of([])
    ('int', 'str', 'json', '')
    """
    kind = ""
    for label in labels:
        kind = joined_kind(kind, _kind(label))
    return kind


def joined_kind(one: str, other: str) -> str:
    """Kind of labels of two kinds together."""
    return one if other in ("", one) else "json" if one else other


def alike(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether labels are the same, in kind too; NaN is NaN.

    Examples
    --------
    >>> alike([1, float("nan")], [1, float("nan")]), alike([1], [True]), alike([1], [1.0])
    (True, False, False)
    """
    return one is other or json.dumps(list(one)) == json.dumps(list(other))


def encode(labels: Sequence[Any], kind: str) -> NDArray[Any]:
    """Labels as an array of one dim, of the dtype that `KINDS` names (texts as objects)."""
    if KINDS[kind] == "str":
        return np.array([json.dumps(label) if kind == "json" else label for label in labels], dtype=object)
    return np.array(list(labels), dtype=KINDS[kind])


def decode(stored: NDArray[Any], kind: str) -> tuple[Any, ...]:
    """Labels of an array, row-major; `ValueError` if a text is no JSON where it has to be."""
    flat = stored.ravel().tolist()
    if KINDS[kind] == "str":
        return tuple(json.loads(str(label)) if kind == "json" else str(label) for label in flat)
    return tuple(flat)


def _kind(label: Any) -> str:
    if label is None:
        return "json"
    if isinstance(label, bool):
        return "bool"
    if isinstance(label, int):
        return "int" if -(2**63) <= label < 2**63 else "json"
    if isinstance(label, float):
        return "float"
    if isinstance(label, str):
        # Half of a surrogate pair is no UTF-8; JSON escapes it.
        return "json" if any("\ud800" <= letter <= "\udfff" for letter in label) else "str"
    raise InvalidValueError(f"label {label!r} is {type(label).__name__}; numbers, texts, true, false and None are kept")

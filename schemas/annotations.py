"""Annotations: what a user knows about a run (masks, true correspondences, numbers), as arrays of the store."""

import keyword
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from attlas.schemas.errors import InvalidValueError, StoreMismatchError, unknown_name

__all__ = ["ROLES", "ROLE_MEANINGS", "Annotation", "StoredAnnotation", "check_annotations", "check_roles", "roles_of"]

ROLE_MEANINGS = {
    "object": "mask of the object on the generated picture",
    "reference_object": "mask of the object on the reference",
    "correspondence": "true place (y, x) on the reference, in pixels, of each generated pixel; NaN where there is none",
    "target": "true picture: what the generated one should be",
}
ROLES = tuple(ROLE_MEANINGS)
"""What an annotation can be to the scores, which ask for roles and never for names."""

_FORMS: dict[str, tuple[str, tuple[int, ...]]] = {
    "object": ("bool", ()),
    "reference_object": ("bool", ()),
    "correspondence": ("float", (2,)),
    "target": ("uint8", (3,)),
}
"""Dtype of each role's values, and their axes after rows and columns."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """What is known of a run, and the role that it plays when maps are scored.

    Attributes
    ----------
    values
        A mask (bool), picture (uint8) or places (floats) of the size of the picture that it is about; or any other
        array, number or text.
    role
        What the scores take it for, one of `ROLES`; None where they make nothing of it:

        ``object``: mask of the object on the generated picture, bool ``(rows, columns)``;
        ``reference_object``: the same on the reference;
        ``correspondence``: true place ``(y, x)`` on the reference, in pixels, of each generated pixel, NaN where there
        is none, floats ``(rows, columns, 2)``;
        ``target``: the true picture, uint8 ``(rows, columns, 3)``.

    Raises
    ------
    UnknownNameError
        If there is no such role.

    Examples
    --------
    >>> Annotation(np.ones((2, 2), bool), role="object").role
    'object'
    >>> Annotation(0.5, role="objects")
    Traceback (most recent call last):
    ...
    attlas.schemas.errors.UnknownNameError: unknown role 'objects'; did you mean 'object' ...
    """

    values: Any
    role: str | None = None

    def __post_init__(self) -> None:
        """Refuse a role that does not exist."""
        if self.role is not None and self.role not in ROLES:
            raise unknown_name("role", str(self.role), ROLES)

    @classmethod
    def of(cls, value: Any, where: str) -> Self:
        """Give `value` as an annotation: one already, ``{"values": ..., "role": ...}``, or values without a role."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            return cls(value)
        for key in value:
            if key not in ("values", "role"):
                raise unknown_name("key", str(key), ("values", "role"), where=where)
        if "values" not in value:
            raise InvalidValueError(f"{where} has no 'values'; {{'values': ..., 'role': ...}} is needed")
        role = value.get("role")
        if role is not None and role not in ROLES:
            raise unknown_name("role", str(role), ROLES, where=where)
        return cls(value["values"], role)


@dataclass(frozen=True, eq=False)
class StoredAnnotation:
    """One annotation of one run, ready to be stored; ``dims`` are those after ``run``."""

    values: NDArray[Any]
    dims: tuple[str, ...]
    dtype: str
    fill: float | int | str
    role: str | None = None

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes of the annotation's array."""
        return {} if self.role is None else {"role": self.role}


def check_annotations(
    annotations: Mapping[str, Any], image: tuple[int, int] | None, reference: tuple[int, int] | None
) -> dict[str, StoredAnnotation]:
    """Give every annotation its dims and stored dtype, or refuse it.

    A boolean mask becomes int8 (1 in, 0 out, -1 not given); floats become float32 (NaN not given). What has the role
    ``reference_object``, or no role and a name that starts with ``reference_``, lies on the reference image; any other
    picture-sized array lies on the generated one.

    Parameters
    ----------
    annotations
        By name: `Annotation`, a mapping with ``values`` and perhaps ``role``, or bare values.
    image
        Rows and columns of the generated picture; None where they are not known yet, so that they cannot be checked.
    reference
        Rows and columns of the reference image; None if there is none.

    Raises
    ------
    UnknownNameError
        If a role does not exist.
    InvalidValueError
        If values are not of the form that their role asks for, a mask has another size than its picture, or two
        annotations have one role.
    """
    made: dict[str, StoredAnnotation] = {}
    holders: dict[str, str] = {}
    for name, value in annotations.items():
        given = Annotation.of(value, f"annotation {name!r}")
        made[name] = _stored(name, given, image, reference)
        if given.role is not None:
            first = holders.setdefault(given.role, name)
            if first != name:
                raise InvalidValueError(
                    f"annotations {first!r} and {name!r} of one run both have the role {given.role!r}; give it to one "
                    "of them"
                )
    return made


def check_roles(given: Mapping[str, str | None], held: Mapping[str, str | None], where: str) -> None:
    """Check roles by annotation name against those that the store `where` has.

    Raises
    ------
    StoreMismatchError
        If an annotation has another role there, or another annotation has the role.
    """
    for name, role in given.items():
        if held.get(name, role) != role:
            had = held[name]
            give = "its values alone" if had is None else f"Annotation(values, role={had!r})"
            raise StoreMismatchError(
                f"annotation {name!r} of {where} has {_told(had)}, got {_told(role)}; all runs have it the same: give "
                f"{give}, or choose another name"
            )
        first = next((other for other, own in held.items() if own == role and other != name), None)
        if role is not None and first is not None:
            raise StoreMismatchError(
                f"annotation {name!r} has the role {role!r}, which {first!r} has in {where}; a role has one annotation "
                f"in a store: give it as {first!r}"
            )


def roles_of(group: "zarr.Group") -> dict[str, str | None]:
    """Role of each annotation of a store, by name, None where it has none; `group` is the store's root."""
    node = group.get("annotations")
    if not isinstance(node, zarr.Group):
        return {}
    return {name: array.attrs.get("role") for name, array in sorted(node.arrays())}


def _told(role: str | None) -> str:
    return "no role" if role is None else f"the role {role!r}"


def _stored(
    name: str, given: Annotation, image: tuple[int, int] | None, reference: tuple[int, int] | None
) -> StoredAnnotation:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise InvalidValueError(f"annotation name {name!r} is no identifier; letters, digits and _ are accepted")
    role = given.role
    if role in ("reference_object", "correspondence") and reference is None:
        raise InvalidValueError(
            f"annotation {name!r} has the role {role!r}: {ROLE_MEANINGS[role]}. The run has no reference image: leave "
            "the role out"
        )
    on_reference = role == "reference_object" or (role is None and name.startswith("reference_"))
    on_reference = on_reference and reference is not None
    plane = reference if on_reference else image
    values = np.asarray(given.values)
    if role is not None:
        _check_form(name, values, role, plane)
    if isinstance(given.values, str):
        return StoredAnnotation(np.asarray(given.values, dtype=object), (), "str", "")
    if plane is not None and values.dtype == np.bool_ and values.ndim == 2 and values.shape != plane:
        raise InvalidValueError(
            f"annotation {name!r} is a mask of {values.shape[0]}x{values.shape[1]}; its picture is "
            f"{plane[0]}x{plane[1]} (rows x columns): resize the mask"
        )
    dtype, fill = _dtype(name, values)
    rows, columns = ("reference_y", "reference_x") if on_reference else ("image_y", "image_x")
    last = {(): (), (2,): ("coordinate",), (3,): ("rgb",)}.get(values.shape[2:])
    dims = tuple(f"{name}_{axis}" for axis in range(values.ndim))
    if values.ndim >= 2 and values.shape[:2] == plane and last is not None:
        dims = (rows, columns, *last)
    return StoredAnnotation(values, dims, dtype, fill, role)


def _check_form(name: str, values: NDArray[Any], role: str, plane: tuple[int, int] | None) -> None:
    """Refuse values that are not what their role says."""
    kind, last = _FORMS[role]
    right = values.dtype.kind == "f" if kind == "float" else values.dtype == kind
    if right and values.ndim >= 2 and values.shape[2:] == last and plane in (None, values.shape[:2]):
        return
    size = ", ".join(map(str, (*(plane or ("rows", "columns")), *last)))
    fix = "convert it"
    if right and values.ndim == 2 + len(last):
        fix = "resize it"
    elif kind == "bool":
        fix = "compare it with a number, as in mask > 0"
    raise InvalidValueError(
        f"annotation {name!r} has the role {role!r}: {ROLE_MEANINGS[role]}. It takes {kind} ({size}), got "
        f"{values.dtype} ({', '.join(map(str, values.shape))}): {fix}, or leave the role out"
    )


def _dtype(name: str, values: NDArray[Any]) -> tuple[str, float | int]:
    if values.dtype == np.bool_:
        return "i1", -1
    if values.dtype == np.uint8:
        return "u1", 0
    if np.issubdtype(values.dtype, np.integer):
        return "i8", -1
    if np.issubdtype(values.dtype, np.floating):
        return "f4", float("nan")
    raise InvalidValueError(
        f"annotation {name!r} has dtype {values.dtype}; bool, uint8, integers, floats and text are accepted"
    )

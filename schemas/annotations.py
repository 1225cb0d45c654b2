"""Annotations: what a user knows about a run (masks, true correspondences, numbers), as arrays of the store."""

import keyword
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.schemas.errors import InvalidValueError

__all__ = ["Annotation", "check_annotations"]


@dataclass(frozen=True)
class Annotation:
    """One annotation of one run, ready to be stored; ``dims`` are those after ``run``."""

    values: NDArray[Any]
    dims: tuple[str, ...]
    dtype: str
    fill: float | int | str


def check_annotations(
    annotations: Mapping[str, Any], image: tuple[int, int], reference: tuple[int, int] | None
) -> dict[str, Annotation]:
    """Give every annotation its dims and stored dtype, or refuse it.

    A boolean mask becomes int8 (1 in, 0 out, -1 not given); floats become float32 (NaN not given). A name that
    starts with ``reference_`` lies on the reference image, any other picture-sized array on the generated one.
    A boolean array of another size than its picture raises `InvalidValueError`.
    """
    return {name: _annotation(name, value, image, reference) for name, value in annotations.items()}


def _annotation(name: str, value: Any, image: tuple[int, int], reference: tuple[int, int] | None) -> Annotation:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise InvalidValueError(f"annotation name {name!r} is no identifier; letters, digits and _ are accepted")
    if isinstance(value, str):
        return Annotation(np.asarray(value, dtype=object), (), "str", "")
    values = np.asarray(value)
    on_reference = name.startswith("reference_") and reference is not None
    plane = reference if on_reference and reference is not None else image
    rows, columns = ("reference_y", "reference_x") if on_reference else ("image_y", "image_x")
    if values.dtype == np.bool_ and values.ndim == 2 and values.shape != plane:
        raise InvalidValueError(
            f"annotation {name!r} is a mask of {values.shape[0]}x{values.shape[1]}; its picture is "
            f"{plane[0]}x{plane[1]} (rows x columns): resize the mask"
        )
    dtype, fill = _stored(name, values)
    if values.ndim >= 2 and values.shape[:2] == plane:
        last = {2: (), 3: ("coordinate" if values.shape[-1] == 2 else "rgb",)}
        if values.ndim in last and values.shape[2:] in ((), (2,), (3,)):
            return Annotation(values, (rows, columns, *last[values.ndim]), dtype, fill)
    return Annotation(values, tuple(f"{name}_{axis}" for axis in range(values.ndim)), dtype, fill)


def _stored(name: str, values: NDArray[Any]) -> tuple[str, float | int]:
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

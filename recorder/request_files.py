"""Requests from text: JSON lines, and pictures and masks named by path."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from attlas.schemas.annotations import Annotation
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["read_array", "read_mask", "read_picture", "read_requests"]


def read_requests(path: str | Path, accepted: tuple[str, ...]) -> list[dict[str, Any]]:
    """Read a file with one request in JSON a line; empty lines are skipped.

    Keys are arguments of the pipeline, ``seed``, ``id`` and ``annotations``. Text that stands for a picture is a
    path, relative to the file: arguments whose name ends in ``image`` or ``images``, and annotations (a mask). A text
    that ends in ``.npy`` is an array, for any argument and annotation. An annotation with a role is an object of
    ``values`` and ``role``; its file is read as the role needs it: a mask, an array, or for ``target`` a picture.

    Raises
    ------
    UnknownNameError
        If a key is not in `accepted`, or a role does not exist; the line is named.
    InvalidValueError
        If a line is not a JSON object, or a picture cannot be read; the line is named.
    """
    file = Path(path)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise InvalidValueError(f"{file} cannot be read as JSON lines: {err}") from err
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found.append(_request(line, f"{file}, line {number}", file.parent, accepted))
    if not found:
        raise InvalidValueError(f"{file} has no requests; one JSON object a line is needed")
    return found


def read_picture(path: str | Path, what: str) -> Image.Image:
    """Read a picture file whole, as RGB."""
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as err:
        raise InvalidValueError(f"{what}: {path} is no picture that can be read: {err}") from err


def read_mask(path: str | Path, what: str) -> NDArray[np.bool_]:
    """Read a mask: a picture whose light half is in, or a ``.npy`` file, boolean or to be thresholded at half."""
    if str(path).endswith(".npy"):
        values = read_array(path, what)
        return values if values.dtype == np.bool_ else values > (127 if values.dtype == np.uint8 else 0.5)
    return np.asarray(read_picture(path, what).convert("L")) > 127


def read_array(path: str | Path, what: str) -> NDArray[Any]:
    """Read a ``.npy`` file of plain numbers."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as err:
        raise InvalidValueError(f"{what}: {path} is no array that can be read: {err}") from err
    if not isinstance(values, np.ndarray):
        raise InvalidValueError(f"{what}: {path} holds several arrays; one .npy array is needed")
    return values


def _request(line: str, where: str, folder: Path, accepted: tuple[str, ...]) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as err:
        raise InvalidValueError(f"{where}: not JSON: {err}") from err
    if not isinstance(values, Mapping):
        raise InvalidValueError(f"{where}: {type(values).__name__} where an object of pipeline arguments is needed")
    request = {}
    for key, value in values.items():
        if key not in accepted:
            raise unknown_name("request key", key, accepted, where=where)
        what = f"{where}, {key!r}"
        if key == "annotations":
            if not isinstance(value, Mapping):
                raise InvalidValueError(f"{what}: an object of names and values is needed, got {type(value).__name__}")
            request[key] = {name: _annotation(entry, f"{what}, {name!r}", folder) for name, entry in value.items()}
        else:
            request[key] = _argument(key, value, what, folder)
    return request


def _argument(name: str, value: Any, what: str, folder: Path) -> Any:
    if isinstance(value, list):
        return [_argument(name, entry, what, folder) for entry in value]
    if isinstance(value, str) and value.endswith(".npy"):
        return read_array(folder / value, what)
    if isinstance(value, str) and name.endswith(("image", "images")):
        return read_picture(folder / value, what)
    return value


def _annotation(value: Any, what: str, folder: Path) -> Any:
    given = Annotation.of(value, what)
    values = _noted(given.values, given.role, what, folder)
    return values if given.role is None else Annotation(values, given.role)


def _noted(value: Any, role: str | None, what: str, folder: Path) -> Any:
    """Values of an annotation; a text that names a file stands for what is in it."""
    if not isinstance(value, str):
        return value
    array = value.endswith(".npy")
    if role in ("object", "reference_object"):
        return read_mask(folder / value, what)
    if array or role == "correspondence":
        return read_array(folder / value, what)
    if role == "target":
        return np.asarray(read_picture(folder / value, what))
    picture = Path(value).suffix.lower() in Image.registered_extensions()
    return read_mask(folder / value, what) if picture else value

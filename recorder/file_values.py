"""Values of a request that lie in files: known by their path until the request's turn comes, and read then."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from attlas.schemas.annotations import Annotation
from attlas.schemas.errors import InvalidValueError

__all__ = ["FileValue", "has_files", "read_array", "read_mask", "read_picture", "with_files_read"]


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
    return np.array(_mapped(path, what))


def _mapped(path: str | Path, what: str) -> NDArray[Any]:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as err:
        raise InvalidValueError(f"{what}: {path} is no array that can be read: {err}") from err
    if not isinstance(values, np.ndarray):
        raise InvalidValueError(f"{what}: {path} holds several arrays; one .npy array is needed")
    return values


def _read_target(path: str | Path, what: str) -> NDArray[np.uint8]:
    return np.asarray(read_picture(path, what))


FORMS: dict[str, Callable[[str, str], Any]] = {
    "picture": read_picture,
    "mask": read_mask,
    "array": read_array,
    "target": _read_target,
}
"""How a file is read, by what it is to be."""


@dataclass(frozen=True)
class FileValue:
    """A file that stands for a value.

    Attributes
    ----------
    path
        Where it is.
    form
        What it is to be: one of `FORMS`.
    what
        How messages call the value.
    """

    path: str
    form: str
    what: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an array, without reading it; empty for anything else."""
        return tuple(_mapped(self.path, self.what).shape) if self.form == "array" else ()

    def check(self) -> None:
        """Refuse a file that is not there, or is none of its form; a picture is believed by the end of its name."""
        picture = Path(self.path).suffix.lower() in Image.registered_extensions()
        if not (self.form != "array" and picture and Path(self.path).is_file()):
            self.read()

    def read(self) -> Any:
        """Read the value."""
        return FORMS[self.form](self.path, self.what)


def has_files(value: Any) -> bool:
    """Whether a request, or a value of it, has something that lies in a file."""
    if isinstance(value, str | int | float | None):
        return False
    if isinstance(value, FileValue):
        return True
    if isinstance(value, Annotation):
        return has_files(value.values)
    if isinstance(value, Mapping):
        return any(has_files(entry) for entry in value.values())
    return isinstance(value, list | tuple) and any(has_files(entry) for entry in value)


def with_files_read(value: Any) -> Any:
    """Return a request, or a value of it, with what lies in files."""
    if not has_files(value):
        return value
    if isinstance(value, FileValue):
        return value.read()
    if isinstance(value, Annotation):
        return Annotation(with_files_read(value.values), value.role)
    if isinstance(value, Mapping):
        return {name: with_files_read(entry) for name, entry in value.items()}
    return [with_files_read(entry) for entry in value]

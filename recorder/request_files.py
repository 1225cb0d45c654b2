"""Requests from text: JSON lines, whose pictures and masks are named by path and read when their turn comes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from PIL import Image

from attlas.recorder.file_values import FileValue
from attlas.schemas.annotations import Annotation
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["RequestFile", "SharedRequests", "read_requests"]

Made = dict[str, Any]


class RequestFile(Sequence[Made]):
    """The requests of a file, each made from its line when it is asked for; see `read_requests`."""

    def __init__(self, file: Path, lines: Sequence[tuple[int, str]], accepted: tuple[str, ...]) -> None:
        self._file = file
        self._lines = lines
        self._accepted = accepted

    def __len__(self) -> int:
        """Count the lines that hold a request."""
        return len(self._lines)

    @overload
    def __getitem__(self, place: int) -> Made: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Made]: ...
    def __getitem__(self, place: int | slice) -> Made | Sequence[Made]:
        """Return a request; what lies in files is a `FileValue`."""
        if isinstance(place, slice):
            return RequestFile(self._file, self._lines[place], self._accepted)
        number, line = self._lines[place]
        return _request(line, f"{self._file}, line {number}", self._file.parent, self._accepted)


class SharedRequests(Sequence[Made]):
    """Requests with what is said of all, each once for every seed; made when they are asked for.

    Parameters
    ----------
    requests
        To build on.
    shared
        What comes before a request's own.
    annotations
        What every request has, unless it has one of the same name.
    seeds
        One request each; none leaves those that the requests have, or 0.
    """

    def __init__(self, requests: Sequence[Made], shared: Made, annotations: Made, seeds: Sequence[int]) -> None:
        self._requests = requests
        self._shared = shared
        self._annotations = annotations
        self._seeds = tuple(seeds)

    def __len__(self) -> int:
        """Count requests times seeds."""
        return len(self._requests) * max(1, len(self._seeds))

    @overload
    def __getitem__(self, place: int) -> Made: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Made]: ...
    def __getitem__(self, place: int | slice) -> Made | Sequence[Made]:
        """Return a request."""
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        if place < 0:
            place += len(self)
        times = max(1, len(self._seeds))
        made = {**self._requests[place // times], **self._shared}
        if self._annotations:
            made["annotations"] = {**self._annotations, **made.get("annotations", {})}
        if self._seeds:
            return {**made, "seed": self._seeds[place % times]}
        return made if "generator" in made else {"seed": 0, **made}


def read_requests(path: str | Path, accepted: tuple[str, ...]) -> RequestFile:
    """Read a file with one request in JSON a line; empty lines are skipped.

    Keys are arguments of the pipeline, ``seed``, ``id`` and ``annotations``. Text that stands for a picture is a
    path, relative to the file: arguments whose name ends in ``image`` or ``images``, and annotations (a mask). A text
    that ends in ``.npy`` is an array, for any argument and annotation. An annotation with a role is an object of
    ``values`` and ``role``; its file is read as the role needs it: a mask, an array, or for ``target`` a picture.
    Every line is checked, and that its files are there; they are read when the request is drawn.

    Raises
    ------
    UnknownNameError
        If a key is not in `accepted`, or a role does not exist; the line is named.
    InvalidValueError
        If a line is not a JSON object, or a file is not there or is none that can be read; the line is named.
    """
    file = Path(path)
    try:
        # Text may hold characters that Python takes for ends of a line.
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as err:
        raise InvalidValueError(f"{file} cannot be read as JSON lines: {err}") from err
    found = RequestFile(file, [(n, line) for n, line in enumerate(lines, start=1) if line.strip()], accepted)
    if not len(found):
        raise InvalidValueError(f"{file} has no requests; one JSON object a line is needed")
    for request in found:
        _check_files(request)
    return found


def _check_files(value: Any) -> None:
    if isinstance(value, FileValue):
        value.check()
    elif isinstance(value, Annotation):
        _check_files(value.values)
    elif isinstance(value, Mapping | list):
        for entry in value.values() if isinstance(value, Mapping) else value:
            _check_files(entry)


def _request(line: str, where: str, folder: Path, accepted: tuple[str, ...]) -> Made:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as err:
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
        return FileValue(str(folder / value), "array", what)
    if isinstance(value, str) and name.endswith(("image", "images")):
        return FileValue(str(folder / value), "picture", what)
    return value


def _annotation(value: Any, what: str, folder: Path) -> Any:
    given = Annotation.of(value, what)
    values = _noted(given.values, given.role, what, folder)
    return values if given.role is None else Annotation(values, given.role)


def _noted(value: Any, role: str | None, what: str, folder: Path) -> Any:
    """Values of an annotation; a text that names a file stands for what is in it."""
    if not isinstance(value, str):
        return value
    path = str(folder / value)
    array = value.endswith(".npy")
    if role in ("object", "reference_object"):
        return FileValue(path, "mask", what)
    if array or role == "correspondence":
        return FileValue(path, "array", what)
    if role == "target":
        return FileValue(path, "target", what)
    picture = Path(value).suffix.lower() in Image.registered_extensions()
    return FileValue(path, "mask", what) if picture else value

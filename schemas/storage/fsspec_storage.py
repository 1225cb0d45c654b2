"""Every other place that fsspec knows (sftp, hf, github, dropbox, ...), for reading.

They are not written: few of them store a file whole or not at all, and none lets two writers take turns.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import fsspec

from attlas.schemas.errors import InvalidValueError, StorageError
from attlas.schemas.storage.opening import SCHEMES, scheme_of
from attlas.schemas.storage.read_only import ReadOnlyStorage

__all__ = ["FsspecStorage"]

LARGEST = 2**31
"""Bytes of a file at most: a store has no larger chunk."""

ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class FsspecStorage(ReadOnlyStorage):
    """Files below a URL of fsspec's.

    Parameters
    ----------
    url
        Any whose scheme fsspec knows.

    Raises
    ------
    InvalidValueError
        If it knows none such, or its package is not installed.
    """

    why = "its kind of place cannot keep two writers apart"

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        scheme = scheme_of(url) or ""
        if scheme not in fsspec.available_protocols():
            raise InvalidValueError(
                f"{url} has an unknown scheme, {scheme!r}; accepted are a path, file, {', '.join(SCHEMES)}, and for "
                "reading whatever fsspec knows, such as sftp and hf"
            )
        try:
            self._files, path = fsspec.url_to_fs(self.url)
        except ImportError as err:
            raise InvalidValueError(f"{url} needs a package that is not installed: {err}") from err
        except Exception as err:
            raise StorageError(f"opening {url} failed: {_named(err)}") from err
        self._place = str(path).rstrip("/")

    def __reduce__(self) -> tuple[Any, ...]:
        """Open it anew in another process."""
        return type(self), (self.url,)

    def get(self, key: str, start: int | None = None, length: int | None = None) -> bytes | None:
        """Read the file, or a part of it."""
        size = self.size(key)
        if size is None:
            return None
        first = 0 if start is None else max(0, size + start if start < 0 else start)
        end = size if length is None else min(size, first + max(0, length))
        if end - first > LARGEST:
            raise StorageError(
                f"reading {key} of {self.url} failed: it has {size} bytes; no file of a store has more than {LARGEST}"
            )
        if first >= end:
            return b""
        whole = first == 0 and end == size
        ask = partial(self._files.cat_file, self._path(key), **({} if whole else {"start": first, "end": end}))
        found = self._asked("reading", key, ask)
        if found is not None and len(found) != end - first:
            raise StorageError(f"reading {key} of {self.url} failed: {len(found)} bytes came of {end - first}")
        return None if found is None else bytes(found)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """List files."""
        folder = prefix.rpartition("/")[0]
        place = self._path(folder) if folder else self._place
        for path in self._asked("listing", prefix or ".", partial(self._files.find, place)) or ():
            key = str(path).lstrip("/").removeprefix(self._place.lstrip("/")).lstrip("/")
            if key.startswith(prefix):
                yield key

    def size(self, key: str) -> int | None:
        """Ask for the size of a file."""
        told = self._asked("reading", key, partial(self._files.info, self._path(key)))
        if told is None or told.get("type") != "file":
            return None
        size = told.get("size")
        if size is None:
            found = self._asked("reading", key, partial(self._files.cat_file, self._path(key)))
            return None if found is None else len(found)
        return int(size)

    def children(self, prefix: str = "") -> list[str]:
        """List a folder."""
        place = self._path(prefix.strip("/")) if prefix.strip("/") else self._place
        found = self._asked("listing", prefix or ".", partial(self._files.ls, place, detail=False))
        return sorted({str(path).rstrip("/").rpartition("/")[2] for path in found or ()})

    def beside(self, suffix: str) -> "FsspecStorage":
        """Return the place of that name."""
        return FsspecStorage(self.url + suffix)

    def _path(self, key: str) -> str:
        return f"{self._place}/{key}"

    def _asked(self, doing: str, key: str, ask: Any) -> Any:
        """Ask; None where nothing is."""
        try:
            return ask()
        except ABSENT:
            return None
        # Each kind of place has errors of its own.
        except Exception as err:
            raise StorageError(f"{doing} {key} of {self.url} failed: {_named(err)}") from err


def _named(err: Exception) -> str:
    lines = str(err).strip().splitlines()
    return f"{type(err).__name__}: {lines[0][:300]}" if lines else type(err).__name__

"""Paths and URLs of stores: what a pattern such as ``runs/*.zarr`` matches, and short names."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from glob import glob
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from attlas.schemas.errors import InvalidValueError, StoreExistsError, StoreInvalidError, StoreNotFoundError
from attlas.schemas.root import RootDocument, is_store
from attlas.schemas.storage import open_storage
from attlas.schemas.storage.opening import scheme_of

__all__ = ["file_name", "is_pattern", "short_name", "short_names", "stores_at"]

WILD = re.compile(r"[*?[]")
"""What makes a path a pattern."""


def is_pattern(path: str | Path) -> bool:
    """Whether `path` stands for several stores; a path at which something is stands for itself.

    Examples
    --------
    >>> is_pattern("runs/*.zarr"), is_pattern("s3://bucket/run-[0-9].zarr"), is_pattern("cats.zarr")
    (True, True, False)
    >>> is_pattern("https://example.org/cats.zarr?version=2")
    False
    """
    text = str(path)
    scheme = scheme_of(text)
    if scheme in ("http", "https"):
        # A question mark begins a query there, in which anything may stand.
        return "*" in text.partition("?")[0]
    return WILD.search(text) is not None and not (scheme is None and Path(text).exists())


def stores_at(path: str | Path) -> list[str]:
    """Give the stores that a pattern matches, sorted; any other path as it is.

    ``*``, ``?`` and ``[...]`` match within one part of the path. What is no store is passed over, unless its metadata
    cannot be read: opening it says why.

    Raises
    ------
    StoreNotFoundError
        If the pattern matches no store.
    StorageError
        If the server does not list what it has.
    """
    if not is_pattern(path):
        return [str(path)]
    text = str(path)
    found = sorted(own for own in (glob(text) if scheme_of(text) is None else _matches(text)) if _is_store(own))
    if not found:
        raise StoreNotFoundError(f"no store matches {text}")
    return found


def file_name(path: str) -> str:
    """Give the name of a store's folder or file.

    Examples
    --------
    >>> file_name("/data/cats.zarr/"), file_name("https://example.org/cats.zarr?version=2")
    ('cats.zarr', 'cats.zarr')
    """
    plain = PurePosixPath(urlsplit(path).path if scheme_of(path) is not None else Path(path).as_posix())
    return f"{plain.parent.name}/{plain.name}" if plain.name.startswith("*") and plain.parent.name else plain.name


def short_name(path: str) -> str:
    """Give the name of a store's folder or file without its suffix; that of a pattern with the folder's before it.

    Examples
    --------
    >>> short_name("/data/cats.zarr/"), short_name("s3://bucket/cats.zarr"), short_name("runs/*.zarr")
    ('cats', 'cats', 'runs/*')
    """
    return file_name(path).removesuffix(".zip").removesuffix(".zarr")


def short_names(paths: Sequence[str]) -> list[str]:
    """Give each store a name of its own: its short one, and the whole path of those that share it.

    Examples
    --------
    >>> short_names(["a/cats.zarr", "b/cats.zarr", "b/dogs.zarr"])
    ['a/cats.zarr', 'b/cats.zarr', 'dogs']
    """
    short = [short_name(path) for path in paths]
    names = [name if short.count(name) == 1 else path for name, path in zip(short, paths, strict=True)]
    return [name if names.count(name) == 1 else f"{name} {place}" for place, name in enumerate(names)]


def _matches(url: str) -> Iterator[str]:
    """Give what a URL with a pattern matches, part by part; only folders on the way are listed."""
    parts = url.rstrip("/").split("/")
    first = next(place for place, part in enumerate(parts) if WILD.search(part))
    if first < 3:
        raise InvalidValueError(f"{url}: the name of a bucket or server cannot be a pattern")
    found = ["/".join(parts[:first])]
    for part in parts[first:]:
        if WILD.search(part):
            found = [
                f"{own}/{name}" for own in found for name in open_storage(own).children() if fnmatchcase(name, part)
            ]
        else:
            found = [f"{own}/{part}" for own in found]
    yield from found


def _is_store(path: str) -> bool:
    if is_store(path):
        return True
    try:
        RootDocument.read(open_storage(path))
    except StoreInvalidError:
        return True
    except StoreExistsError:
        pass
    return False

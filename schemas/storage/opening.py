"""From a path or URL to the storage behind it."""

import importlib
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from attlas.schemas.errors import InvalidValueError
from attlas.schemas.storage.base import Storage
from attlas.schemas.storage.cached import Cached
from attlas.schemas.storage.local import LocalStorage

__all__ = ["SCHEMES", "open_storage", "scheme_of"]

SCHEMES = {
    "s3": ("attlas.schemas.storage.object_storage", "ObjectStorage"),
    "gs": ("attlas.schemas.storage.object_storage", "ObjectStorage"),
    "gcs": ("attlas.schemas.storage.object_storage", "ObjectStorage"),
    "az": ("attlas.schemas.storage.object_storage", "ObjectStorage"),
    "abfs": ("attlas.schemas.storage.object_storage", "ObjectStorage"),
    "http": ("attlas.schemas.storage.http", "HttpStorage"),
    "https": ("attlas.schemas.storage.http", "HttpStorage"),
    "zip": ("attlas.schemas.storage.archive", "ZipStorage"),
}
"""Module and class of each scheme that has a storage of its own; fsspec knows others."""


def scheme_of(path: str | Path) -> str | None:
    """Return the scheme of a URL; None for a path of this machine.

    Examples
    --------
    >>> scheme_of("s3://bucket/cats.zarr"), scheme_of("cats.zarr"), scheme_of("C:/cats.zarr")
    ('s3', None, None)
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", str(path))
    return None if found is None else found.group(1).lower()


def open_storage(path: str | Path, *, durable: bool = True) -> Storage:
    """Open the place of a store, whether anything is there or not.

    Parameters
    ----------
    path
        A folder, ``file:`` URL, ``s3://``, ``gs://`` or ``az://`` URL; for reading also ``http(s)://``, an archive
        (``.zip``) or any URL that fsspec knows.
    durable
        Whether writing waits for the disk where it is one of this machine.

    Raises
    ------
    InvalidValueError
        If the scheme is unknown, or its package is not installed.
    """
    scheme = scheme_of(path)
    if scheme == "file":
        parts = urlsplit(str(path))
        if parts.netloc not in ("", "localhost"):
            raise InvalidValueError(f"{path} names another machine ({parts.netloc}); file:///folder is accepted")
        path, scheme = unquote(parts.path), None
    if scheme is None:
        # A shell or a library that normalises paths eats one of the slashes, and a folder "s3:" would be made.
        if (eaten := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)", str(path))) and len(eaten.group(1)) > 1:
            raise InvalidValueError(f"{path} has one slash after the scheme; give {eaten.group(1)}://...")
        if not str(path).lower().endswith(".zip"):
            return LocalStorage(Path(path), durable=durable)
        scheme = "zip"
    # A query, such as a token, may follow a name on a web server.
    bare = str(path).partition("?")[0] if scheme in ("http", "https") else str(path)
    if bare.lower().endswith(".zip"):
        scheme = "zip"
    module, name = SCHEMES.get(scheme, ("attlas.schemas.storage.fsspec_storage", "FsspecStorage"))
    try:
        made: Storage = getattr(importlib.import_module(module), name)(str(path))
    except ModuleNotFoundError as err:
        if (err.name or "").startswith("attlas"):
            raise
        raise InvalidValueError(
            f"{path} needs {err.name}, which is not installed; pip install 'attlas[remote]'"
        ) from err
    return made if made.writable or scheme == "zip" else Cached(made)

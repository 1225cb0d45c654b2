"""A store in a zip archive, for reading: on disk, or wherever parts of a file can be read."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from attlas.schemas.errors import CorruptDataError, InvalidValueError, StorageError
from attlas.schemas.storage.base import Storage
from attlas.schemas.storage.opening import open_storage, scheme_of
from attlas.schemas.storage.read_only import ReadOnlyStorage
from attlas.schemas.storage.recent import Recent

__all__ = ["ZipStorage"]

LARGEST = 2**31
"""Bytes of a member at most: a store has no larger chunk."""

KEPT = 64 * 2**20
"""Bytes of unpacked members that are kept."""

DENSEST = 1032
"""Bytes that one byte of deflate can stand for, at most."""

HEAD = struct.Struct("<4s22xHH")
"""Head of a member: its mark, and the lengths of name and extra field, which follow."""

ROOT = "zarr.json"


class ZipStorage(ReadOnlyStorage):
    """Members of an archive below the store's root, which is the archive's top or a folder there.

    Parameters
    ----------
    url
        A path or URL that ends in ``.zip``, or ``zip://`` with a path.

    Raises
    ------
    StorageError
        If there is no archive, or it is damaged.
    """

    why = "an archive is only read"

    def __init__(self, url: str) -> None:
        self.url = url
        self._holder, self._name = _holder(url)
        try:
            with zipfile.ZipFile(io.BufferedReader(_File(self._holder, self._name, url), 2**16)) as archive:
                found = archive.infolist()
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            struct.error,
            UnicodeDecodeError,
            ValueError,
            OverflowError,
        ) as err:
            raise StorageError(f"reading {url} failed: it is no zip archive, or not a whole one ({err})") from err
        self._members = {member.filename: member for member in found if not member.is_dir()}
        self._prefix = self._find_root()
        self._unpacked = Recent(KEPT, KEPT // 4)

    def _find_root(self) -> str:
        """Return the folder that the store is in."""
        if ROOT in self._members:
            return ""
        folders = [
            name.removesuffix(ROOT) for name in self._members if name.endswith("/" + ROOT) and name.count("/") == 1
        ]
        if len(folders) > 1:
            raise StorageError(
                f"reading {self.url} failed: it holds {len(folders)} stores ({', '.join(sorted(folders)[:5])}); "
                "unpack it, and open one"
            )
        return folders[0] if folders else ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Open it anew in another process."""
        return type(self), (self.url,)

    def get(self, key: str, start: int | None = None, length: int | None = None) -> bytes | None:
        """Read a member; a part of one that is stored as it is, is read alone, and its checksum is not looked at."""
        member = self._members.get(self._prefix + key)
        if member is None:
            return None
        size = member.file_size
        first = 0 if start is None else max(0, size + start if start < 0 else start)
        wanted = max(0, size - first if length is None else min(length, size - first))
        if wanted > LARGEST:
            raise StorageError(
                f"reading {key} of {self.url} failed: it has {size} bytes; no file of a store has more than {LARGEST}"
            )
        if wanted < size and member.compress_type == zipfile.ZIP_STORED:
            return self._raw(key, member, first, wanted)
        if wanted == 0:
            return b""
        data = self._unpacked.get(key, partial(self._unpack, key, member)) or b""
        return data[first : first + wanted]

    def _unpack(self, key: str, member: zipfile.ZipInfo) -> bytes:
        raw = self._raw(key, member, 0, member.compress_size)
        if member.compress_type == zipfile.ZIP_STORED:
            data = raw
        elif member.compress_type == zipfile.ZIP_DEFLATED:
            if member.file_size > LARGEST or member.file_size > DENSEST * (len(raw) + 1):
                raise self._damaged(key, f"{len(raw)} bytes cannot unpack to {member.file_size}")
            unpacker = zlib.decompressobj(-15)
            try:
                data = unpacker.decompress(raw, member.file_size + 1)
            except zlib.error as err:
                raise self._damaged(key, "it cannot be unpacked") from err
        else:
            raise StorageError(
                f"reading {key} of {self.url} failed: it is packed by method {member.compress_type}; stored and "
                "deflated members are read"
            )
        if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
            raise self._damaged(key, "it is not what its checksum says")
        return data

    def _raw(self, key: str, member: zipfile.ZipInfo, first: int, wanted: int) -> bytes:
        """Read bytes of a member as they are in the archive."""
        if member.flag_bits & 1:
            raise StorageError(
                f"reading {key} of {self.url} failed: it is encrypted; unpack the archive, and open the store"
            )
        head = self._holder.get(self._name, member.header_offset, HEAD.size) or b""
        if len(head) < HEAD.size:
            raise self._damaged(key, "the archive ends before it")
        mark, name, extra = HEAD.unpack(head)
        if mark != b"PK\3\4":
            raise self._damaged(key, "no member begins where it should")
        begin = member.header_offset + HEAD.size + name + extra
        data = self._holder.get(self._name, begin + first, wanted) if wanted else b""
        if data is None or len(data) != wanted:
            raise self._damaged(key, "the archive ends in the midst of it")
        return data

    def _damaged(self, key: str, why: str) -> CorruptDataError:
        return CorruptDataError(f"{key} of {self.url} is damaged: {why}")

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Give members."""
        for name in self._members:
            if name.startswith(self._prefix + prefix):
                yield name.removeprefix(self._prefix)

    def size(self, key: str) -> int | None:
        """Return the size of a member, unpacked."""
        member = self._members.get(self._prefix + key)
        return None if member is None else member.file_size

    def beside(self, suffix: str) -> "Storage":
        """Return a place in which nothing is."""
        return _Nothing(self.url + suffix)


class _Nothing(ReadOnlyStorage):
    """The place beside an archive."""

    why = ZipStorage.why

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, key: str, start: int | None = None, length: int | None = None) -> bytes | None:  # noqa: ARG002
        return None

    def keys(self, prefix: str = "") -> Iterator[str]:  # noqa: ARG002 - there are none
        return iter(())

    def size(self, key: str) -> int | None:  # noqa: ARG002 - there is none
        return None

    def beside(self, suffix: str) -> Storage:
        return _Nothing(self.url + suffix)


class _File(io.RawIOBase):
    """A file of a storage, as zipfile reads it."""

    def __init__(self, holder: Storage, name: str, url: str) -> None:
        super().__init__()
        size = holder.size(name)
        if size is None:
            raise StorageError(f"reading {url} failed: there is no such archive")
        self._holder = holder
        self._name = name
        self._size = size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        if place < 0:
            raise ValueError("it points before its beginning")
        self._place = place
        return place

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self._size - self._place))
        data = self._holder.get(self._name, self._place, wanted) or b"" if wanted else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def _holder(url: str) -> tuple[Storage, str]:
    """Return the place that an archive is in, and its name there."""
    scheme = scheme_of(url)
    path = url[len("zip://") :] if scheme == "zip" else url
    if scheme in ("http", "https"):
        parts = urlsplit(url)
        folder, _, name = parts.path.rpartition("/")
        return open_storage(urlunsplit(parts._replace(path=folder))), name
    folder, _, name = path.replace("\\", "/").rpartition("/")
    if not name:
        raise InvalidValueError(f"{url} names no archive; give zip:///folder/name.zip")
    if scheme not in (None, "zip"):
        return open_storage(folder), name
    return open_storage(folder or ("/" if path.startswith("/") else ".")), name

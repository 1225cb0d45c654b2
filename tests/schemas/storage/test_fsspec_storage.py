"""Whatever else fsspec knows, for reading."""

import pickle
import uuid

import fsspec
import pytest
from fsspec.registry import known_implementations

from attlas.schemas.errors import InvalidValueError, StorageError
from attlas.schemas.storage import open_storage
from attlas.schemas.storage.fsspec_storage import FsspecStorage

DATA = bytes(range(256)) * 4
FILES = {"zarr.json": b"{}", "text/8x8/g2r/c.0": DATA, "empty/c.0": b""}


@pytest.fixture
def url():
    place = f"memory://{uuid.uuid4().hex}/x.zarr"
    files = fsspec.filesystem("memory")
    for name, data in FILES.items():
        files.pipe_file(f"{place}/{name}", data)
    yield place
    files.rm(place.rpartition("/")[0], recursive=True)


def test_files_are_read(url):
    storage = open_storage(url + "/")
    for key, data in FILES.items():
        assert storage.get(key) == data
        assert storage.size(key) == len(data)
        assert storage.get(key, 1, 3) == data[1:4]
        assert storage.get(key, None, 3) == data[:3]
        assert storage.get(key, 1) == data[1:]
        assert storage.get(key, -3) == data[-3:]
        assert storage.get(key, -(10**6)) == data
        assert storage.get(key, 10**6, 3) == b""
        assert storage.get(key, 1, 0) == b""
    for key in ("nothing", "text"):
        assert storage.get(key) is None
        assert storage.get(key, 0, 3) is None
        assert storage.size(key) is None
    assert sorted(storage.keys()) == sorted(FILES)
    assert list(storage.keys("te")) == ["text/8x8/g2r/c.0"]
    assert list(storage.keys("nothing/")) == []
    assert storage.children() == ["empty", "text", "zarr.json"]
    assert storage.children("text/8x8") == ["g2r"]
    assert storage.children("nothing") == []
    again = pickle.loads(pickle.dumps(storage))  # noqa: S301 - it was made here
    assert again.get("zarr.json") == b"{}"


def test_they_are_not_written(url):
    storage = open_storage(url)
    assert not storage.writable
    says = "cannot keep two writers apart; record into a local folder or into s3://, gs:// or az://"
    for write in (lambda: storage.put("a", b""), storage.clear, storage.beside(".recording").coordinator().join):
        with pytest.raises(StorageError, match=says):
            write()
    assert storage.get("zarr.json") == b"{}"


def test_an_unknown_scheme():
    with pytest.raises(InvalidValueError, match=r"unknown scheme, 'floppy'; accepted are a path, file, s3, gs, .*sftp"):
        open_storage("floppy://x.zarr")


def test_a_scheme_whose_package_is_missing(monkeypatch):
    known = {"class": "no_such_package.Files", "err": 'Install no_such_package to use "drop"'}
    monkeypatch.setitem(known_implementations, "drop", known)
    with pytest.raises(
        InvalidValueError, match=r"drop://x.zarr needs a package that is not installed: Install no_such"
    ):
        open_storage("drop://x.zarr")


def test_failures_are_told_in_one_line(url, monkeypatch):
    storage = FsspecStorage(url)

    def fail(*_, **__):
        raise RuntimeError("the line is dead\nand long")

    monkeypatch.setattr(type(storage._files), "cat_file", fail)
    with pytest.raises(StorageError, match=r"reading zarr.json of memory://.* failed: RuntimeError: the line is dead$"):
        storage.get("zarr.json")
    monkeypatch.setattr(type(storage._files), "cat_file", lambda *_, **__: b"short")
    with pytest.raises(StorageError, match="reading zarr.json of memory://.* failed: 5 bytes came of 2"):
        storage.get("zarr.json")


def test_a_file_too_large_to_be_a_chunk_is_not_read(url, monkeypatch):
    monkeypatch.setattr("attlas.schemas.storage.fsspec_storage.LARGEST", 1000)
    with pytest.raises(StorageError, match="has 1024 bytes; no file of a store has more than 1000"):
        FsspecStorage(url).get("text/8x8/g2r/c.0")

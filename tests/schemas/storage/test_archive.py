"""A zip archive behind a storage: packed or not, at the top or in a folder, damaged in every way."""

import contextlib
import pickle
import struct
import threading
import zipfile

import pytest
from fault_proxy import FaultProxy
from web_server import Parts, Plain, serving

from attlas.schemas.errors import CorruptDataError, InvalidValueError, StorageError
from attlas.schemas.storage import open_storage
from attlas.schemas.storage.archive import ZipStorage

DATA = bytes(range(256)) * 40
FILES = {"zarr.json": b"{}", "text/8x8/g2r/c.0": DATA, "empty/c.0": b"", "ü %20.json": b"name"}


def pack(path, *, folder="", method=zipfile.ZIP_DEFLATED, files=FILES):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(folder + name, data)
    return path


@pytest.fixture(params=["stored", "deflated"])
def method(request):
    return zipfile.ZIP_STORED if request.param == "stored" else zipfile.ZIP_DEFLATED


@pytest.mark.parametrize("folder", ["", "x.zarr/"])
def test_members_are_files_of_the_store(tmp_path, method, folder):
    path = pack(tmp_path / "a b.zip", folder=folder, method=method)
    for url in (path, f"zip://{path}"):
        storage = open_storage(url)
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
        assert storage.get("text") is None
        assert storage.get("nothing", 0, 3) is None
        assert storage.size("nothing") is None
        assert sorted(storage.keys()) == sorted(FILES)
        assert list(storage.keys("text/")) == ["text/8x8/g2r/c.0"]
        assert storage.children() == sorted({"zarr.json", "text", "empty", "ü %20.json"})
        again = pickle.loads(pickle.dumps(storage))  # noqa: S301 - it was made here
        assert again.get("zarr.json") == b"{}"


def test_many_threads_read_one_archive(tmp_path, method):
    storage = open_storage(pack(tmp_path / "x.zip", method=method, files={f"c.{n}": DATA[n:] for n in range(40)}))
    wrong = []

    def read():
        wrong.extend(
            n for n in range(40) if storage.get(f"c.{n}") != DATA[n:] or storage.get(f"c.{n}", 5, 9) != DATA[n:][5:14]
        )

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_archive_is_not_written(tmp_path):
    storage = open_storage(pack(tmp_path / "x.zip"))
    assert not storage.writable
    for write in (lambda: storage.put("a", b""), storage.clear, storage.beside(".recording").coordinator().join):
        with pytest.raises(StorageError, match="an archive is only read; record into a local folder"):
            write()
    beside = storage.beside(".recording").beside("x")
    assert (beside.get("a"), beside.size("a"), list(beside.keys())) == (None, None, [])


def test_there_is_no_archive(tmp_path):
    with pytest.raises(StorageError, match="there is no such archive"):
        open_storage(tmp_path / "x.zip")
    with pytest.raises(InvalidValueError, match=r"names no archive; give zip:///folder/name.zip"):
        open_storage("zip://")


def test_a_folder_may_be_named_like_an_archive_but_is_none(tmp_path):
    (tmp_path / "x.zip").mkdir()
    with pytest.raises(StorageError, match="there is no such archive"):
        open_storage(tmp_path / "x.zip")


def test_several_stores_in_one_archive(tmp_path):
    path = pack(tmp_path / "x.zip", files={"a.zarr/zarr.json": b"{}", "b.zarr/zarr.json": b"{}"})
    with pytest.raises(StorageError, match=r"holds 2 stores \(a.zarr/, b.zarr/\); unpack it, and open one"):
        open_storage(path)


def test_what_is_no_archive(tmp_path):
    path = tmp_path / "x.zip"
    whole = pack(tmp_path / "whole.zip").read_bytes()
    for data in (b"", b"PK", b"no archive at all", whole[:-30], whole[: len(whole) // 2], bytes(200)):
        path.write_bytes(data)
        with pytest.raises(StorageError, match=r"x.zip failed: it is no zip archive, or not a whole one \("):
            open_storage(path)


def test_no_flipped_bit_gives_other_bytes(tmp_path):
    whole = pack(tmp_path / "whole.zip", files={"zarr.json": b"{}" * 40}).read_bytes()
    path = tmp_path / "x.zip"
    for place in range(len(whole)):
        for bit in (1, 128):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            with contextlib.suppress(StorageError, CorruptDataError):
                assert ZipStorage(str(path)).get("zarr.json") in (b"{}" * 40, None)


def test_a_cut_stored_member_is_told(tmp_path):
    path = pack(tmp_path / "x.zip", method=zipfile.ZIP_STORED, files={"c.0": DATA})
    storage = ZipStorage(str(path))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CorruptDataError, match=r"c.0 of .*x.zip is damaged: the archive ends in the midst of it"):
        storage.get("c.0")
    with pytest.raises(CorruptDataError, match="the archive ends in the midst of it"):
        storage.get("c.0", 5000, 10)
    path.write_bytes(b"")
    with pytest.raises(CorruptDataError, match="the archive ends before it"):
        storage.get("c.0")


def declare(path, size):
    """Have the directory say that the first member unpacks to `size` bytes."""
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\1\2")
    struct.pack_into("<I", data, place + 24, size)
    path.write_bytes(bytes(data))


def test_sizes_that_cannot_be_are_not_believed(tmp_path):
    path = pack(tmp_path / "x.zip", files={"c.0": bytes(10**6)})
    for size in (2**32 - 2, 2**31 + 5, 10**8):
        declare(path, size)
        with pytest.raises((CorruptDataError, StorageError), match=r"c.0 of .*x.zip.*bytes"):
            ZipStorage(str(path)).get("c.0")
    for size in (10**6 - 1, 10**6 + 1, 3):
        declare(path, size)
        with pytest.raises(CorruptDataError, match="it is not what its checksum says"):
            ZipStorage(str(path)).get("c.0")


def test_other_ways_of_packing_are_named(tmp_path):
    storage = open_storage(pack(tmp_path / "x.zip", method=zipfile.ZIP_BZIP2))
    with pytest.raises(StorageError, match="packed by method 12; stored and deflated members are read"):
        storage.get("zarr.json")


def test_encrypted_members_are_named(tmp_path):
    path = pack(tmp_path / "x.zip")
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\1\2")
    data[place + 8] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StorageError, match="it is encrypted; unpack the archive, and open the store"):
        ZipStorage(str(path)).get("zarr.json")


@pytest.mark.parametrize("handler", [Plain, Parts])
def test_an_archive_on_a_server_is_read_in_parts(tmp_path, handler):
    pack(tmp_path / "x.zip", files={**FILES, "large": bytes(DATA[::-1]) * 500}, method=zipfile.ZIP_STORED)
    with serving(tmp_path, handler) as url, FaultProxy(url) as between:
        storage = open_storage(f"{between.url}/x.zip?token=1")
        for key, data in FILES.items():
            assert storage.get(key) == data
        sent = [headers.get("Range") for _, _, headers in between.asked("GET")]
        assert None not in sent
        assert len(sent) < 20


def test_an_archive_in_an_object_store(tmp_path, s3_url):
    pack(tmp_path / "x.zip")
    open_storage(f"{s3_url}/folder").put("x.zip", (tmp_path / "x.zip").read_bytes())
    storage = open_storage(f"{s3_url}/folder/x.zip")
    assert storage.get("text/8x8/g2r/c.0", 3, 4) == DATA[3:7]

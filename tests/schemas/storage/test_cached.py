"""What was read last need not be asked for again."""

import pickle
import threading
import time

import pytest

from attlas.schemas.errors import StorageError
from attlas.schemas.storage.cached import Cached
from attlas.schemas.storage.memory import MemoryStorage
from attlas.schemas.storage.recent import Recent


class Counting(MemoryStorage):
    def __init__(self):
        super().__init__()
        self.asked = []

    def get(self, key, start=None, length=None):
        self.asked.append((key, start, length))
        return super().get(key, start, length)

    def size(self, key):
        self.asked.append((key, "size", None))
        return super().size(key)


@pytest.fixture
def distant():
    storage = Counting()
    storage.put("zarr.json", b"{}")
    storage.put("c.0", bytes(range(100)))
    return storage


def test_each_part_is_asked_for_once(distant):
    storage = Cached(distant)
    for _ in range(3):
        assert storage.get("c.0") == bytes(range(100))
        assert storage.get("c.0", -10) == bytes(range(90, 100))
        assert storage.get("c.0", 3, 4) == bytes(range(3, 7))
        assert storage.get("nothing") is None
        assert storage.size("c.0") == 100
        assert storage.size("nothing") is None
    assert len(distant.asked) == len(set(distant.asked)) == 6
    storage.forget()
    storage.get("c.0")
    assert len(distant.asked) == 7
    assert list(storage.keys("c")) == ["c.0"]
    assert storage.children() == ["c.0", "zarr.json"]


def test_the_root_document_is_read_anew(distant):
    storage = Cached(distant)
    storage.get("zarr.json")
    distant.put("zarr.json", b"{} ")
    assert storage.get("zarr.json") == b"{} "


def test_what_is_kept_is_bounded(distant):
    recent = Recent(5000, 2000)
    for number in range(100):
        recent.get(number, lambda: bytes(1000))
    assert sum(200 + len(data) for data in recent._kept.values()) <= 5000
    assert list(recent._kept) == [96, 97, 98, 99]
    assert recent.get(96, lambda: None) == bytes(1000)
    recent.get(100, lambda: bytes(1000))
    assert list(recent._kept) == [98, 99, 96, 100]
    recent.get("large", lambda: bytes(1900))
    assert "large" not in recent._kept


def test_threads_that_want_the_same_fetch_it_once():
    recent = Recent(10**6, 10**6)
    fetched = []

    def fetch():
        fetched.append(1)
        time.sleep(0.05)
        return b"x"

    threads = [threading.Thread(target=recent.get, args=("x", fetch)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1


def test_a_failure_is_not_kept():
    recent = Recent(10**6, 10**6)
    with pytest.raises(ZeroDivisionError):
        recent.get("x", lambda: 1 / 0)
    assert recent.get("x", lambda: b"x") == b"x"


def test_it_is_for_reading(distant):
    storage = Cached(distant)
    with pytest.raises(StorageError, match="it is open for reading"):
        storage.put("c.0", b"")
    storage.beside(".recording").put("lock", b"1")
    assert distant.beside(".recording").get("lock") == b"1"


def test_it_travels_empty(tmp_path):
    from attlas.schemas.storage.local import LocalStorage

    local = LocalStorage(tmp_path / "x.zarr")
    local.put("c.0", b"1")
    storage = Cached(local)
    assert storage.folder == tmp_path / "x.zarr"
    storage.get("c.0")
    local.put("c.0", b"2")
    again = pickle.loads(pickle.dumps(storage))  # noqa: S301 - it was made here
    assert again.get("c.0") == b"2"

"""A folder as a storage: whole or not at all, flushed on request, and whose turn it is."""

import os
import subprocess
import sys
import threading

import pytest

from attlas.schemas.errors import InvalidValueError, StorageError
from attlas.schemas.storage import open_storage
from attlas.schemas.storage.local import LocalStorage
from attlas.schemas.storage.memory import MemoryStorage


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path):
    return LocalStorage(tmp_path / "s.zarr") if request.param == "local" else MemoryStorage()


def test_bytes_come_back_whole_and_in_parts(storage):
    assert storage.get("a/b/c.0") is None
    assert storage.size("a/b/c.0") is None
    storage.put("a/b/c.0", b"0123456789")
    storage.put("zarr.json", memoryview(b"{}"), sync=False)
    storage.flush()
    assert storage.get("a/b/c.0") == b"0123456789"
    assert storage.get("a/b/c.0", 2, 3) == b"234"
    assert storage.get("a/b/c.0", 7) == b"789"
    assert storage.get("a/b/c.0", -2) == b"89"
    assert storage.get("a/b/c.0", -20) == b"0123456789"
    assert storage.size("a/b/c.0") == 10
    assert sorted(storage.keys()) == ["a/b/c.0", "zarr.json"]
    assert list(storage.keys("a/b/c")) == ["a/b/c.0"]
    assert list(storage.keys("b")) == []
    storage.put("a/b/c.0", b"")
    assert storage.get("a/b/c.0") == b""
    storage.delete("a/b/c.0")
    storage.delete("a/b/c.0")
    assert list(storage.keys()) == ["zarr.json"]
    storage.clear()
    assert list(storage.keys()) == []


def test_no_draft_is_ever_in_the_folder(tmp_path, monkeypatch):
    storage = LocalStorage(tmp_path / "s.zarr")
    seen = []
    replace = os.replace

    def watched(source, target, **options):
        seen.append(sorted(storage.keys()))
        replace(source, target, **options)

    monkeypatch.setattr(os, "replace", watched)
    storage.put("a", b"1")
    storage.put("b", b"2")
    assert all(set(names) <= {"a", "b"} for names in seen)


def test_what_is_flushed_and_what_is_not(tmp_path, monkeypatch):
    flushed = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    storage = LocalStorage(tmp_path / "s.zarr")
    storage.put("a/c.0", b"1", sync=False)
    assert flushed == []
    storage.flush()
    assert {os.path.basename(name) for name in flushed} >= {"c.0", "a", "s.zarr"}
    flushed.clear()
    storage.put("b", b"1")
    assert len(flushed) == 2, "the file, before it is moved, and the folder that names it"
    flushed.clear()
    hasty = LocalStorage(tmp_path / "t.zarr", durable=False)
    hasty.put("a", b"1")
    hasty.put("b", b"1", sync=False)
    hasty.flush()
    assert flushed == []


def test_only_regular_files_are_read(tmp_path):
    storage = LocalStorage(tmp_path / "s.zarr")
    storage.put("a", b"1")
    os.mkfifo(tmp_path / "s.zarr" / "fifo")
    with pytest.raises(StorageError, match="reading fifo of .* failed: it is no regular file"):
        storage.get("fifo")
    os.truncate(tmp_path / "s.zarr" / "a", 2**33)
    with pytest.raises(StorageError, match="it has 8589934592 bytes"):
        storage.get("a")
    assert storage.get("a", 0, 1) == b"1"
    (tmp_path / "s.zarr" / "folder").mkdir()
    assert storage.get("folder") is None


def test_a_failing_disk_is_named(tmp_path, monkeypatch):
    storage = LocalStorage(tmp_path / "s.zarr")
    storage.put("a", b"1")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="writing b of .*s.zarr failed: No space left on device") as caught:
        storage.put("b", b"1")
    assert caught.value.errno == 28
    assert list(storage.keys()) == ["a"]
    assert not list((tmp_path / "s.zarr.recording/drafts").iterdir())


def test_a_link_is_followed_once(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "s.zarr").symlink_to(tmp_path / "disk/real.zarr")
    storage = LocalStorage(tmp_path / "s.zarr")
    storage.put("a", b"1")
    assert sorted(entry.name for entry in (tmp_path / "disk").iterdir()) == ["real.zarr", "real.zarr.recording"]
    assert storage.url == str(tmp_path / "s.zarr")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("s3:/bucket/x.zarr", "has one slash after the scheme; give s3://"),
        ("file://elsewhere/x.zarr", "names another machine"),
    ],
)
def test_paths_that_mean_something_else(path, words):
    with pytest.raises(InvalidValueError, match=words):
        open_storage(path)


def test_a_file_url_is_a_folder(tmp_path):
    storage = open_storage(f"file://{tmp_path}/with%20space.zarr")
    storage.put("a", b"1")
    assert (tmp_path / "with space.zarr/a").read_bytes() == b"1"


# Turns


def test_one_writer_at_a_time(storage):
    one, other = (storage.beside(".recording").coordinator() for _ in range(2))
    with one.turn() as mine, one.turn() as again:
        assert mine
        assert again

        def try_it():
            with other.turn(wait=False) as got:
                results.append(got)

        results = []
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        assert results == [False]
    with other.turn(wait=False) as got:
        assert got


def test_writers_live_until_they_leave(storage):
    one, other = (storage.beside(".recording").coordinator() for _ in range(2))
    name = one.join()
    assert other.alive(name)
    assert other.others("")
    assert not one.others(name)
    assert not other.alive("nobody")
    assert not other.alive("../x")
    one.leave(name)
    assert not other.alive(name)
    assert not other.others("")


def test_a_killed_process_holds_nothing(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from attlas.schemas.storage import open_storage\n"
        "turns = open_storage(sys.argv[1]).coordinator()\n"
        "print(turns.join(), flush=True)\n"
        "with turns.turn(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "s.zarr.recording"], capture_output=True, text=True)
    assert done.returncode == -9
    turns = open_storage(tmp_path / "s.zarr.recording").coordinator()
    with turns.turn(wait=False) as mine:
        assert mine
    assert not turns.alive(done.stdout.strip())


CROWD = """
import sys
from pathlib import Path
from attlas.schemas.storage import open_storage

path = Path(sys.argv[1])
for number in range(60):
    notes = open_storage(path)
    turns = notes.coordinator()
    with turns.turn():
        # Opening fails where another process is inside.
        mark = open(path.with_suffix(".mark"), "x")
        name = turns.join()
        notes.put(f"claims/{name}", b"")
        assert list(notes.keys(f"claims/{name}"))
        mark.close()
        path.with_suffix(".mark").unlink()
    with turns.turn():
        assert notes.get(f"claims/{name}") == b"", "another writer took it away"
        notes.delete(f"claims/{name}")
        if not turns.others(name):
            turns.leave(name)
            notes.clear()
        turns.leave(name)
"""


@pytest.mark.slow
def test_writers_that_come_and_go_never_meet_and_leave_nothing(tmp_path):
    path = tmp_path / "s.recording"
    crowd = [subprocess.Popen([sys.executable, "-c", CROWD, str(path)]) for _ in range(3)]
    assert [process.wait() for process in crowd] == [0, 0, 0]
    assert not path.exists()

"""Whole stores in an object store, behind a web server and in an archive."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading

import fsspec
import pytest
from small_store import expected, make, numbers, record, record_all, record_and_tell, record_until_killed
from web_server import Parts, Plain, Unlisted, serving

from attlas.schemas import open_store, validate_store
from attlas.schemas.errors import RunTakenError, StorageError, StoreExistsError
from attlas.schemas.storage import open_storage
from attlas.schemas.storage.cached import Cached

SPAWN = multiprocessing.get_context("spawn")
RUNS = ["1", "2", "3"]


@pytest.fixture
def local(tmp_path):
    store = make(tmp_path / "x.zarr")
    for run in RUNS:
        record(store, run)
    store.finish()
    return tmp_path / "x.zarr"


def left_beside(url):
    return list(open_storage(f"{url}.recording").keys())


def test_an_object_store_holds_what_a_folder_does(local, s3_url):
    url = f"{s3_url}/x.zarr"
    store = make(url)
    for run in RUNS:
        record(store, run)
    store.finish()
    assert numbers(open_store(url)) == numbers(open_store(local)) == expected(RUNS)
    assert sorted(open_storage(url).keys()) == sorted(open_storage(local).keys())
    assert left_beside(url) == []
    assert validate_store(url, deep=True) == []
    with pytest.raises(StoreExistsError):
        make(url)


def test_a_server_in_trouble_delays_and_changes_nothing(s3_proxy, s3_url, monkeypatch):
    url = f"{s3_url}/x.zarr"
    monkeypatch.setenv("ATTLAS_RETRY_SECONDS", "1")
    for how, every in (("answer", 19), ("lose", 23), ("close", 29), ("drop", 31), ("truncate", 37)):
        s3_proxy.add(how, times=10**6, every=every)
    store = make(url)
    for run in RUNS:
        record(store, run)
    store.finish()
    assert min(fault.met for fault in s3_proxy.faults) > 1
    s3_proxy.clear()
    assert numbers(open_store(url)) == expected(RUNS)
    assert validate_store(url, deep=True) == []
    assert left_beside(url) == []


@pytest.mark.parametrize("skip", [3, 20, 60, 90])
def test_a_server_that_goes_away_is_an_error_and_what_was_complete_stays(s3_proxy, s3_url, monkeypatch, skip):
    url = f"{s3_url}/x.zarr"
    store = make(url)
    record(store, "1")
    store.finish()
    s3_proxy.add("answer", times=10**6, skip=skip)
    monkeypatch.setenv("ATTLAS_RETRY_SECONDS", "0.2")
    told = SPAWN.Queue()
    process = SPAWN.Process(target=record_and_tell, args=(url, RUNS[1:], told))
    process.start()
    assert "503 Service Unavailable" in told.get(timeout=60)
    process.join()
    s3_proxy.clear()
    monkeypatch.setenv("ATTLAS_RETRY_SECONDS", "5")
    seen = numbers(open_store(url))
    assert seen == expected(seen)
    assert "1" in seen
    again = open_store(url)
    for run in RUNS[1:]:
        # What was finished and could not be made visible is complete as soon as anybody writes.
        with contextlib.suppress(RunTakenError):
            record(again, run)
    again.finish()
    assert numbers(open_store(url)) == expected(RUNS)
    assert validate_store(url, deep=True) == []
    assert left_beside(url) == []


def test_processes_record_at_once(s3_url):
    url = f"{s3_url}/x.zarr"
    make(url)
    parts = [["1", "2"], ["3", "4"], ["5", "6"]]
    processes = [SPAWN.Process(target=record_all, args=(url, part)) for part in parts]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
        assert process.exitcode == 0
    assert numbers(open_store(url)) == expected([run for part in parts for run in part])
    assert validate_store(url, deep=True) == []
    assert left_beside(url) == []


def test_threads_with_stores_of_their_own_record_at_once(s3_url):
    url = f"{s3_url}/x.zarr"
    make(url)
    parts = [["1", "2"], ["3", "4"], ["5", "6"]]
    threads = [threading.Thread(target=record_all, args=(url, part)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(open_store(url)) == expected([run for part in parts for run in part])
    assert left_beside(url) == []


def test_a_killed_recorder_loses_nothing_and_another_goes_on_at_once(s3_url):
    url = f"{s3_url}/x.zarr"
    make(url)
    ready = SPAWN.Queue()
    process = SPAWN.Process(target=record_until_killed, args=(url, ["1", "2"], ready))
    process.start()
    ready.get(timeout=60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert numbers(open_store(url)) == expected(["1", "2"])
    store = open_store(url)
    record(store, "99")
    store.finish()
    assert numbers(open_store(url)) == expected(["1", "2", "99"])
    assert validate_store(url, deep=True) == []
    assert left_beside(url) == []


@pytest.mark.parametrize("handler", [Plain, Unlisted, Parts])
def test_a_store_behind_a_web_server(local, handler):
    with serving(local.parent, handler) as url:
        store = open_store(f"{url}/x.zarr")
        assert numbers(store) == expected(RUNS)
        with pytest.raises(StorageError, match="a web server is only read; record into a local folder"):
            store.claim("4", prompt="", seed=4)


@pytest.mark.parametrize("top", ["", "x.zarr"])
def test_a_store_in_an_archive(local, tmp_path, top):
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path if top else local, top or None)
    assert numbers(open_store(tmp_path / "packed.zip")) == expected(RUNS)
    with serving(tmp_path, Parts) as url:
        assert numbers(open_store(f"{url}/packed.zip")) == expected(RUNS)


def test_a_store_that_fsspec_reaches(local):
    files = fsspec.filesystem("memory")
    files.put(str(local), "elsewhere/x.zarr", recursive=True)
    try:
        assert numbers(open_store("memory://elsewhere/x.zarr")) == expected(RUNS)
    finally:
        files.rm("elsewhere", recursive=True)


def test_what_is_kept_is_not_asked_for_again(local, s3_proxy, s3_url):
    url = f"{s3_url}/x.zarr"
    place = open_storage(url)
    for key in open_storage(local).keys():  # noqa: SIM118 - it is no dictionary
        place.put(key, (local / key).read_bytes())
    store = open_store(Cached(open_storage(url)))
    assert numbers(store) == expected(RUNS)
    s3_proxy.clear()
    assert numbers(store) == expected(RUNS)
    assert s3_proxy.asked() == []

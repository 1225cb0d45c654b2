"""Turns in an object store: one writer at a time, whoever dies, stands still or is not heard."""

import gc
import json
import multiprocessing
import os
import signal
import threading
import time

import pytest
from turn_takers import PATIENCE, count, count_ten, storage_at, take_and_end, take_and_stay

from attlas.schemas.errors import StorageError
from attlas.schemas.storage import object_turns
from attlas.schemas.storage.object_storage import ObjectStorage
from attlas.schemas.storage.patience import Patience

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def url(s3_url):
    return f"{s3_url}/x.zarr.recording"


@pytest.fixture
def elsewhere(monkeypatch):
    """Writers of this machine look like those of others."""
    monkeypatch.setattr(object_turns, "this_process", dict)


def test_threads_with_turns_of_their_own_lose_nothing(url):
    storage = storage_at(url)
    threads = [threading.Thread(target=count, args=(storage, storage.coordinator(), 10)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.get("count") == b"40"


def test_threads_that_share_turns_lose_nothing(url):
    storage = storage_at(url)
    turns = storage.coordinator()
    threads = [threading.Thread(target=count, args=(storage, turns, 10)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.get("count") == b"40"


def test_processes_lose_nothing(url):
    processes = [SPAWN.Process(target=count_ten, args=(url,)) for _ in range(2)]
    for process in processes:
        process.start()
    count_ten(url)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert storage_at(url).get("count") == b"30"


def test_faults_of_the_server_let_nobody_in_twice(s3_proxy, url):
    storage = storage_at(url)
    for how, method in (("lose", "PUT"), ("drop", "PUT"), ("answer", ".*"), ("close", ".*")):
        s3_proxy.add(how, method=method, times=4, skip=7)
    threads = [threading.Thread(target=count, args=(storage, storage.coordinator(), 8)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.get("count") == b"24"


def test_a_thread_that_has_the_turn_may_take_it_again(url):
    turns = storage_at(url).coordinator()
    with turns.turn() as outer, turns.turn() as inner, turns.turn(wait=False) as innermost:
        assert outer
        assert inner
        assert innermost
    with storage_at(url).coordinator().turn(wait=False) as mine:
        assert mine


def test_another_may_come_before_it_is_known_that_the_turn_is_free(s3_proxy, url):
    one, other = storage_at(url).coordinator(), storage_at(url).coordinator()
    with one.turn():
        count(storage_at(url), one, 1)
        # The server frees the lock, the answer is lost, and the next try comes too late.
        s3_proxy.add("lose", method="PUT", path="/lock")
        s3_proxy.add("delay", method="PUT", path="/lock", seconds=1)
        thread = threading.Thread(target=count, args=(storage_at(url), other, 1))
        thread.start()
    thread.join()
    assert storage_at(url).get("count") == b"2"


def test_who_does_not_wait_goes_without(url):
    one, other = storage_at(url).coordinator(), storage_at(url).coordinator()
    with one.turn():
        with other.turn(wait=False) as mine:
            assert not mine
        taken = []
        thread = threading.Thread(target=lambda: taken.append(one.turn(wait=False).__enter__()))
        thread.start()
        thread.join()
        assert taken == [False]
    with other.turn(wait=False) as mine:
        assert mine


def test_an_error_inside_frees_the_turn(url):
    with pytest.raises(KeyError), storage_at(url).coordinator().turn():
        raise KeyError
    with storage_at(url).coordinator().turn(wait=False) as mine:
        assert mine


def test_writers_come_and_go(url):
    one, other = storage_at(url).coordinator(), storage_at(url).coordinator()
    first = one.join()
    assert other.alive(first)
    assert one.alive(first)
    assert not one.others(first)
    second = other.join()
    assert one.others(first)
    assert other.others(second)
    other.leave(second)
    assert not one.alive(second)
    assert not one.others(first)
    assert not one.alive("../x")
    assert not one.alive("unknown")


def test_signs_of_life_go_on_for_longer_than_a_lease(url, elsewhere):
    one, other = storage_at(url).coordinator(), storage_at(url).coordinator()
    name = one.join()
    with one.turn():
        time.sleep(4.5)
        with other.turn(wait=False) as mine:
            assert not mine
    assert other.alive(name)


def test_a_writer_who_gives_no_sign_is_dead_after_its_lease(url, elsewhere):
    one, other = storage_at(url, lease=1.0).coordinator(), storage_at(url).coordinator()
    name = one.join()
    turn = one.turn()
    turn.__enter__()
    one._heart()
    assert other.alive(name)
    began = time.monotonic()
    with other.turn() as mine:
        assert mine
        assert 0.5 < time.monotonic() - began < 6
        assert not other.alive(name)
        assert not other.others("")
    with pytest.raises(StorageError, match="this process stood still, or reached no server, for more than 1 s"):
        turn.__exit__(None, None, None)


def test_who_stood_still_writes_nothing_more(url, elsewhere):
    store = ObjectStorage(url.removesuffix(".recording"), patience=PATIENCE, lease=1.0)
    store.put("zarr.json", b"before")
    one, other = store.beside(".recording").coordinator(), storage_at(url).coordinator()
    turn = one.turn()
    turn.__enter__()
    one._heart()
    with other.turn():
        pass
    for write in (lambda: store.put("zarr.json", b"late"), lambda: store.delete("zarr.json"), store.clear):
        with pytest.raises(StorageError, match="another writer may have taken its turn"):
            write()
    with pytest.raises(StorageError, match="another writer may have taken its turn"):
        turn.__exit__(None, None, None)
    assert store.get("zarr.json") == b"before"
    store.put("zarr.json", b"after")


def test_who_stood_still_while_nobody_came_goes_on(url, elsewhere):
    store = ObjectStorage(url.removesuffix(".recording"), patience=PATIENCE, lease=0.5)
    turns = store.beside(".recording").coordinator()
    with turns.turn():
        turns._heart()
        time.sleep(0.8)
        store.put("zarr.json", b"late")
    assert store.get("zarr.json") == b"late"


def test_a_killed_writer_of_this_machine_is_dead_at_once(url):
    ready = SPAWN.Queue()
    process = SPAWN.Process(target=take_and_stay, args=(url, ready))
    process.start()
    name = ready.get(timeout=30)
    turns = storage_at(url, lease=600).coordinator()
    assert turns.alive(name)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not turns.alive(name)
    began = time.monotonic()
    with turns.turn():
        assert 0.5 < time.monotonic() - began < 5
    assert not turns.others("")


def test_python_ends_in_peace_with_a_turn_taken(url):
    process = SPAWN.Process(target=take_and_end, args=(url,))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    with storage_at(url).coordinator().turn() as mine:
        assert mine


def test_the_last_one_may_clear_the_place_while_another_comes(url):
    storage = storage_at(url)
    one, other = storage.coordinator(), storage_at(url).coordinator()
    name = one.join()
    joined = []
    with one.turn():
        comer = threading.Thread(target=lambda: joined.append(other.join()))
        comer.start()
        time.sleep(0.2)
        one.leave(name)
        storage.clear()
        comer.join(10)
        # Longer than signs of life are apart: one that finds no lock is no loss.
        time.sleep(1)
    assert one.alive(joined[0])
    with one.turn(wait=False) as mine:
        assert mine
    other.leave(joined[0])


def test_what_is_not_used_gives_no_signs(url):
    turns = storage_at(url).coordinator()
    turns.join()
    heart = turns._heart
    assert heart.alive
    del turns
    gc.collect()
    assert not heart.alive


def test_a_lock_that_nobody_can_read_is_taken_after_a_lease(url, elsewhere):
    storage_at(url).put("lock", b"\xff")
    with storage_at(url, lease=0.5).coordinator().turn(wait=False) as mine:
        assert not mine
    with storage_at(url, lease=0.5).coordinator().turn() as mine:
        assert mine
        assert json.loads(storage_at(url).get("lock"))["lease"] == 0.5


@pytest.mark.parametrize("fault", [{"how": "unconditional"}, {"how": "answer", "status": 501, "body": b""}])
def test_a_server_without_conditional_writes_is_refused(s3_proxy, url, fault):
    s3_proxy.add(**fault, method="PUT", times=10**6)
    turns = ObjectStorage(url, patience=Patience(0.3, 1, 0.01, 0.1)).coordinator()
    with pytest.raises(StorageError, match="no notice of the conditions of a write .*; record into a local folder"):
        turns.join()
    s3_proxy.clear()
    assert list(storage_at(url).keys()) == []


def test_a_server_in_trouble_is_not_taken_for_one_without_conditional_writes(s3_proxy, url):
    s3_proxy.add("answer", times=10**6)
    turns = ObjectStorage(url, patience=Patience(0.3, 1, 0.01, 0.1)).coordinator()
    with pytest.raises(StorageError, match="503 Service Unavailable"):
        turns.join()

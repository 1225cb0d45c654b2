"""An object store behind a storage: parts, names, and every way in which a server fails."""

import multiprocessing
import os
import pickle
import time

import pytest

from attlas.schemas.errors import InvalidValueError, StorageError
from attlas.schemas.storage import open_storage
from attlas.schemas.storage.object_storage import ObjectStorage
from attlas.schemas.storage.patience import Patience

DATA = bytes(range(256)) * 40


@pytest.fixture
def storage(s3_url):
    return open_storage(f"{s3_url}/a folder/x.zarr")


def test_parts_are_those_of_a_file(storage):
    storage.put("unet/weights/c.0", DATA)
    assert storage.get("unet/weights/c.0") == DATA
    assert storage.get("unet/weights/c.0", 10) == DATA[10:]
    assert storage.get("unet/weights/c.0", 10, 20) == DATA[10:30]
    assert storage.get("unet/weights/c.0", None, 20) == DATA[:20]
    assert storage.get("unet/weights/c.0", -20) == DATA[-20:]
    assert storage.get("unet/weights/c.0", -20, 5) == DATA[-20:-15]
    assert storage.get("unet/weights/c.0", -(10**6)) == DATA
    assert storage.get("unet/weights/c.0", len(DATA) - 3, 10) == DATA[-3:]
    assert storage.get("unet/weights/c.0", len(DATA) + 3, 10) == b""
    assert storage.get("unet/weights/c.0", 3, 0) == b""
    assert storage.size("unet/weights/c.0") == len(DATA)


def test_what_is_empty_has_empty_parts(storage):
    storage.put("creating", b"")
    assert storage.get("creating") == b""
    assert storage.get("creating", -4) == b""
    assert storage.get("creating", 0, 4) == b""
    assert storage.size("creating") == 0


def test_nothing_is_there(storage):
    assert storage.get("zarr.json") is None
    assert storage.get("zarr.json", 3, 4) is None
    assert storage.get("zarr.json", 3, 0) is None
    assert storage.get("zarr.json", -4) is None
    assert storage.size("zarr.json") is None
    storage.delete("zarr.json")
    assert list(storage.keys()) == []


def test_names(storage, s3_url):
    for key in ("claims/1.json", "claims/10.json", "claim", "a b/ü%20#?.json"):
        storage.put(key, key.encode())
    open_storage(f"{s3_url}/a folder/x.zarr2").put("claims/2.json", b"")
    assert sorted(storage.keys()) == ["a b/ü%20#?.json", "claim", "claims/1.json", "claims/10.json"]
    assert sorted(storage.keys("claims/")) == ["claims/1.json", "claims/10.json"]
    assert sorted(storage.keys("claims/1")) == ["claims/1.json", "claims/10.json"]
    assert sorted(storage.keys("claim")) == ["claim", "claims/1.json", "claims/10.json"]
    assert storage.get("a b/ü%20#?.json") == "a b/ü%20#?.json".encode()
    assert storage.children() == ["a b", "claim", "claims"]
    assert storage.children("claims") == ["1.json", "10.json"]
    assert storage.children("nothing/") == []
    storage.delete("claim")
    assert storage.size("claim") is None


def test_beside_and_clear(storage):
    notes = storage.beside(".recording")
    assert notes.url == storage.url + ".recording"
    notes.put("lock", b"1")
    notes.put("claims/1.json", b"1")
    storage.put("zarr.json", b"{}")
    notes.clear()
    notes.clear()
    assert list(notes.keys()) == []
    assert storage.get("zarr.json") == b"{}"


def test_clearing_takes_more_than_a_batch(storage, monkeypatch):
    monkeypatch.setattr("attlas.schemas.storage.object_storage.BATCH", 4)
    for number in range(10):
        storage.put(f"c.{number}", b"")
    assert len(list(storage.keys())) == 10
    storage.clear()
    assert list(storage.keys()) == []


def test_large_objects_go_in_parts_and_arrive_whole(storage):
    data = os.urandom(2**20) * 40
    storage.put("large", memoryview(data).cast("f"))
    assert storage.get("large") == data
    assert storage.get("large", 35 * 2**20, 100) == data[35 * 2**20 :][:100]


def test_an_object_too_large_to_be_a_chunk_is_not_read(storage, monkeypatch):
    monkeypatch.setattr("attlas.schemas.storage.object_storage.LARGEST", 1000)
    storage.put("large", bytes(1001))
    with pytest.raises(StorageError, match="has 1001 bytes; no file of a store has more than 1000"):
        storage.get("large")
    assert storage.get("large", 10, 20) == bytes(20)


def test_it_travels_to_other_processes(storage):
    storage.put("zarr.json", b"{}")
    again = pickle.loads(pickle.dumps(storage))  # noqa: S301 - it was made here
    assert again.get("zarr.json") == b"{}"


def _read_in_child(url, answer):
    try:
        open_storage(url).get("zarr.json")
    except StorageError as err:
        answer.put(str(err))
    else:
        answer.put("read")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_is_told_so_and_does_not_wait_for_ever(storage):
    storage.put("zarr.json", b"{}")
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    child = context.Process(target=_read_in_child, args=(storage.url, answer))
    child.start()
    assert "'spawn' or 'forkserver'" in answer.get(timeout=20)
    child.join()


@pytest.mark.parametrize("url", ["s3://", "s3://bucket", "s3://bucket/", "s3:///x.zarr"])
def test_a_url_without_a_place(url):
    with pytest.raises(InvalidValueError, match=r"names no place in a bucket; give s3://bucket/name.zarr"):
        open_storage(url)


def test_other_clouds_are_known(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    for url in ("gs://b/x", "gcs://b/x", "az://b/x", "abfs://b/x", "abfs://b@account.dfs.core.windows.net/y/x"):
        assert open_storage(url).beside(".recording").url == f"{url}.recording"


def test_azure_without_an_account(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(InvalidValueError, match=r"az://b cannot be opened: .*Account must be specified"):
        open_storage("az://b/x")


def test_the_bucket_is_missing(s3_url):
    storage = open_storage("s3://attlas-elsewhere/x.zarr")
    for ask in (lambda: storage.get("a"), lambda: storage.put("a", b""), lambda: storage.delete("a")):
        with pytest.raises(StorageError, match="there is no bucket 'attlas-.*' at this server; make it first"):
            ask()
    with pytest.raises(StorageError, match="there is no bucket"):
        list(storage.keys())


OPERATIONS = {
    "reading c.0": lambda s: s.get("c.0"),
    "reading c.0 ": lambda s: s.get("c.0", 5, 10),
    "reading c.0  ": lambda s: s.get("c.0", -10),
    "reading c.0   ": lambda s: s.size("c.0"),
    "writing c.0": lambda s: s.put("c.0", DATA),
    "removing c.1": lambda s: s.delete("c.1"),
    "listing .": lambda s: list(s.keys()),
}
RESULTS = [DATA, DATA[5:15], DATA[-10:], len(DATA), None, None, ["c.0"]]


@pytest.mark.parametrize("fault", ["answer", "lose", "close", "drop", "truncate"])
@pytest.mark.parametrize(("name", "result"), [*zip(OPERATIONS, RESULTS, strict=True)])
def test_what_fails_twice_is_done(storage_behind, s3_proxy, fault, name, result):
    storage_behind.put("c.0", DATA)
    s3_proxy.add(fault, times=2)
    assert OPERATIONS[name](storage_behind) == result
    assert storage_behind.get("c.0") == DATA


@pytest.fixture
def impatient(s3_proxy, s3_url):
    return ObjectStorage(f"{s3_url}/x.zarr", patience=Patience(0.15, 1, 0.01, 0.05))


@pytest.fixture
def storage_behind(s3_proxy, s3_url):
    return ObjectStorage(f"{s3_url}/x.zarr", patience=Patience(10, 10, 0.01, 0.1))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"how": "answer"}, r"the server answered 503 Service Unavailable.* to each of \d+ tries in [\d.]+ s"),
        (
            {"how": "answer", "status": 500, "body": b""},
            r"the server answered 500 Internal Server Error to each",
        ),
        ({"how": "answer", "status": 429, "body": b""}, r"the server answered 429 Too Many Requests to each of \d+"),
        ({"how": "close"}, r"no whole answer came from http://127.0.0.1:\d+ in .*ATTLAS_RETRY_SECONDS"),
        ({"how": "delay", "seconds": 1.2}, r"no whole answer came from http://127.0.0.1:\d+ in .*ATTLAS_RETRY_SECONDS"),
        (
            {"how": "answer", "status": 403, "body": b""},
            "the server refused access: 403 Forbidden; check the",
        ),
        (
            {"how": "answer", "status": 401, "body": b""},
            "the server refused access: 401 Unauthorized; check",
        ),
        (
            {"how": "answer", "status": 301, "body": b""},
            "the bucket 'attlas-.*' is in another region; set AWS_REGION to it",
        ),
        ({"how": "answer", "status": 400, "body": b""}, "the server answered 400 Bad Request$"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_goes_on_failing_is_an_error_in_words_in_time(storage_behind, impatient, s3_proxy, fault, says, name):
    storage_behind.put("c.0", DATA)
    s3_proxy.add(**fault, times=10**6)
    began = time.monotonic()
    with pytest.raises(StorageError, match=f"^{name.strip()} of s3://.*/x.zarr failed: {says}") as caught:
        OPERATIONS[name](impatient)
    assert time.monotonic() - began < 6
    assert "\n" not in str(caught.value)
    assert "Generic" not in str(caught.value)


def test_slow_down_is_told_with_the_servers_own_words(impatient, s3_proxy):
    s3_proxy.add("answer", times=10**6)
    with pytest.raises(StorageError, match=r"503 Service Unavailable \(SlowDown: Please reduce your request rate.\)"):
        impatient.get("c.0")


def test_nobody_is_there(s3_url, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage = ObjectStorage(f"{s3_url}/x.zarr", patience=Patience(0.2, 1, 0.01, 0.1))
    with pytest.raises(StorageError, match="no whole answer came from http://127.0.0.1:9 in"):
        storage.get("zarr.json")


def test_a_put_whose_answer_is_lost_is_whole_or_not_there(storage_behind, impatient, s3_proxy):
    storage_behind.put("c.0", b"before")
    s3_proxy.add("drop", method="PUT", times=10**6)
    with pytest.raises(StorageError, match="^writing c.0"):
        impatient.put("c.0", DATA)
    s3_proxy.clear()
    assert storage_behind.get("c.0") == DATA


def test_parts_of_a_large_object_that_fail_are_sent_again(s3_url, s3_proxy):
    storage = ObjectStorage(f"{s3_url}/x.zarr", patience=Patience(20, 20, 0.01, 0.1))
    data = os.urandom(2**20) * 33
    s3_proxy.add("answer", method="PUT", times=2)
    storage.put("large", data)
    assert storage.get("large") == data


def test_a_server_without_ranges_costs_the_whole_but_gives_the_part(storage_behind, s3_proxy):
    storage_behind.put("c.0", DATA)
    for asked in ((10, 20), (10, None), (-10, None)):
        s3_proxy.add("whole")
        first = asked[0]
        expected = DATA[first:] if asked[1] is None else DATA[first : first + asked[1]]
        assert storage_behind.get("c.0", *asked) == expected


def test_conditional_writes(storage):
    won, first = storage.put_if("lock", b"1", None)
    assert won
    lost, seen = storage.put_if("lock", b"2", None)
    assert not lost
    assert seen.data == b"1"
    assert seen.mode() == first.mode()
    won, second = storage.put_if("lock", b"3", seen)
    assert won
    lost, seen = storage.put_if("lock", b"4", first)
    assert not lost
    assert seen.data == b"3"
    storage.delete("lock")
    assert storage.put_if("lock", b"5", second) == (False, None)


@pytest.mark.parametrize("fault", ["answer", "lose", "close", "drop"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_conditional_write_is_known_by_its_bytes_whatever_became_of_the_answer(
    storage_behind, s3_proxy, fault, times
):
    s3_proxy.add(fault, method="PUT", times=times)
    won, first = storage_behind.put_if("lock", b"1", None)
    assert won
    s3_proxy.add(fault, method="PUT", times=times)
    won, _ = storage_behind.put_if("lock", b"2", first)
    assert won
    s3_proxy.add(fault, method="PUT", times=times)
    assert storage_behind.put_if("lock", b"3", first)[0] is False
    assert storage_behind.get("lock") == b"2"


def test_two_at_once_are_asked_to_try_again(storage_behind, s3_proxy):
    s3_proxy.add("answer", method="PUT", status=409, body=b"<Error><Code>ConditionalRequestConflict</Code></Error>")
    assert storage_behind.put_if("lock", b"1", None)[0]


def test_waiting_is_set_by_the_environment(monkeypatch):
    monkeypatch.setenv("ATTLAS_RETRY_SECONDS", "5")
    assert Patience.from_environment().retries == 5
    monkeypatch.setenv("ATTLAS_RETRY_SECONDS", "soon")
    with pytest.raises(InvalidValueError, match="ATTLAS_RETRY_SECONDS is 'soon'; a number of seconds is accepted"):
        Patience.from_environment()

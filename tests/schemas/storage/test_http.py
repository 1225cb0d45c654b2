"""A web server behind a storage: with and without parts, pages of folders and good days."""

import base64
import pickle
import threading
import time

import pytest
from fault_proxy import FaultProxy
from web_server import Parts, Plain, Unlisted, serving

from attlas.schemas.errors import InvalidValueError, StorageError
from attlas.schemas.storage import open_storage
from attlas.schemas.storage.http import HttpStorage
from attlas.schemas.storage.local import LocalStorage
from attlas.schemas.storage.patience import Patience

DATA = bytes(range(256)) * 40
LITTLE = Patience(0.15, 1, 0.01, 0.05)
MUCH = Patience(10, 10, 0.01, 0.05)


@pytest.fixture
def local(tmp_path):
    storage = LocalStorage(tmp_path / "a store.zarr")
    storage.put("zarr.json", b"{}")
    storage.put("text/8x8/g2r/c.0.0", DATA)
    storage.put("text/8x8/ü %20.json", b"name")
    storage.put("complete/c.0", b"")
    return storage


@pytest.fixture(params=[Plain, Unlisted, Parts])
def address(request, tmp_path):
    with serving(tmp_path, request.param) as url:
        yield f"{url}/a%20store.zarr"


@pytest.fixture
def proxy(tmp_path):
    with serving(tmp_path, Parts) as url, FaultProxy(url) as between:
        yield between


@pytest.fixture
def behind(proxy, local):
    return HttpStorage(f"{proxy.url}/a%20store.zarr", patience=MUCH)


@pytest.fixture
def impatient(proxy, local):
    return HttpStorage(f"{proxy.url}/a%20store.zarr", patience=LITTLE)


SPANS = [(None, None), (0, 10), (10, 20), (None, 20), (10, None), (-20, None), (-20, 5), (-(10**6), None)]
SPANS += [(len(DATA) - 3, 10), (len(DATA) + 3, 10), (3, 0)]


def test_parts_are_those_of_the_file(local, address):
    storage = open_storage(address)
    for key in ("zarr.json", "text/8x8/g2r/c.0.0", "text/8x8/ü %20.json", "complete/c.0", "text", "nothing", "text/x"):
        for span in SPANS:
            expected = local.get(key, *span)
            if expected is not None and span == (-20, 5):
                expected = local.get(key, -20)[:5]
            assert storage.get(key, *span) == expected, (key, span)
        assert storage.size(key) == local.size(key)
    assert not storage.writable
    assert storage.folder is None


@pytest.mark.parametrize("handler", [Plain, Parts])
def test_names(tmp_path, local, handler):
    with serving(tmp_path, handler) as url:
        storage = open_storage(f"{url}/a%20store.zarr/")
        for prefix in ("", "text/8x8/", "text/8x8/g", "te", "complete/c.0"):
            assert sorted(storage.keys(prefix)) == sorted(local.keys(prefix))
        for folder in ("", "text", "text/8x8/"):
            assert storage.children(folder) == local.children(folder)


def test_a_server_that_lists_nothing_says_so(tmp_path, local):
    with serving(tmp_path, Unlisted) as url:
        storage = HttpStorage(f"{url}/a%20store.zarr", patience=LITTLE)
        with pytest.raises(StorageError, match="listing . of http.* failed: the server refused access: 403 Forbidden"):
            list(storage.keys())
        with pytest.raises(StorageError, match="does not list its folders; copy the store first"):
            storage.children("nothing")


def test_it_is_not_written(local, address):
    storage = open_storage(address)
    for write in (
        lambda: storage.put("a", b""),
        lambda: storage.delete("a"),
        storage.clear,
        storage.coordinator().join,
    ):
        with pytest.raises(StorageError, match=r"a web server is only read; record into a local folder or into s3://"):
            write()
    turns = storage.beside(".recording").coordinator()
    with pytest.raises(StorageError, match=r"writing to http.*a%20store.zarr.recording failed: a web server"):
        turns.turn()
    assert not turns.alive("x")
    assert not turns.others("x")
    turns.leave("x")


def test_a_whole_file_is_fetched_once_for_all_its_parts(tmp_path, local):
    with serving(tmp_path, Plain) as url, FaultProxy(url) as between:
        storage = HttpStorage(f"{between.url}/a%20store.zarr", patience=MUCH)
        storage.get("zarr.json", 0, 1)
        between.clear()
        found = []
        threads = [
            threading.Thread(target=lambda n=n: found.append(storage.get("text/8x8/g2r/c.0.0", n, 1))) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == [bytes([n]) for n in range(8)]
        assert len(between.asked("GET", "c.0.0")) == 1


def test_a_part_alone_crosses_the_wire(behind, proxy):
    assert behind.get("text/8x8/g2r/c.0.0", 3, 4) == DATA[3:7]
    assert behind.get("text/8x8/g2r/c.0.0", -4) == DATA[-4:]
    assert [headers["Range"] for _, _, headers in proxy.asked("GET")] == ["bytes=3-6", "bytes=-4"]


OPERATIONS = [
    lambda s: s.get("text/8x8/g2r/c.0.0"),
    lambda s: s.get("text/8x8/g2r/c.0.0", 10, 1000),
    lambda s: s.get("text/8x8/g2r/c.0.0", -1000),
    lambda s: s.size("text/8x8/g2r/c.0.0"),
    lambda s: sorted(s.keys("text/")),
]


@pytest.mark.parametrize("ask", OPERATIONS)
@pytest.mark.parametrize("fault", ["answer", "close", "truncate", "drop"])
def test_what_fails_twice_is_done(behind, proxy, local, ask, fault):
    proxy.add(fault, times=2)
    assert ask(behind) == ask(local)


@pytest.mark.parametrize("ask", OPERATIONS)
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            {"how": "answer"},
            r"the server answered 503 Service Unavailable, \d+ tries in [\d.]+ s.*ATTLAS_RETRY_SECONDS",
        ),
        ({"how": "answer", "status": 500}, "the server answered 500 Internal Server Error, "),
        ({"how": "answer", "status": 429}, "the server answered 429 Too Many Requests, "),
        ({"how": "close"}, r"no whole answer came from 127.0.0.1:\d+ \(.*\), \d+ tries"),
        ({"how": "delay", "seconds": 1.2}, r"no whole answer came from 127.0.0.1:\d+ \(.*timed out.*\), \d tr"),
        ({"how": "answer", "status": 403}, "the server refused access: 403 Forbidden$"),
        ({"how": "answer", "status": 418}, "the server answered 418 I'm a Teapot$"),
        ({"how": "answer", "status": 299}, "the server answered 299$"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_goes_on_failing_is_an_error_in_words_in_time(impatient, proxy, ask, fault, says):
    proxy.add(**{"body": b"", **fault}, times=10**6)
    began = time.monotonic()
    with pytest.raises(StorageError, match=f"^(reading|listing) .* of http://127.*/a%20store.zarr failed: {says}"):
        ask(impatient)
    assert time.monotonic() - began < 6


def test_a_body_that_always_ends_early_is_never_taken_for_the_file(impatient, proxy):
    proxy.add("truncate", times=10**6)
    for span in ((None, None), (0, 1000), (-1000, None)):
        with pytest.raises(StorageError, match="no whole answer came"):
            impatient.get("text/8x8/g2r/c.0.0", *span)


@pytest.mark.parametrize(
    "told", ["bytes 1-4/10240", "bytes 0-3/10240", "bytes 3-7/10240", "bytes 3-6/5", "rows 3-6/9", ""]
)
def test_another_part_than_was_asked_for_is_refused(behind, proxy, told):
    proxy.add("answer", status=206, body=b"abcd", headers={"Content-Range": told} if told else {})
    if told == "bytes 3-7/10240":
        proxy.faults[0].body = b"abcde"
    with pytest.raises(StorageError, match=r"the server sent another part than was asked for \(Content-Range"):
        behind.get("text/8x8/g2r/c.0.0", 3, 4)


def test_a_part_of_an_unknown_whole_is_taken(behind, proxy):
    proxy.add("answer", status=206, body=b"abcd", headers={"Content-Range": "bytes 3-6/*"})
    assert behind.get("text/8x8/g2r/c.0.0", 3, 4) == b"abcd"


def test_what_is_recoded_or_too_large_is_refused(behind, proxy, monkeypatch):
    proxy.add("answer", status=200, body=b"abcd", headers={"Content-Encoding": "gzip"})
    with pytest.raises(StorageError, match=r"sends it recoded \(gzip\)"):
        behind.get("zarr.json")
    monkeypatch.setattr("attlas.schemas.storage.web_client.LARGEST", 100)
    with pytest.raises(StorageError, match="it has 10240 bytes; no file of a store has more than 100"):
        behind.get("text/8x8/g2r/c.0.0")


def test_a_server_without_head_tells_sizes_all_the_same(behind, proxy, local):
    proxy.add("answer", method="HEAD", status=405, times=9)
    assert behind.size("text/8x8/g2r/c.0.0") == len(DATA)
    assert behind.size("nothing") is None


def test_redirects_are_followed(behind, proxy, local):
    proxy.add("answer", status=302, headers={"Location": "/a%20store.zarr/zarr.json"}, body=b"")
    assert behind.get("elsewhere") == b"{}"


def test_tokens_and_passwords_go_along_and_are_not_shown(proxy, local):
    host = proxy.url.removeprefix("http://")
    storage = HttpStorage(f"http://me:secret@{host}/a%20store.zarr?token=hidden", patience=LITTLE)
    assert storage.get("zarr.json") == b"{}"
    assert storage.beside(".recording").get("x") is None
    for _, path, headers in proxy.seen:
        assert path.endswith("?token=hidden")
        assert headers["authorization"] == "Basic " + base64.b64encode(b"me:secret").decode()
    proxy.add("answer", times=10**6)
    with pytest.raises(StorageError) as caught:
        storage.get("zarr.json")
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)
    proxy.clear()
    again = pickle.loads(pickle.dumps(storage))  # noqa: S301 - it was made here
    assert again.get("zarr.json") == b"{}"


@pytest.mark.parametrize("url", ["http://", "http:///x.zarr", "http://host:port/x.zarr", "http://[::1/x.zarr"])
def test_a_url_without_a_host(url):
    with pytest.raises(InvalidValueError, match="names no host; give https://host/name.zarr|is no URL"):
        open_storage(url)


def test_nobody_is_there():
    with pytest.raises(StorageError, match=r"no whole answer came from 127.0.0.1:9 \(.*refused"):
        HttpStorage("http://127.0.0.1:9/x.zarr", patience=LITTLE).get("zarr.json")

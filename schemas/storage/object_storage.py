"""Bytes in an object store: S3 and what speaks like it, Google Cloud Storage, Azure.

Credentials and the server's address come from the usual variables of the environment (``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``, ``AZURE_STORAGE_ACCOUNT_NAME``, ...) and, for S3, from the
profile that the AWS tools use.
"""

import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from attlas.schemas.errors import InvalidValueError, StorageError
from attlas.schemas.storage.aws_profile import profile_settings
from attlas.schemas.storage.base import Coordinator, Data, Storage
from attlas.schemas.storage.object_answers import Answer
from attlas.schemas.storage.object_conditions import UnconditionalError, Version
from attlas.schemas.storage.object_turns import LEASE, Fence, ObjectTurns
from attlas.schemas.storage.patience import Patience, from_environment

__all__ = ["ObjectStorage"]

LARGEST = 2**31
"""Bytes that are read at once at most: a store has no larger chunk."""

PART = 16 * 2**20
"""Bytes of a part, where an object of more than two is sent in parts."""

BATCH = 1000
"""Objects that are removed by one request."""

Made = TypeVar("Made")


class ObjectStorage(Storage):
    """Objects of a bucket whose names begin with the URL's path. A put that has returned is durable.

    Parameters
    ----------
    url
        ``s3://bucket/path``, ``gs://bucket/path``, ``az://container/path`` or ``abfs://container@account.host/path``.
    patience
        How long a failing server is waited for; from the environment where None.
    lease
        Seconds without a sign of life after which a writer counts as dead; ``ATTLAS_LEASE_SECONDS``, or 60.
    fence
        What keeps a writer from writing whose turn has lapsed; shared by a store and the notes beside it.
    """

    far = True

    def __init__(
        self, url: str, *, patience: Patience | None = None, lease: float | None = None, fence: Fence | None = None
    ) -> None:
        scheme, _, rest = url.partition("://")
        self._bucket, _, path = rest.partition("/")
        self._prefix = path.strip("/")
        if not self._bucket or not self._prefix:
            raise InvalidValueError(f"{url} names no place in a bucket; give {scheme}://bucket/name.zarr")
        self._scheme = "gs" if scheme.lower() == "gcs" else scheme.lower()
        self.url = f"{scheme}://{self._bucket}/{self._prefix}"
        self.writable = True
        self._patience = patience or Patience.from_environment()
        self._lease = from_environment("ATTLAS_LEASE_SECONDS", LEASE) if lease is None else lease
        self._fence = fence or Fence()
        self._client = _client(self._scheme, self._bucket, self._patience, _environment())

    def __reduce__(self) -> tuple[Any, ...]:
        """Open it anew in another process, with that one's credentials."""
        return partial(type(self), self.url, patience=self._patience, lease=self._lease), ()

    def get(self, key: str, start: int | None = None, length: int | None = None) -> bytes | None:
        """Ask for the object, or for the part alone."""
        if length is not None and length <= 0:
            return None if self.size(key) is None else b""
        asked: Any = None
        if start is not None and start < 0:
            asked = {"suffix": -start}
        elif length is not None:
            asked = (start or 0, (start or 0) + length)
        elif start:
            asked = {"offset": start}
        data = self._request("reading", key, partial(self._read, key, asked), absent=None)
        return data[:length] if data is not None and start is not None and start < 0 else data

    def _read(self, key: str, asked: Any) -> bytes:
        try:
            found = obstore.get(self._client, self._path(key), options=None if asked is None else {"range": asked})
        except BaseError as err:
            answer = Answer.of(err)
            if answer.beyond_end and asked is not None:
                return b""
            if answer.not_partial:
                # An empty object has no part, and S3 sends it whole.
                return _part(self._read(key, None), asked)
            raise
        first, last = found.range
        if last - first > LARGEST:
            raise StorageError(
                f"reading {key} of {self.url} failed: it has {last - first} bytes; no file of a store has "
                f"more than {LARGEST}"
            )
        return bytes(found.bytes().to_bytes())

    def put(self, key: str, data: Data, *, sync: bool = True) -> None:  # noqa: ARG002 - what a server has taken stays
        """Store the object in one act; it is there when this returns."""
        self._fence.check()
        view = memoryview(data).cast("B")
        large = len(view) > 2 * PART
        send = partial(obstore.put, use_multipart=large, chunk_size=PART, max_concurrency=4)
        self._request("writing", key, lambda: send(self._client, self._path(key), view))

    def delete(self, key: str) -> None:
        """Remove the object."""
        self._fence.check()
        self._request("removing", key, lambda: obstore.delete(self._client, self._path(key)), absent=None)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """List them, a thousand a request."""
        folder = prefix.rpartition("/")[0]
        place = self._path(folder) if folder else self._prefix

        def listed() -> list[str]:
            pages = obstore.list(self._client, place, chunk_size=BATCH)
            return [str(entry["path"]) for page in pages for entry in page]

        for path in self._request("listing", prefix or ".", listed):
            key = path.removeprefix(f"{self._prefix}/")
            if key.startswith(prefix):
                yield key

    def children(self, prefix: str = "") -> list[str]:
        """List a folder."""
        place = self._path(prefix.strip("/")) if prefix.strip("/") else self._prefix

        def listed() -> list[str]:
            found = obstore.list_with_delimiter(self._client, place)
            return [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]

        return sorted({path.rpartition("/")[2] for path in self._request("listing", prefix or ".", listed)})

    def size(self, key: str) -> int | None:
        """Ask for the object's size."""
        return self._request(
            "reading", key, lambda: int(obstore.head(self._client, self._path(key))["size"]), absent=None
        )

    def beside(self, suffix: str) -> "ObjectStorage":
        """Return the place in the same bucket."""
        return ObjectStorage(self.url + suffix, patience=self._patience, lease=self._lease, fence=self._fence)

    def coordinator(self) -> Coordinator:
        """Make turns by objects that change only from what they were."""
        return ObjectTurns(self, self._lease, self._fence)

    def clear(self) -> None:
        """Remove every object; the lock goes last, as another writer may begin as soon as it is gone."""
        self._fence.check()
        with self._fence.clearing(self.url):
            found = sorted(self.keys(), key=lambda key: (key == "lock", key))
            for start in range(0, len(found), BATCH):
                batch = [self._path(key) for key in found[start : start + BATCH]]
                self._request("removing", "everything", partial(obstore.delete, self._client, batch), absent=None)

    def hurried(self) -> "ObjectStorage":
        """Return the same place for someone who does not wait long for it."""
        short = Patience(min(2.0, self._patience.retries), min(10.0, self._patience.request), 0.05, 0.5)
        return ObjectStorage(self.url, patience=short, lease=self._lease)

    @property
    def server(self) -> tuple[Any, ...]:
        """What tells this server and bucket from others."""
        return self._scheme, self._bucket, _environment()

    def read(self, key: str) -> Version | None:
        """Return an object with what identifies its state."""

        def ask() -> Version:
            found = obstore.get(self._client, self._path(key))
            told = found.meta
            return Version(found.bytes().to_bytes(), told["e_tag"], told["version"], told["last_modified"].timestamp())

        return self._request("reading", key, ask, absent=None)

    def put_if(self, key: str, data: bytes, expected: Version | None) -> tuple[bool, Version | None]:
        """Store an object if it is as expected (None: not there); say whether, and return what is there after.

        `data` must be unlike anything that was ever stored: that tells a write whose answer was lost from another's.
        """
        mode: Any = "create" if expected is None else expected.mode()
        began = time.monotonic()
        failed: Exception | None = None
        for _ in self._patience.tries():
            try:
                told = obstore.put(self._client, self._path(key), data, mode=mode)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError) as err:
                if Answer.of(err).no_bucket:
                    raise self._error("writing", key, err, began) from err
                seen = self.read(key)
                if seen is not None and seen.data == data:
                    return True, seen
                if Answer.of(err).status.startswith("409") and _same(seen, expected):
                    # Two wrote at once, and neither did: the server asks for another try.
                    failed = err
                    continue
                return False, seen
            except BaseError as err:
                if Answer.of(err).no_conditions:
                    raise UnconditionalError(f"writing {key} of {self.url} failed: {Answer.of(err).status}") from err
                if not Answer.of(err).unanswered:
                    raise self._error("writing", key, err, began) from err
                failed = err
                seen = self.read(key)
                if seen is not None and seen.data == data:
                    return True, seen
            else:
                return True, Version(data, told["e_tag"], told["version"], None)
        assert failed is not None  # noqa: S101 - there is at least one try
        raise self._error("writing", key, failed, began) from failed

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}"

    def _request(self, doing: str, key: str, ask: Callable[[], Made], **absent: None) -> Made | Any:
        """Ask; what object_store does not repeat by itself is repeated here."""
        if _FORKED:
            raise StorageError(
                f"{doing} {key} of {self.url} failed: this process was forked from one that used an object store; "
                "start processes with multiprocessing's 'spawn' or 'forkserver'"
            )
        began = time.monotonic()
        failed: Exception | None = None
        for _ in self._patience.tries():
            try:
                return ask()
            except FileNotFoundError as err:
                if absent and not Answer.of(err).no_bucket:
                    return absent["absent"]
                raise self._error(doing, key, err, began) from err
            except BaseError as err:
                failed = err
                if not Answer.of(err).unanswered:
                    break
            except ValueError as err:
                raise StorageError(f"{doing} {key} of {self.url} failed: {str(err).splitlines()[0]}") from err
        assert failed is not None  # noqa: S101 - there is at least one try
        raise self._error(doing, key, failed, began) from failed

    def _error(self, doing: str, key: str, err: Exception, began: float) -> StorageError:
        why = Answer.of(err).in_words(self._bucket, time.monotonic() - began)
        return StorageError(f"{doing} {key} of {self.url} failed: {why}")


def _same(one: Version | None, other: Version | None) -> bool:
    return one is other or (one is not None and other is not None and one.mode() == other.mode())


def _part(data: bytes, asked: Any) -> bytes:
    if isinstance(asked, tuple):
        return data[asked[0] : asked[1]]
    return data[-asked["suffix"] :] if "suffix" in asked else data[asked["offset"] :]


def _environment() -> tuple[tuple[str, str], ...]:
    """Variables that say which server it is, and who asks."""
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "GOOGLE_", "AZURE_"))))


_FORKED: list[bool] = []


def _notice_fork() -> None:
    """Remember it: the threads of a client are not there in a forked child, which would wait for them for ever."""
    if _client.cache_info().misses:
        _FORKED.append(True)


@lru_cache(maxsize=16)
def _client(scheme: str, bucket: str, patience: Patience, environment: tuple[tuple[str, str], ...]) -> Any:
    """Make a client with its connections, or return the one that there is."""
    told = dict(environment)
    config: Any = profile_settings(told) if scheme == "s3" else {}
    named = (told.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_ENDPOINT"))
    endpoint = next((address for address in named if address), config.get("endpoint", ""))
    options: Any = {
        "connect_timeout": timedelta(seconds=min(10.0, patience.request)),
        "timeout": timedelta(seconds=patience.request),
    }
    if endpoint.startswith("http://"):
        options["allow_http"] = True
    retry: Any = {
        "max_retries": 1000,
        "retry_timeout": timedelta(seconds=patience.retries),
        "backoff": {
            "init_backoff": timedelta(seconds=patience.first),
            "max_backoff": timedelta(seconds=patience.longest),
            "base": 2,
        },
    }
    try:
        return from_url(f"{scheme}://{bucket}", config=config or None, client_options=options, retry_config=retry)
    except (BaseError, ValueError) as err:
        raise InvalidValueError(f"{scheme}://{bucket} cannot be opened: {Answer.of(err).in_words(bucket, 0)}") from err


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_notice_fork)

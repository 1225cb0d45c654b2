"""Requests to a web server: repeated while it is in trouble, bounded in bytes and time, failures in words."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError

from attlas.schemas.errors import StorageError
from attlas.schemas.storage.patience import Patience

__all__ = ["Reply", "ask"]

LARGEST = 2**31
"""Bytes of a file at most: a store has no larger chunk."""

PIECE = 2**20
SLOWEST = 1000.0
"""Bytes a second below which a server counts as stalled, once a request has taken its time."""

AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses that are worth another try."""


@dataclass(frozen=True)
class Reply:
    """A whole answer.

    Attributes
    ----------
    folder
        Whether it came from the same name with a slash: it is a page about a folder, or the refusal of one.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    folder: bool

    @property
    def gone(self) -> bool:
        """Whether nothing is there."""
        return self.folder or self.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


def ask(
    method: str, address: str, headers: Mapping[str, str], patience: Patience, *, also: tuple[int, ...] = ()
) -> Reply:
    """Return an answer that tells something: 200, 206, 404, 410, 416, or a status of `also`.

    Raises
    ------
    StorageError
        Where none comes in time, or another; the message says why, and not of which file.
    """
    began = time.monotonic()
    why = ""
    tries = 0
    for number in patience.tries():
        tries = number
        try:
            reply = _send(method, address, headers, patience.request)
        except HTTPError as err:
            cause = err.reason if isinstance(err, MaxRetryError) and err.reason else err
            if isinstance(cause, SSLError):
                raise StorageError(f"the server's certificate is not trusted ({_named(cause)})") from err
            why = f"no whole answer came from {urlsplit(address).netloc} ({_named(cause)})"
            continue
        if reply.status in (200, 206, 416, *also) or reply.gone:
            return reply
        if reply.status in (401, 403):
            raise StorageError(f"the server refused access: {_status(reply.status)}")
        why = f"the server answered {_status(reply.status)}"
        if reply.status not in AGAIN:
            raise StorageError(why)
    raise StorageError(
        f"{why}, {tries} {'try' if tries == 1 else 'tries'} in {time.monotonic() - began:.3g} s; check that it is up, "
        "or wait longer by ATTLAS_RETRY_SECONDS"
    )


def _send(method: str, address: str, headers: Mapping[str, str], limit: float) -> Reply:
    began = time.monotonic()
    answer = _pool().request(
        method,
        address,
        headers=headers,
        preload_content=False,
        timeout=urllib3.Timeout(connect=min(10.0, limit), read=limit),
        retries=urllib3.Retry(total=None, connect=0, read=0, redirect=5, status=0, other=0),
    )
    try:
        coding = answer.headers.get("Content-Encoding", "identity")
        if answer.status in (200, 206) and coding != "identity":
            raise StorageError(f"the server sends it recoded ({coding}); have it send files as they are")
        told = answer.headers.get("Content-Length", "")
        if told.isdecimal() and int(told) > LARGEST and method == "GET":
            raise StorageError(f"it has {told} bytes; no file of a store has more than {LARGEST}")
        pieces = []
        size = 0
        for piece in answer.stream(PIECE, decode_content=False):
            pieces.append(piece)
            size += len(piece)
            if size > LARGEST:
                raise StorageError(f"it has more than {LARGEST} bytes; no file of a store has")
            taken = time.monotonic() - began
            if taken > limit and size < SLOWEST * taken:
                raise urllib3.exceptions.TimeoutError("it came too slowly")
    except BaseException:
        # What is left of the answer would be taken for the next one.
        answer.close()
        raise
    answer.release_conn()
    folder = urlsplit(answer.url or address).path == urlsplit(address).path + "/"
    return Reply(answer.status, answer.headers, b"".join(pieces), folder)


@lru_cache(maxsize=1)
def _pool() -> urllib3.PoolManager:
    return urllib3.PoolManager(num_pools=16, maxsize=16)


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _named(err: BaseException) -> str:
    """Say what failed, without names of objects."""
    text = str(err).rpartition(": ")[2].strip("()'\" ")
    return text[:120] or type(err).__name__

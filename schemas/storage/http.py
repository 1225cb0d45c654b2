"""A store behind a web server, for reading: parts where the server knows them, else whole files, kept for a while."""

from collections.abc import Iterator, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from urllib3 import make_headers

from attlas.schemas.errors import InvalidValueError, StorageError
from attlas.schemas.storage.patience import Patience
from attlas.schemas.storage.read_only import ReadOnlyStorage
from attlas.schemas.storage.recent import Recent
from attlas.schemas.storage.web_client import Reply, ask
from attlas.schemas.storage.web_index import entries

__all__ = ["HttpStorage"]

KEPT = 256 * 2**20
"""Bytes of whole files that are kept, of a server that sends no parts."""

NAMES = 10**6
"""Files and folders that a listing may have."""


class HttpStorage(ReadOnlyStorage):
    """Files below a URL. A query in the URL, such as a token, goes with every request.

    Parameters
    ----------
    url
        ``http://`` or ``https://``.
    patience
        How long a failing server is waited for; from the environment where None.
    """

    why = "a web server is only read"

    def __init__(self, url: str, *, patience: Patience | None = None) -> None:
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "") if ":" not in (parts.hostname or "") else f"[{parts.hostname}]"
            port = "" if parts.port is None else f":{parts.port}"
        except ValueError as err:
            raise InvalidValueError(f"{url} is no URL: {err}") from err
        if not host:
            raise InvalidValueError(f"{url} names no host; give https://host/name.zarr")
        self._given = url
        self._query = f"?{parts.query}" if parts.query else ""
        # Neither a token nor a password belongs in a message.
        self.url = f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "attlas"}
        if parts.username is not None:
            self._headers |= make_headers(basic_auth=f"{parts.username}:{parts.password or ''}")
        self._patience = patience or Patience.from_environment()
        self._whole = Recent(KEPT, KEPT)
        self._sends_parts = True

    def __reduce__(self) -> tuple[Any, ...]:
        """Open it anew in another process."""
        return partial(type(self), self._given, patience=self._patience), ()

    def get(self, key: str, start: int | None = None, length: int | None = None) -> bytes | None:
        """Ask for the part, or for the whole where the server sends no parts."""
        if start is None and length is None:
            return self._fetch(key) if self._sends_parts else self._whole.get(key, partial(self._fetch, key))
        if length is not None and length <= 0:
            return None if self.size(key) is None else b""
        fetch = partial(self._fetch, key)
        if self._sends_parts:
            reply = self._ask("reading", "GET", key, {"Range": _range(start, length)})
            if reply is None:
                return None
            if reply.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return b""
            if reply.status == HTTPStatus.PARTIAL_CONTENT:
                self._check_part(key, reply, start, length)
                return reply.body[:length]
            # The whole file came: this server sends no parts.
            self._sends_parts = False
            whole = reply.body
            fetch = partial(bytes, whole)
        data = self._whole.get(key, fetch)
        if data is None:
            return None
        first = max(0, len(data) + start) if start is not None and start < 0 else start or 0
        return data[first : len(data) if length is None else first + length]

    def _fetch(self, key: str) -> bytes | None:
        reply = self._ask("reading", "GET", key, {})
        return None if reply is None else reply.body

    def _check_part(self, key: str, reply: Reply, start: int | None, length: int | None) -> None:
        """Raise where the part is another than was asked for."""
        told = reply.headers.get("Content-Range", "")
        try:
            span, _, total = told.removeprefix("bytes ").partition("/")
            first, last = (int(place) for place in span.split("-"))
            if total == "*":
                right = start is not None and start >= 0 and first == start
            else:
                suffix = start is not None and start < 0
                wanted = max(0, int(total) + (start or 0)) if suffix else start or 0
                end = int(total) if length is None or suffix else min(int(total), wanted + length)
                right = (first, last + 1) == (wanted, end)
        except ValueError:
            right = False
        if not right or last - first + 1 != len(reply.body):
            raise self._error(
                "reading",
                key,
                f"the server sent another part than was asked for (Content-Range {told!r}, {len(reply.body)} bytes)",
            )

    def children(self, prefix: str = "") -> list[str]:
        """Read the server's page of a folder, where it has one."""
        return sorted(name.rstrip("/") for name in self._listed(f"{prefix.strip('/')}/" if prefix.strip("/") else ""))

    def _listed(self, path: str) -> Iterator[str]:
        reply = self._ask("listing", "GET", path, {})
        if reply is None or "html" not in reply.headers.get("Content-Type", ""):
            raise self._error("listing", path, "this server does not list its folders; copy the store first")
        return entries(reply.body, self._address(path))

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Follow the server's pages of its folders, where it has such."""
        folder = prefix.rpartition("/")[0]
        waiting = [f"{folder}/" if folder else ""]
        seen = 0
        while waiting:
            path = waiting.pop()
            for name in self._listed(path):
                seen += 1
                if seen > NAMES:
                    raise self._error("listing", path, f"there are more than {NAMES} files")
                key = path + name
                if not name.endswith("/"):
                    if key.startswith(prefix):
                        yield key
                elif key.startswith(prefix) or prefix.startswith(key):
                    waiting.append(key)

    def size(self, key: str) -> int | None:
        """Ask for the head, or for the whole where the server does not tell."""
        reply = self._ask("reading", "HEAD", key, {}, also=(405, 501))
        if reply is None:
            return None
        told = reply.headers.get("Content-Length", "")
        if reply.status == HTTPStatus.OK and told.isdecimal():
            return int(told)
        data = self.get(key)
        return None if data is None else len(data)

    def beside(self, suffix: str) -> "HttpStorage":
        """Return the place of that name on the same server."""
        parts = urlsplit(self._given)
        path = parts.path.rstrip("/") + suffix
        return HttpStorage(urlunsplit(parts._replace(path=path)), patience=self._patience)

    def _ask(
        self, doing: str, method: str, key: str, headers: Mapping[str, str], *, also: tuple[int, ...] = ()
    ) -> Reply | None:
        """Return an answer; None where nothing is, or a folder."""
        address = self._address(key)
        try:
            reply = ask(method, address, {**self._headers, **headers}, self._patience, also=also)
        except StorageError as err:
            raise self._error(doing, key, str(err)) from err
        return None if reply.gone else reply

    def _address(self, key: str) -> str:
        return f"{self.url}/{quote(key)}{self._query}"

    def _error(self, doing: str, key: str, why: str) -> StorageError:
        return StorageError(f"{doing} {key or '.'} of {self.url} failed: {why}")


def _range(start: int | None, length: int | None) -> str:
    if start is not None and start < 0:
        return f"bytes={start}"
    first = start or 0
    return f"bytes={first}-" if length is None else f"bytes={first}-{first + length - 1}"

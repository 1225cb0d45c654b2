"""A reverse proxy on loopback that does to requests what servers and networks do: refuse, stall, cut off, spoil."""

import http.client
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"

HIDDEN = {"whole": ("range",), "unconditional": ("if-match", "if-none-match")}
"""Headers that the server never sees."""


@dataclass
class Fault:
    """What happens to the requests that match: after the first `skip`, each one in `every` is met, `times` in all.

    `how` is one of

    - ``answer``: `status` and `body`, and the server never hears of the request
    - ``lose``: the server does what it was asked to, but the answer is `status` and `body`
    - ``close``: the connection ends without an answer, and the server never hears of the request
    - ``drop``: the server does what it was asked to, and the connection ends without an answer
    - ``delay``: all is well, `seconds` late
    - ``truncate``: half of the answer's body, then the connection ends
    - ``flip``: one bit of the answer's body is another
    - ``whole``: the server never hears of ``Range``
    - ``unconditional``: the server never hears of ``If-Match`` and ``If-None-Match``
    """

    how: str
    method: str = "GET|PUT|POST|HEAD|DELETE"
    path: str = ""
    times: int = 1
    skip: int = 0
    every: int = 1
    status: int = 503
    body: bytes = SLOW_DOWN
    headers: dict = field(default_factory=dict)
    seconds: float = 0.0
    met: int = 0
    passed: int = 0

    def meets(self, method, path):
        if not re.fullmatch(self.method, method) or not re.search(self.path, path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.met >= self.times:
            return False
        self.passed += 1
        if self.passed % self.every:
            return False
        self.met += 1
        return True


class FaultProxy:
    """Stands before `target`; ``faults`` tells what goes wrong, ``seen`` what was asked, as (method, path, headers)."""

    def __init__(self, target):
        self.target = urlsplit(target).netloc
        self.faults = []
        self.seen = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def add(self, how, **settings):
        """Have something go wrong from here on."""
        fault = Fault(how, **settings)
        with self._lock:
            self.faults.append(fault)
        return fault

    def clear(self):
        """Have all go well, and forget what was asked."""
        with self._lock:
            self.faults.clear()
            self.seen.clear()

    def asked(self, method=".*", path=""):
        """Requests so far, as (method, path, headers)."""
        with self._lock:
            return [one for one in self.seen if re.fullmatch(method, one[0]) and re.search(path, one[1])]

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def fault_for(self, method, path, headers):
        with self._lock:
            self.seen.append((method, path, headers))
            return next((fault for fault in self.faults if fault.meets(method, path)), None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    # Without it, each answer waits for the client to acknowledge its head.
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.owner.fault_for(self.command, self.path, dict(self.headers))
        how = fault.how if fault else ""
        if how == "close":
            self.close_connection = True
            return
        if how == "delay":
            time.sleep(fault.seconds)
        if how == "answer":
            self._send(fault.status, fault.headers, fault.body)
            return
        status, headers, answer = self._forward(body, HIDDEN.get(how, ()))
        if how == "drop":
            self.close_connection = True
        elif how == "lose":
            self._send(fault.status, fault.headers, fault.body)
        elif how == "truncate":
            self._send(status, headers, answer, cut=True)
        elif how == "flip" and answer:
            middle = len(answer) // 2
            self._send(status, headers, answer[:middle] + bytes([answer[middle] ^ 4]) + answer[middle + 1 :])
        else:
            self._send(status, headers, answer)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815 - the base class asks for these names

    def _forward(self, body, hidden):
        kept = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", *hidden)}
        connection = http.client.HTTPConnection(self.owner.target, timeout=20)
        try:
            connection.request(self.command, self.path, body, kept)
            got = connection.getresponse()
            return got.status, dict(got.getheaders()), got.read()
        finally:
            connection.close()

    def _send(self, status, headers, body, *, cut=False):
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers.items():
            if name.lower() == "content-length":
                # The answer to HEAD tells the length of a body that does not come.
                length = value if self.command == "HEAD" else length
            elif name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.wfile.flush()
            self.close_connection = True

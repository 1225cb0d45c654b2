"""Web servers on loopback: as Python has it, without listing, and with parts."""

import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Plain(SimpleHTTPRequestHandler):
    """``python -m http.server``: pages of folders, and whole files only."""

    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass


class Unlisted(Plain):
    """Whole files only, and no pages of folders."""

    def list_directory(self, _):
        self.send_error(403)


class Parts(Plain):
    """What nginx does: parts of files, kept connections."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        asked = self.headers.get("Range", "")
        path = Path(self.translate_path(self.path))
        if not asked.startswith("bytes=") or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first, _, last = asked.removeprefix("bytes=").partition("-")
        if first:
            begin, end = int(first), min(len(data), int(last) + 1 if last else len(data))
        else:
            begin, end = max(0, len(data) - int(last)), len(data)
        if begin >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        self.wfile.write(data[begin:end])


@contextmanager
def serving(folder, handler=Plain):
    """Serve a folder; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

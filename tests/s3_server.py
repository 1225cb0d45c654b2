"""An S3 server (moto) on loopback, in a thread of the tests."""

import logging
import threading
import uuid

import urllib3
from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

ENVIRONMENT = {
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_ACCESS_KEY_ID": "attlas",
    "AWS_SECRET_ACCESS_KEY": "attlas",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}
"""What a client needs beside ``AWS_ENDPOINT_URL``."""


class S3Server:
    """An S3 server; `environment` is what clients need to find it, in this process or another."""

    def __init__(self):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        app = DomainDispatcherApplication(create_backend_app)
        self._turn = threading.Lock()
        # One request that changes something at a time: moto looks at If-Match and then writes, as two acts.
        self._server = make_server("127.0.0.1", 0, self._one_by_one(app), threaded=True, request_handler=_Quiet)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.environment = ENVIRONMENT | {"AWS_ENDPOINT_URL": self.url}
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def _one_by_one(self, app):
        def answer(environ, start):
            if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
                return app(environ, start)
            with self._turn:
                return [b"".join(app(environ, start))]

        return answer

    def make_bucket(self):
        """Make a bucket and return its name."""
        name = f"attlas-{uuid.uuid4().hex}"
        with urllib3.PoolManager() as pool:
            assert pool.request("PUT", f"{self.url}/{name}").status == 200
        return name

    def drop_bucket(self, name):
        """Remove a bucket with all that is in it."""
        backends = get_backend("s3")
        backends.bucket_accounts.pop(name, None)
        bucket = backends[DEFAULT_ACCOUNT_ID]["aws"].buckets.pop(name, None)
        for key in [] if bucket is None else bucket.keys.values():
            key.dispose()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass

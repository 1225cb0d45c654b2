"""Settings shared by all tests: no network, fixed profiles, few threads."""

import gc
import os

# Set before torch or numpy load: two cores are shared by the test workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "attlas", max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("attlas")

# Nothing loses power here: what is flushed, and when, is tested where `os.fsync` is watched. A disk that many tests
# share takes milliseconds for each.
os.fsync = lambda descriptor: None


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What imports and tests make now stays: looking for garbage in it again and again takes seconds."""
    gc.disable()
    found = yield
    gc.freeze()
    gc.enable()
    return found


LONG = ("slow", "browser")


def is_long(item):
    return "benchmark" in item.fixturenames or any(item.get_closest_marker(name) for name in LONG)


def pytest_collection_modifyitems(items):
    """Put files with slow tests first, then those of many: what is begun last must not be long for one worker alone."""
    files = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    cost = {path: (any(map(is_long, own)), len(own)) for path, own in files.items()}
    items.sort(key=lambda item: cost[item.path], reverse=True)


@pytest.fixture(scope="session")
def s3_server():
    """An S3 server on loopback; its `environment` is what a process needs to find it."""
    from s3_server import S3Server

    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3_url(s3_server, monkeypatch):
    """URL of a fresh bucket, which this process finds by its environment."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = s3_server.make_bucket()
    yield f"s3://{bucket}"
    s3_server.drop_bucket(bucket)


@pytest.fixture
def s3_proxy(s3_server, s3_url, monkeypatch):
    """What stands between this process and the server of `s3_url`, and breaks what it is told to; little patience."""
    from fault_proxy import FaultProxy

    with FaultProxy(s3_server.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("ATTLAS_RETRY_SECONDS", "2")
        monkeypatch.setenv("ATTLAS_REQUEST_SECONDS", "2")
        yield proxy

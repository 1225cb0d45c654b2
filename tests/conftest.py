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

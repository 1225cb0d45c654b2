"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest


def modules():
    for package in ("schemas", "recorder", "analysis", "dashboards"):
        root = importlib.import_module(f"attlas.{package}")
        yield root.__name__
        for info in pkgutil.walk_packages(root.__path__, prefix=f"attlas.{package}."):
            yield info.name


@pytest.mark.parametrize("name", sorted(set(modules())))
def test_examples(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    failures, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert failures == 0

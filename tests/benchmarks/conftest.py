"""Benchmarks run small as tests by default, and as measurements with `make bench`."""

import importlib
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch


@dataclass(frozen=True)
class Size:
    """How much a benchmark does: little as a test, enough as a measurement."""

    runs: int
    pairs: int
    steps: int


@pytest.fixture
def size(benchmark) -> Size:
    return Size(1, 1, 3) if benchmark.disabled else Size(8, 15, 20)


@pytest.fixture
def exactly_measured(benchmark) -> bool:
    """Whether numbers are measurements (targets hold) or only a run of the code."""
    return not benchmark.disabled


@pytest.fixture(params=["shapes", "tryon"])
def world(request):
    module = importlib.import_module(f"attlas.recorder.demo.{request.param}")
    module.label = request.param
    return module


@pytest.fixture(scope="session", autouse=True)
def _machine():
    print(f"\n{platform.machine()}, {torch.get_num_threads()} torch threads, torch {torch.__version__}")


def paired_ratios(base: Callable[[], object], changed: Callable[[], object], pairs: int) -> list[float]:
    """Time of `changed` over time of `base`, run by turns, so that a busy machine slows both."""
    ratios = []
    for index in range(pairs):
        seconds = {}
        order = [("base", base), ("changed", changed)]
        for name, function in order if index % 2 else reversed(order):
            start = time.perf_counter()
            function()
            seconds[name] = time.perf_counter() - start
        ratios.append(seconds["changed"] / seconds["base"])
    return ratios


def spread(ratios: list[float]) -> str:
    """Median with quartiles and the number of pairs."""
    if len(ratios) < 4:
        return f"{statistics.median(ratios):.3f}x (n={len(ratios)})"
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f}x (quartiles {low:.3f}-{high:.3f}, n={len(ratios)})"

"""Benchmarks run small as tests by default, and as measurements with `make bench`."""

import importlib
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

# The pipeline of Stable Diffusion's shape is made of the tiny pipelines' parts.
sys.path.append(str(Path(__file__).parents[1] / "recorder"))


@dataclass(frozen=True)
class Size:
    """How much a benchmark does: little as a test, enough as a measurement."""

    runs: int
    pairs: int
    steps: int


@pytest.fixture
def size(benchmark) -> Size:
    return Size(1, 1, 3) if benchmark.disabled else Size(8, 15, 20)


@pytest.fixture(params=["shapes", "tryon"])
def world(request):
    module = importlib.import_module(f"attlas.recorder.demo.{request.param}")
    module.label = request.param
    return module


@pytest.fixture(scope="session", autouse=True)
def _machine():
    print(f"\n{platform.machine()}, {torch.get_num_threads()} torch threads, torch {torch.__version__}")

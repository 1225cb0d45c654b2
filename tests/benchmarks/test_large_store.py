"""A survey of a large store from its full arrays: memory at its peak, and two worker processes against one process.

Measured of the store that the variable ATTLAS_LARGE_STORE names (`large_store.py` makes one of 20 GB), else of one of
half a gigabyte made for it. Every measurement is a process of its own.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PEAK = 1024
"""MiB of resident memory that no process may pass."""


def run(program, *arguments):
    command = [sys.executable, str(HERE / program), *(str(argument) for argument in arguments)]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **threads}).stdout


def surveyed(store, workers, runs=None):
    return json.loads(run("survey_store.py", store, workers, *(() if runs is None else (runs,))).splitlines()[-1])


@pytest.fixture
def store(benchmark, tmp_path):
    named = os.environ.get("ATTLAS_LARGE_STORE")
    if named and not benchmark.disabled:
        return Path(named)
    size = ("0.001", "1", "1") if benchmark.disabled else ("0.5", "1", "4")
    options = dict(zip(("--gigabytes", "--recorded", "--scale"), size, strict=True))
    print(run("large_store.py", tmp_path / "large.zarr", *(part for pair in options.items() for part in pair)))
    return tmp_path / "large.zarr"


def test_survey_of_a_large_store(benchmark, store):
    rounds = 1 if benchmark.disabled else 3
    found = {}

    def measure():
        found["few runs"] = [surveyed(store, 0, 1)]
        for _ in range(rounds):
            found.setdefault("one process", []).append(surveyed(store, 0))
            if not benchmark.disabled:
                found.setdefault("two workers", []).append(surveyed(store, 2))

    benchmark.pedantic(measure, rounds=1)
    for name, results in found.items():
        seconds = sorted(own["seconds"] for own in results)
        peak = max(peak for own in results for peak in own["peaks"])
        cpu = zip(*(own["cpu"] for own in results), strict=True)
        busy = " + ".join(f"{statistics.median(own):.1f}" for own in cpu)
        rate = results[0]["elements"] / statistics.median(seconds) / 1e6
        print(
            f"survey, {name:11s} {results[0]['runs']:4d} runs: {statistics.median(seconds):6.1f} s (n={len(seconds)}, "
            f"{seconds[0]:.1f}-{seconds[-1]:.1f}), {rate:.0f} M elements/s, CPU {busy} s, "
            f"peak of a process {peak:.0f} MiB"
        )
        assert peak < PEAK
    if "two workers" in found:
        pairs = zip(found["two workers"], found["one process"], strict=True)
        ratios = sorted(two["seconds"] / one["seconds"] for two, one in pairs)
        shown = ", ".join(f"{own:.2f}" for own in ratios)
        print(f"survey, two workers / one process: {statistics.median(ratios):.2f} (n={len(ratios)}: {shown})")

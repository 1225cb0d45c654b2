"""Peak memory of recording beside the model, at Stable Diffusion 1.5's size: few and many steps, one and more runs."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("stream_of_copies.py")
ENCODINGS = {"full dense": "dense", "full factors": "factors", "summary": "none"}


def extra(folder, encoding, side, cases):
    """MiB of the recorder alone by (steps, runs), each in a process of its own."""
    command = [sys.executable, str(PROGRAM), str(folder), encoding, str(side)]
    command += [f"{steps},{runs}" for steps, runs in cases]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(zip(cases, map(float, told.split()), strict=True))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux' /proc")
@pytest.mark.parametrize("name", ENCODINGS)
def test_memory(benchmark, tmp_path, name):
    side, few, many = (16, 2, 4) if benchmark.disabled else (64, 10, 50)
    found = {}

    def measure():
        # As a test, only what is asserted.
        cases = ((few, 1), (few, 3)) if benchmark.disabled else ((few, 1), (many, 1), (few, 3))
        found.update(extra(tmp_path, ENCODINGS[name], side, cases))

    benchmark.pedantic(measure, rounds=1)
    for (steps, runs), size in found.items():
        print(f"memory  {name:12s} {side}x{side} latents, {steps:2d} steps, {runs} runs: {size:5.0f} MiB")
    assert found[few, 3] < 2 * max(found[few, 1], 50)

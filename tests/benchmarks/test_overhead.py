"""Time of a recorded run over the time of the same run without the recorder, in pairs."""

import itertools

import pytest
import torch
from pairs import paired_ratios, spread
from sd_shaped import make_sd_shaped

from attlas.recorder import Capture, Recorder

CAPTURES = {
    "full dense": {"detail": "full", "encoding": "dense"},
    "full factors": {"detail": "full", "encoding": "factors"},
    "summary": {"detail": "summary"},
}


def measure(benchmark, pipes, path, capture, arguments, pairs):
    """Ratios of wall time and of the process' CPU time. Two pipelines, so that the plain one carries no hook."""
    plain_pipe, recorded_pipe = pipes
    ids = itertools.count()

    def plain():
        return plain_pipe(**arguments, generator=torch.Generator().manual_seed(0))

    with Recorder(recorded_pipe, path, capture) as recorder:

        def recorded():
            return recorder(**arguments, seed=0, id=f"{next(ids)}")

        plain()
        benchmark.pedantic(recorded, rounds=1)
        return paired_ratios(plain, recorded, pairs)


@pytest.mark.parametrize("name", CAPTURES)
def test_overhead(benchmark, size, world, tmp_path, name):
    (request,) = world.requests(1)
    kind = "image" if "reference_image" in request else "text"
    arguments = {k: v for k, v in request.items() if k not in ("seed", "id", "annotations")}
    arguments["num_inference_steps"] = size.steps
    capture = Capture(kinds=(kind,), **CAPTURES[name])
    wall, cpu = measure(benchmark, (world.load(), world.load()), tmp_path / "s.zarr", capture, arguments, size.pairs)
    print(f"{world.label:7s} {kind:5s} {name:12s} recorded / plain: wall {spread(wall)}, CPU {spread(cpu)}")


@pytest.mark.parametrize("branches", ["cond", "all"])
@pytest.mark.parametrize("name", CAPTURES)
def test_overhead_at_the_shape_of_stable_diffusion(benchmark, size, tmp_path, name, branches):
    small = benchmark.disabled
    pipes = [make_sd_shaped((16, 16, 32, 32), latent=16) if small else make_sd_shaped() for _ in range(2)]
    arguments = {
        "prompt": "a red cat and a blue dog",
        "num_inference_steps": 2 if small else 6,
        "output_type": "np",
    }
    capture = Capture(kinds="text", branches=branches, **CAPTURES[name])
    wall, cpu = measure(benchmark, pipes, tmp_path / "s.zarr", capture, arguments, min(size.pairs, 8))
    print(f"SD-shaped {branches:4s} {name:12s} recorded / plain: wall {spread(wall)}, CPU {spread(cpu)}")

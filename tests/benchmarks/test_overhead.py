"""Time of a recorded run over the time of the same run without the recorder, in pairs."""

import itertools

import pytest
import torch
from pairs import paired_ratios, spread

from attlas.recorder import Capture, Recorder

CAPTURES = {
    "full dense": {"detail": "full", "encoding": "dense"},
    "full factors": {"detail": "full", "encoding": "factors"},
    "summary": {"detail": "summary"},
}


@pytest.mark.parametrize("name", CAPTURES)
def test_overhead(benchmark, size, world, tmp_path, name):
    # Two pipelines, so that the plain one carries no hook.
    plain_pipe, recorded_pipe = world.load(), world.load()
    (request,) = world.requests(1)
    kind = "image" if "reference_image" in request else "text"
    arguments = {k: v for k, v in request.items() if k not in ("seed", "id", "annotations")}
    arguments["num_inference_steps"] = size.steps
    ids = itertools.count()

    def plain():
        return plain_pipe(**arguments, generator=torch.Generator().manual_seed(0))

    with Recorder(recorded_pipe, tmp_path / "s.zarr", Capture(kinds=(kind,), **CAPTURES[name])) as recorder:

        def recorded():
            return recorder(**arguments, seed=0, id=f"{next(ids)}")

        plain()
        benchmark.pedantic(recorded, rounds=1)
        ratios = paired_ratios(plain, recorded, size.pairs)
    print(f"{world.label:7s} {kind:5s} {name:12s} recorded / plain: {spread(ratios)}")

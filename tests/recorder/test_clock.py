"""Steps, timesteps and noise levels by sampler; the numbers are worked by hand from the samplers' definitions."""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
)
from tiny_pipelines import make_pipe, parts

from attlas.recorder import Capture, Recorder
from attlas.recorder.clock import Clock
from attlas.schemas.errors import ObservationError

# diffusers makes arrays of tensors in a way that NumPy 2 dislikes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

CAPTURE = Capture(kinds="text", detail="summary", layers="mid_block.*")


def clock_of(pipe, **arguments):
    with Recorder(pipe, None, CAPTURE) as rec:
        rec(**{"prompt": "a cat", "seed": 0, "output_type": "np", **arguments})
    group = rec.store.group
    return {name: group[name][0].tolist() for name in ("step", "timestep", "sigma")}


def noise_over_signal(scheduler, timestep):
    power = float(scheduler.alphas_cumprod[int(timestep)])
    return ((1 - power) / power) ** 0.5


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (partial(DDIMScheduler, clip_sample=False), [0, 1, 2, 3]),
        (EulerDiscreteScheduler, [0, 1, 2, 3]),
        # One more call than steps: the first step is taken twice.
        (partial(PNDMScheduler, skip_prk_steps=True), [0, 0, 1, 2, 3]),
        # Runge-Kutta: four calls for each of three steps, then one.
        (PNDMScheduler, [0] * 4 + [1] * 4 + [2] * 4 + [3]),
        # Second order: two calls a step, one for the last.
        (HeunDiscreteScheduler, [0, 0, 1, 1, 2, 2, 3]),
        (KDPM2DiscreteScheduler, [0, 0, 1, 1, 2, 2, 3]),
    ],
    ids=["ddim", "euler", "plms", "pndm", "heun", "kdpm2"],
)
def test_steps_of_samplers(make, steps):
    scheduler = make(steps_offset=1)
    pipe = make_pipe(scheduler=scheduler)
    clock = clock_of(pipe, num_inference_steps=4)
    assert clock["step"] == steps
    np.testing.assert_allclose(clock["timestep"], [float(t) for t in pipe.scheduler.timesteps])
    # KDPM2's and Euler's timesteps may lie between whole ones.
    if not isinstance(scheduler, KDPM2DiscreteScheduler | EulerDiscreteScheduler):
        want = [noise_over_signal(scheduler, timestep) for timestep in clock["timestep"]]
        np.testing.assert_allclose(clock["sigma"], want, rtol=1e-4)
    assert clock["sigma"][0] == max(clock["sigma"])


def test_noise_levels_are_eulers_own():
    pipe = make_pipe(scheduler=EulerDiscreteScheduler(timestep_spacing="linspace", steps_offset=1))
    clock = clock_of(pipe, num_inference_steps=4)
    np.testing.assert_allclose(clock["sigma"], pipe.scheduler.sigmas[:4], rtol=1e-4)


def test_no_signal_is_infinite_noise():
    scheduler = DDIMScheduler(
        clip_sample=False,
        steps_offset=1,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
    )
    clock = clock_of(make_pipe(scheduler=scheduler), num_inference_steps=2)
    assert clock["timestep"][0] == 999
    assert clock["sigma"][0] == np.inf
    assert np.isfinite(clock["sigma"][1])


def test_image_to_image_starts_late():
    pipe = StableDiffusionImg2ImgPipeline(
        **parts(), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    for scheduler in (DDIMScheduler(clip_sample=False, steps_offset=1), EulerDiscreteScheduler(steps_offset=1)):
        pipe.scheduler = scheduler
        image = np.full((1, 16, 16, 3), 0.5, np.float32)
        clock = clock_of(pipe, image=image, strength=0.5, num_inference_steps=4)
        assert clock["step"] == [0, 1]
        np.testing.assert_allclose(clock["timestep"], [float(t) for t in scheduler.timesteps[2:]])


def test_flow_matching_mixes_noise_and_signal():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)

    class Pipe:
        pass

    pipe = Pipe()
    pipe.scheduler = scheduler
    clock = Clock.begin(pipe, float(scheduler.timesteps[0]))
    for timestep in scheduler.timesteps:
        clock.tick(float(timestep))
    mixed = scheduler.sigmas[:4]
    assert clock.sigmas[0] == np.inf
    np.testing.assert_allclose(clock.sigmas[1:], (mixed / (1 - mixed))[1:], rtol=1e-6)


def test_more_calls_than_planned(pipe):
    class Separate(type(pipe)):
        def __call__(self, *args, **kwargs):
            self.scheduler.set_timesteps(1)
            self._num_timesteps = 1
            for _ in range(2):
                self.unet(torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 12, 16))

    pipe.__class__ = Separate
    with (
        Recorder(pipe, None, CAPTURE) as rec,
        pytest.raises(ObservationError, match="2th time in a run of 1 calls; pipelines that compute guidance"),
    ):
        rec(prompt="a cat")


def test_a_run_that_is_interrupted_is_not_complete(pipe, tmp_path):
    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = step == 1
        return tensors

    with Recorder(pipe, tmp_path / "s.zarr", CAPTURE) as rec:
        with pytest.raises(ObservationError, match="the run ended after 2 of 4 denoiser calls"):
            rec(prompt="a cat", seed=0, num_inference_steps=4, callback_on_step_end=stop)
        rec(prompt="a cat", seed=0, num_inference_steps=4)
    assert dict(zip(rec.store.run_ids, rec.store.complete, strict=True))["0001"]
    assert rec.store.complete.sum() == 1

"""Calls, passes, steps, timesteps and noise levels by sampler.

Oracles: the U-Net calls that the pipeline really makes, the scheduler's own arithmetic (what it divides the model's
input by, what it adds as noise), and numbers worked by hand from the samplers' definitions.
"""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
)
from hypothesis import given
from hypothesis import strategies as st
from tiny_pipelines import autoencoder, draw, make_pipe, parts, text_encoder, tokenizer, unet
from transformers import CLIPTextModelWithProjection

from attlas.recorder import Capture, Recorder
from attlas.recorder.clock import Clock
from attlas.schemas.errors import ObservationError

# diffusers makes arrays of tensors in a way that NumPy 2 dislikes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

CAPTURE = Capture(kinds="text", detail="summary", layers="mid_block.*")
PLAIN = {"prompt": "a cat", "guidance_scale": 1.0}


class Watch:
    """A clock beside a real pipeline: counts the U-Net's calls, and what the scheduler divides its input by."""

    def __init__(self, pipe):
        self.pipe, self.clock, self.calls, self.divisors = pipe, None, [], []
        self._scale = pipe.scheduler.scale_model_input

    def __enter__(self):
        def scaled(sample, *args, **kwargs):
            made = self._scale(sample, *args, **kwargs)
            self.divisors.append(float((sample / made).median()))
            return made

        self.pipe.scheduler.scale_model_input = scaled
        self._hook = self.pipe.unet.register_forward_pre_hook(self._called)
        return self

    def __exit__(self, *error):
        self._hook.remove()
        del self.pipe.scheduler.scale_model_input

    def _called(self, module, args):
        timestep = float(args[1])
        if self.clock is None:
            self.clock = Clock.begin(self.pipe, timestep)
        self.calls.append(self.clock.locate(timestep))


def watch(scheduler, steps, pipe=None, **arguments):
    pipe = pipe or make_pipe()
    pipe.scheduler = scheduler
    with Watch(pipe) as watched:
        draw(pipe, **{**PLAIN, "num_inference_steps": steps, **arguments})
    return watched


DPM = partial(DPMSolverMultistepScheduler, steps_offset=1)
SAMPLERS = {
    "ddim": partial(DDIMScheduler, clip_sample=False, steps_offset=1),
    "plms": partial(PNDMScheduler, skip_prk_steps=True, steps_offset=1),
    "pndm": PNDMScheduler,
    "heun": partial(HeunDiscreteScheduler, steps_offset=1),
    "heun-karras": partial(HeunDiscreteScheduler, use_karras_sigmas=True),
    "kdpm2": KDPM2DiscreteScheduler,
    "kdpm2-ancestral": KDPM2AncestralDiscreteScheduler,
    "dpm++2m": DPM,
    "dpm++2m-karras": partial(DPM, use_karras_sigmas=True),
    "dpm++2m-sde": partial(DPM, algorithm_type="sde-dpmsolver++"),
    "dpm++2s": DPMSolverSinglestepScheduler,
    "deis": DEISMultistepScheduler,
    "euler": partial(EulerDiscreteScheduler, timestep_spacing="linspace"),
    "euler-karras": partial(EulerDiscreteScheduler, use_karras_sigmas=True),
    "euler-ancestral": EulerAncestralDiscreteScheduler,
    "lms": LMSDiscreteScheduler,
    "lcm": LCMScheduler,
    "unipc": UniPCMultistepScheduler,
}
SCALED = ("heun", "heun-karras", "kdpm2", "kdpm2-ancestral", "euler", "euler-karras", "euler-ancestral", "lms")


@pytest.mark.parametrize("name", SAMPLERS)
def test_clock_goes_with_the_pipeline(name):
    watched = watch(SAMPLERS[name](), 5)
    clock, scheduler = watched.clock, watched.pipe.scheduler
    assert watched.calls == [(call, 0) for call in range(clock.total)]
    assert clock.calls == clock.total == len(scheduler.timesteps)
    assert clock.steps == sorted(clock.steps)
    assert (clock.steps[0], clock.steps[-1]) == (0, 4)
    assert set(clock.steps) == set(range(5))
    np.testing.assert_allclose(clock.timesteps, scheduler.timesteps)
    assert clock.given == clock.timesteps
    if name in SCALED:
        # These divide the model's input by sqrt(sigma^2 + 1).
        want = np.sqrt(np.square(watched.divisors) - 1)
        np.testing.assert_allclose(clock.sigmas, want, rtol=2e-3)
        return
    scheduler, one = SAMPLERS[name](), torch.ones(1)
    scheduler.set_timesteps(5)
    noises = [float(scheduler.add_noise(0 * one, one, t[None])) for t in scheduler.timesteps]
    signals = [float(scheduler.add_noise(one, 0 * one, t[None])) for t in scheduler.timesteps]
    np.testing.assert_allclose(clock.sigmas, np.divide(noises, signals), rtol=1e-4)


@given(st.sampled_from(sorted(SAMPLERS)), st.integers(4, 30))
def test_steps_never_go_back_and_end_with_the_last(name, steps):
    scheduler = SAMPLERS[name]()
    scheduler.set_timesteps(steps)
    clock = Clock.begin(SimpleNamespace(scheduler=scheduler), float(scheduler.timesteps[0]))
    for timestep in scheduler.timesteps:
        clock.locate(float(timestep))
    assert clock.calls == clock.total == len(scheduler.timesteps)
    assert set(np.diff(clock.steps)) <= {0, 1}
    assert (clock.steps[0], clock.steps[-1]) == (0, steps - 1)
    assert all(level >= 0 for level in clock.sigmas)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("ddim", [0, 1, 2, 3]),
        ("euler", [0, 1, 2, 3]),
        # One more call than steps: the first step is taken twice.
        ("plms", [0, 0, 1, 2, 3]),
        # Runge-Kutta: four calls for each of three steps, then one.
        ("pndm", [0] * 4 + [1] * 4 + [2] * 4 + [3]),
        # Second order: two calls a step, one for the last.
        ("heun", [0, 0, 1, 1, 2, 2, 3]),
        ("kdpm2", [0, 0, 1, 1, 2, 2, 3]),
    ],
)
def test_steps_of_samplers(name, steps):
    assert watch(SAMPLERS[name](), 4).clock.steps == steps


def test_no_signal_is_infinite_noise():
    scheduler = DDIMScheduler(
        clip_sample=False,
        steps_offset=1,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
    )
    clock = watch(scheduler, 2).clock
    assert clock.timesteps[0] == 999
    assert clock.sigmas[0] == np.inf
    assert np.isfinite(clock.sigmas[1])


@pytest.mark.parametrize("name", ["ddim", "euler", "plms", "heun", "kdpm2", "dpm++2m", "unipc", "lcm"])
@pytest.mark.parametrize("strength", [0.25, 0.75])
def test_image_to_image_starts_late(name, strength):
    pipe = StableDiffusionImg2ImgPipeline(
        **parts(), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    image = np.full((1, 16, 16, 3), 0.5, np.float32)
    watched = watch(SAMPLERS[name](), 8, pipe, image=image, strength=strength)
    clock, planned = watched.clock, [float(t) for t in pipe.scheduler.timesteps]
    assert clock.timesteps == planned[-len(watched.calls) :]
    assert clock.start == len(planned) - len(watched.calls)
    if name != "plms":  # which takes its first step twice wherever it starts
        assert clock.steps[-1] == round(8 * strength) - 1
    assert clock.steps[0] == 0


def test_a_scheduler_that_does_not_say_where_it_begins():
    # DDIM keeps no begin index; PNDM lists its second timestep twice, so that the count decides.
    scheduler = PNDMScheduler(skip_prk_steps=True)
    scheduler.set_timesteps(4)
    late = SimpleNamespace(scheduler=scheduler, _num_timesteps=3)
    assert Clock.begin(late, float(scheduler.timesteps[2])).start == 2
    assert Clock.begin(SimpleNamespace(scheduler=scheduler), float(scheduler.timesteps[1])).start == 1


def test_denoising_may_end_early():
    # The first expert of an ensemble stops before the noise is gone, as denoising_end of SDXL.
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(10)
    clock = Clock.begin(SimpleNamespace(scheduler=scheduler, _num_timesteps=6), float(scheduler.timesteps[0]))
    assert (clock.start, clock.total) == (0, 6)
    second = SimpleNamespace(scheduler=scheduler, _num_timesteps=4)
    assert Clock.begin(second, float(scheduler.timesteps[6])).start == 6


def large(cls):
    """A tiny pipeline of Stable Diffusion XL."""
    words = tokenizer()
    config = text_encoder(words, layers=2).config
    config.projection_dim = 16
    settings = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    ids = 5 if "Img2Img" in cls.__name__ else 6
    pipe = cls(
        vae=autoencoder(),
        text_encoder=text_encoder(words, layers=2),
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer=words,
        tokenizer_2=words,
        unet=unet(cross=32, projection_class_embeddings_input_dim=16 + 8 * ids, **settings),
        scheduler=None,
        add_watermarker=False,
        **({"requires_aesthetics_score": True} if ids == 5 else {}),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "dpm++2m"])
def test_two_experts_share_the_steps(name):
    # The first leaves noise in what the second goes on with.
    base, refiner = large(StableDiffusionXLPipeline), large(StableDiffusionXLImg2ImgPipeline)
    settings = {"height": 16, "width": 16, "denoising_end": 0.6}
    first = watch(SAMPLERS[name](), 10, base, **settings, output_type="latent").clock
    second = watch(SAMPLERS[name](), 10, refiner, image=torch.randn(1, 4, 8, 8), denoising_start=0.6).clock
    assert first.calls == first.total
    assert second.calls == second.total
    whole = SAMPLERS[name]()
    whole.set_timesteps(10)
    planned = [float(timestep) for timestep in whole.timesteps]
    assert first.timesteps == planned[: first.calls]
    assert second.timesteps == planned[-second.calls :]
    # Heun's first expert stops between the two halves of a step, which the second one takes again.
    assert first.calls + second.calls == len(planned) + (name == "heun")
    assert first.steps[0] == second.steps[0] == 0
    assert first.sigmas[-1] >= second.sigmas[0]


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
    assert rec.store.complete.tolist() == [True]

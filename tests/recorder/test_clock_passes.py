"""Clocks of flow matching, of denoisers that get a scaled timestep, and of guidance branches in separate passes.

The schedulers are driven by hand, as their pipelines do.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    SCMScheduler,
    UniPCMultistepScheduler,
)

from attlas.recorder.clock import Clock
from attlas.schemas.errors import ObservationError

# diffusers makes arrays of tensors in a way that NumPy 2 dislikes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]


def flowing(scheduler, steps, scale, passes=1, **settings):
    """Drive a flow scheduler as its pipelines do: several passes a step, and a timestep scaled for the denoiser."""
    scheduler.set_timesteps(steps, **settings)
    pipe = SimpleNamespace(scheduler=scheduler)
    sample, clock = torch.ones(1, 4), None
    located = []
    for timestep in scheduler.timesteps:
        for _ in range(passes):
            given_value = scale(float(timestep))
            clock = clock or Clock.begin(pipe, given_value, passes)
            located.append(clock.locate(given_value))
        sample = scheduler.step(torch.zeros(1, 4), timestep, sample).prev_sample
    return clock, located


SCALES = {
    "as it is": lambda t: t,
    "flux": lambda t: t / 1000,
    "lumina": lambda t: 1 - t / 1000,
    "bfloat16": lambda t: float(torch.tensor(t, dtype=torch.bfloat16)),
}


@pytest.mark.parametrize("passes", [1, 2, 3])
@pytest.mark.parametrize("scale", SCALES)
def test_flow_matching_mixes_noise_and_signal(scale, passes):
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    clock, located = flowing(scheduler, 28, SCALES[scale], passes, mu=1.15)
    assert located == [(call, place) for call in range(28) for place in range(passes)]
    assert clock.steps == list(range(28))
    np.testing.assert_allclose(clock.timesteps, scheduler.timesteps)
    assert clock.given == [SCALES[scale](float(t)) for t in scheduler.timesteps]
    assert clock.sigmas[0] == np.inf
    one = torch.ones(1)
    noises = [float(scheduler.scale_noise(0 * one, t[None], one)) for t in scheduler.timesteps[1:]]
    signals = [float(scheduler.scale_noise(one, t[None], 0 * one)) for t in scheduler.timesteps[1:]]
    np.testing.assert_allclose(clock.sigmas[1:], np.divide(noises, signals), rtol=1e-5)


def test_flow_matching_of_second_order():
    clock, _ = flowing(FlowMatchHeunDiscreteScheduler(), 4, SCALES["as it is"])
    assert clock.steps == [0, 0, 1, 1, 2, 2, 3]
    share = np.divide(clock.timesteps[1:], 1000)
    np.testing.assert_allclose(clock.sigmas[1:], share / (1 - share), rtol=1e-5)


def test_flow_sigmas_of_other_samplers():
    # Wan's sampler: UniPC on a flow; its sigmas are shares of noise although it has alphas.
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    clock, _ = flowing(scheduler, 6, SCALES["as it is"])
    share = scheduler.sigmas[:6].double().numpy()
    np.testing.assert_allclose(clock.sigmas, share / (1 - share), rtol=1e-6)


def test_inverted_flow_starts_with_noise():
    # Mochi counts signal instead of noise.
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    clock, _ = flowing(scheduler, 4, SCALES["as it is"])
    assert clock.sigmas[0] == np.inf
    assert clock.sigmas == sorted(clock.sigmas, reverse=True)


def test_consistency_on_a_circle():
    # Signal is cos(t), noise sin(t).
    scheduler = SCMScheduler()
    scheduler.set_timesteps(2, intermediate_timesteps=1.3)
    clock = Clock.begin(SimpleNamespace(scheduler=scheduler, _num_timesteps=2), float(scheduler.timesteps[0]))
    for timestep in scheduler.timesteps[:-1]:
        clock.locate(float(timestep))
    assert clock.steps == [0, 1]
    assert clock.sigmas[1] == pytest.approx(np.sin(1.3) / np.cos(1.3))


def test_a_timestep_that_is_not_the_schedulers():
    # Some denoisers get something else altogether, such as a noise level: the scheduler's list counts.
    scheduler = FlowMatchEulerDiscreteScheduler()
    clock, _ = flowing(scheduler, 4, lambda t: float(np.log(t + 1) / 4))
    np.testing.assert_allclose(clock.timesteps, scheduler.timesteps)
    assert clock.given[0] == pytest.approx(np.log(1001) / 4)
    # Of an image-to-image run of two calls, then, the end.
    late = Clock.begin(SimpleNamespace(scheduler=begun(1)[0].scheduler, _num_timesteps=2), 1.6)
    assert (late.start, late.total) == (2, 2)


def begun(passes, steps=4):
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(steps)
    times = [float(t) for t in scheduler.timesteps]
    return Clock.begin(SimpleNamespace(scheduler=scheduler), times[0], passes), times


def test_more_passes_than_expected():
    clock, times = begun(1)
    clock.locate(times[0])
    with pytest.raises(ObservationError, match="in call 1 as in the one before.*more than 1 pass a call"):
        clock.locate(times[0])


def test_fewer_passes_than_expected():
    clock, times = begun(2)
    assert clock.locate(times[0]) == (0, 0)
    with pytest.raises(ObservationError, match="pass 2 of call 0.*expected to make 2 passes a call"):
        clock.locate(times[1])


def test_passes_beyond_the_last():
    clock, times = begun(2, steps=1)
    assert [clock.locate(times[0]) for _ in range(2)] == [(0, 0), (0, 1)]
    assert clock.calls == 1
    with pytest.raises(ObservationError, match="3th time in a run of 1 calls of 2 passes each"):
        clock.locate(times[0])


def test_ticks_count_calls():
    clock, times = begun(1)
    assert [clock.locate(timestep)[0] for timestep in times] == [0, 1, 2, 3]

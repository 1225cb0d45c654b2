"""Noise level of a denoiser call, as the scheduler computes it: noise over signal."""

import math
from typing import Any

import torch

__all__ = ["noise_level"]


def noise_level(scheduler: Any, place: int, timestep: float) -> float:
    """Noise level over signal level at `place` in the scheduler's list of timesteps, where `timestep` stands.

    Returns
    -------
    ``sqrt((1 - a) / a)`` for schedulers with a cumulative product of alphas `a`, ``s / (1 - s)`` for flow matching,
    which mixes ``1 - s`` signal with ``s`` noise, ``tan(timestep)`` for consistency models on a circle, the
    scheduler's own sigma where there is nothing else; inf at zero signal, NaN where the scheduler says none of these.
    """
    if type(scheduler).__name__ == "SCMScheduler":
        return math.tan(timestep) if timestep < math.pi / 2 else math.inf
    sigma = _own_sigma(scheduler, place)
    power = getattr(scheduler, "alphas_cumprod", None)
    if _mixes(scheduler, power):
        if sigma is None:
            return math.nan
        noise = 1 - sigma if _setting(scheduler, "invert_sigmas") else sigma
        return math.inf if noise >= 1 else noise / (1 - noise)
    if sigma is not None:
        return sigma
    return _at(power, timestep) if isinstance(power, torch.Tensor) else math.nan


def _own_sigma(scheduler: Any, place: int) -> float | None:
    """Return the sampler's sigma of a call, or None where it keeps none or evaluates between two of them."""
    sigmas = getattr(scheduler, "sigmas", None)
    if not isinstance(sigmas, torch.Tensor) or not place < len(scheduler.timesteps) < len(sigmas):
        return None
    between = hasattr(scheduler, "sigmas_interpol") or hasattr(scheduler, "mid_point_sigma")
    return None if between and place % 2 else float(sigmas[place])


def _mixes(scheduler: Any, power: Any) -> bool:
    """Whether the scheduler's sigma is a share of noise, as in flow matching."""
    if _setting(scheduler, "use_flow_sigmas") or _setting(scheduler, "prediction_type") == "flow_prediction":
        return True
    if type(scheduler).__name__.startswith("FlowMatch"):
        return True
    sigmas = getattr(scheduler, "sigmas", None)
    return power is None and isinstance(sigmas, torch.Tensor) and float(sigmas.max()) <= 1


def _setting(scheduler: Any, name: str) -> Any:
    return getattr(getattr(scheduler, "config", None), name, None)


def _at(power: torch.Tensor, timestep: float) -> float:
    """Level at a timestep; its logarithm is linear between whole ones, as where samplers turn levels into timesteps."""
    low = min(max(math.floor(timestep), 0), len(power) - 1)
    high = min(low + 1, len(power) - 1)
    part = timestep - low
    if part <= 0 or low == high:
        return _level(power, low)
    below, above = _level(power, low), _level(power, high)
    if below <= 0 or math.isinf(above):
        return above
    return math.exp((1 - part) * math.log(below) + part * math.log(above))


def _level(power: torch.Tensor, place: int) -> float:
    signal = float(power[place].double())
    return math.inf if signal <= 0 else math.sqrt((1 - signal) / signal)

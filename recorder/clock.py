"""Which denoiser call is which: call, sampler step, timestep and noise level.

They differ: PNDM makes 51 calls for 50 steps, second-order samplers two calls a step, and image-to-image starts
late. Everything is read from the scheduler, nothing of it is changed.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from attlas.schemas.errors import ObservationError

__all__ = ["Clock"]


@dataclass
class Clock:
    """The denoiser calls of one run; `total` is known before the first one computes."""

    scheduler: Any
    total: int
    start: int = 0
    timesteps: list[float] = field(default_factory=list)

    @classmethod
    def begin(cls, pipe: Any, timestep: float) -> "Clock":
        """Read how many calls a run will make, at its first call, which is for `timestep`.

        The pipeline's own count comes first (it knows strength and early ends), then the scheduler's timesteps
        from its begin index, or from the first call's timestep where it has none.
        """
        scheduler = pipe.scheduler
        planned = [float(value) for value in scheduler.timesteps]
        start = getattr(scheduler, "begin_index", None)
        if start is None:
            start = planned.index(timestep) if timestep in planned else 0
        counted = getattr(pipe, "_num_timesteps", None)
        total = counted if isinstance(counted, int) else len(planned) - start
        return cls(scheduler, total, start)

    def tick(self, timestep: float) -> int:
        """Count one call and return its number."""
        call = len(self.timesteps)
        if call >= self.total:
            raise ObservationError(
                f"the denoiser is called for the {call + 1}th time in a run of {self.total} calls; pipelines that "
                "compute guidance branches in separate passes cannot be recorded"
            )
        self.timesteps.append(timestep)
        return call

    @property
    def steps(self) -> list[int]:
        """Sampler step of each call so far, from 0."""
        calls = range(len(self.timesteps))
        if type(self.scheduler).__name__ == "PNDMScheduler":
            return [self._pndm_step(call) for call in calls]
        order = int(getattr(self.scheduler, "order", 1))
        first = self.start // order
        return [(self.start + call) // order - first for call in calls]

    def _pndm_step(self, call: int) -> int:
        """PNDM evaluates its first step twice, or its first three steps four times each with Runge-Kutta."""
        if self.scheduler.config.skip_prk_steps:
            return max(0, call - 1)
        return call // 4 if call < 12 else call - 9

    @property
    def sigmas(self) -> list[float]:
        """Noise level over signal level of each call so far; inf at zero signal, NaN where the scheduler hides it."""
        return [self._sigma(call) for call in range(len(self.timesteps))]

    def _sigma(self, call: int) -> float:
        signal = getattr(self.scheduler, "alphas_cumprod", None)
        if isinstance(signal, torch.Tensor):
            power = signal.double().cpu().numpy()
            with np.errstate(divide="ignore"):
                levels = np.sqrt((1 - power) / power)
            return _between(levels, self.timesteps[call])
        sigmas = getattr(self.scheduler, "sigmas", None)
        if isinstance(sigmas, torch.Tensor) and self.start + call < len(sigmas) and float(sigmas.max()) <= 1:
            mixed = float(sigmas[self.start + call])  # flow matching mixes (1 - sigma) signal with sigma noise
            return math.inf if mixed >= 1 else mixed / (1 - mixed)
        return math.nan


def _between(levels: np.ndarray[Any, Any], timestep: float) -> float:
    """Level at a timestep, linear between whole ones, as the schedulers themselves interpolate."""
    low = min(max(math.floor(timestep), 0), len(levels) - 1)
    high = min(low + 1, len(levels) - 1)
    part = timestep - low
    return float(levels[low] if part <= 0 else (1 - part) * levels[low] + part * levels[high])

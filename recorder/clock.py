"""Which denoiser call is which: call, guidance pass, sampler step, timestep and noise level.

They differ: PNDM makes 51 calls for 50 steps, second-order samplers two calls a step, image-to-image starts late,
and some pipelines compute their guidance branches one after the other, so that the denoiser runs several passes for
one call of the scheduler. Everything is read from the scheduler, nothing of it is changed.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from attlas.recorder.noise import noise_level
from attlas.schemas.errors import ObservationError

__all__ = ["Clock"]

ROUNDING = 2.0**-7
"""Relative error that pipelines make when they hand the denoiser a timestep in bfloat16, with a bit to spare."""

TINY = 1e-4
"""Error of a timestep that is 0, or was turned round to be."""


@dataclass
class Clock:
    """The scheduler's calls of one run, each of `passes` passes of the denoiser.

    ``total`` calls are known before the first one computes. ``planned`` is the scheduler's own list of timesteps, of
    which the run takes those from ``start`` on; ``given`` is what the denoiser got in the calls so far, which some
    pipelines scale (timestep / 1000) or turn round (1 - timestep / 1000).
    """

    scheduler: Any
    total: int
    start: int = 0
    passes: int = 1
    planned: tuple[float, ...] = ()
    given: list[float] = field(default_factory=list)
    _seen: int = 0

    @classmethod
    def begin(cls, pipe: Any, timestep: float, passes: int = 1) -> "Clock":
        """Read how many calls a run will make, at its first one, for which the denoiser got `timestep`.

        The pipeline's own count comes first (it knows strength and early ends), then the scheduler's timesteps
        from its begin index, or from the first call's timestep where it has none.
        """
        scheduler = pipe.scheduler
        planned = tuple(float(value) for value in torch.as_tensor(scheduler.timesteps).tolist())
        counted = getattr(pipe, "_num_timesteps", None)
        counted = counted if isinstance(counted, int) else None
        start = getattr(scheduler, "begin_index", None)
        if start is None:
            start = _start(scheduler, planned, timestep, counted)
        total = len(planned) - start if counted is None else counted
        return cls(scheduler, total, start, passes, planned)

    def locate(self, timestep: float) -> tuple[int, int]:
        """Count one pass of the denoiser, which got `timestep`; return which call of the run and which pass of it.

        Raises
        ------
        ObservationError
            If there are more passes than the run has, or the timesteps show that a call has more or fewer of them
            than ``passes``.
        """
        call, place = divmod(self._seen, self.passes)
        if call >= self.total:
            raise ObservationError(
                f"the denoiser is called for the {self._seen + 1}th time in a run of {self.total} calls"
                f"{f' of {self.passes} passes each' if self.passes > 1 else ''}; pipelines that compute guidance "
                "branches in separate passes can be recorded where their family says so (Family(passes=...))"
            )
        if place == 0:
            self._check_moved(call, timestep)
            self.given.append(timestep)
        elif timestep != self.given[call]:
            raise ObservationError(
                f"the denoiser got timestep {timestep:g} in pass {place + 1} of call {call}, and "
                f"{self.given[call]:g} in pass 1; this pipeline was expected to make {self.passes} passes a call, "
                "one for each guidance branch"
            )
        self._seen += 1
        return call, place

    @property
    def calls(self) -> int:
        """Calls of which every pass has begun."""
        return self._seen // self.passes

    @property
    def timesteps(self) -> list[float]:
        """Scheduler's own timestep of each call so far; what the denoiser got where the scheduler has none."""
        places = range(self.start, self.start + len(self.given))
        return [
            self.planned[place] if place < len(self.planned) else given
            for place, given in zip(places, self.given, strict=True)
        ]

    @property
    def steps(self) -> list[int]:
        """Sampler step of each call so far, from 0."""
        calls = range(len(self.given))
        if type(self.scheduler).__name__ == "PNDMScheduler":
            return [self._pndm_step(call) for call in calls]
        order = int(getattr(self.scheduler, "order", 1))
        first = self.start // order
        return [(self.start + call) // order - first for call in calls]

    @property
    def sigmas(self) -> list[float]:
        """Noise level over signal level of each call so far; inf at zero signal, NaN where the scheduler hides it."""
        return [noise_level(self.scheduler, self.start + call, value) for call, value in enumerate(self.timesteps)]

    def _pndm_step(self, call: int) -> int:
        """PNDM evaluates its first step twice, or its first three steps four times each with Runge-Kutta."""
        if self.scheduler.config.skip_prk_steps:
            return max(0, call - 1)
        runge_kutta = len(self.scheduler.prk_timesteps)
        return call // 4 if call < runge_kutta else runge_kutta // 4 + call - runge_kutta

    def _check_moved(self, call: int, timestep: float) -> None:
        """Say that a call repeats the one before, where the scheduler has gone on to another timestep."""
        place = self.start + call
        if call == 0 or place >= len(self.planned) or timestep != self.given[-1]:
            return
        now, before = self.planned[place], self.planned[place - 1]
        if abs(now - before) > 2 * ROUNDING * max(abs(now), abs(before)):
            raise ObservationError(
                f"the denoiser got timestep {timestep:g} in call {call} as in the one before, where the scheduler went "
                f"from {before:g} to {now:g}: this pipeline makes more than {self.passes} "
                f"pass{'es' if self.passes > 1 else ''} a call; it can be recorded where its family says so "
                "(Family(passes=...))"
            )


def _start(scheduler: Any, planned: tuple[float, ...], timestep: float, counted: int | None) -> int:
    """Place of the first call in the scheduler's list, where the scheduler was not told.

    Samplers list some timesteps twice, and pipelines scale what they give: of the places that fit, the one from
    which the pipeline's count ends with the list (also where none fits), else the first that a sampler's step begins
    with.
    """
    span = float(getattr(getattr(scheduler, "config", None), "num_train_timesteps", 1000))
    fitting: set[int] = set()
    for scaled in (planned, [value / span for value in planned], [1 - value / span for value in planned]):
        near = min((abs(value - timestep) for value in scaled), default=math.inf)
        if near <= ROUNDING * abs(timestep) + TINY:
            fitting |= {place for place, value in enumerate(scaled) if abs(value - timestep) == near}
    if counted is not None and counted <= len(planned):
        late = len(planned) - counted
        fitting = {place for place in fitting if place <= late} or {late}
        if late in fitting:
            return late
    order = int(getattr(scheduler, "order", 1))
    whole = {place for place in fitting if place % order == 0}
    return min(whole or fitting, default=0)

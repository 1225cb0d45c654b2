"""A training stage: steps that can be killed at any time and continued.

Step ``k`` of a stage draws all its random numbers from generators seeded by ``(seed, stage, k)``; so a stage that
was resumed sees the same samples and noise as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from tqdm import tqdm


class Stateful(Protocol):
    """Whatever must survive an interruption: a module, an optimiser, an average."""

    def state_dict(self) -> dict[str, Any]:
        """All of the state."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Continue from a state."""


class Average:
    """Exponential moving average of a module's parameters, the version that ships.

    The decay rises to its final value over the first steps, so that a short training is not held at its random start.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module = module
        self._decay = decay
        self._steps = 0
        self._values = {name: value.detach().clone() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the module's present parameters."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        for name, value in self._module.named_parameters():
            self._values[name].lerp_(value, 1 - decay)

    def copy_to(self, module: nn.Module) -> None:
        """Give a module the averaged parameters."""
        module.load_state_dict(self._values, strict=False)

    def state_dict(self) -> dict[str, Any]:
        """All of the state."""
        return {"steps": self._steps, "values": self._values}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Continue from a state."""
        self._steps = state_dict["steps"]
        for name, value in state_dict["values"].items():
            self._values[name].copy_(value)


@dataclass(frozen=True)
class Workshop:
    """Where training happens and what it is seeded by.

    Attributes
    ----------
    folder
        Takes checkpoints and ``training.log``.
    seed
        Of the whole training.
    device
        Of models and batches; data are drawn on the CPU, the same for every device.
    checkpoint_every
        Seconds between two checkpoints of a stage.
    batch
        Samples a step, in place of each stage's own; for trials.
    """

    folder: Path
    seed: int
    device: torch.device
    checkpoint_every: float = 60.0
    batch: int | None = None

    def log(self, message: str) -> None:
        """Append a line with the time to ``training.log`` and show it above the progress bar."""
        line = f"{time.strftime('%H:%M:%S', time.gmtime())} {message}"
        with (self.folder / "training.log").open("a", encoding="utf-8") as log:
            log.write(line + "\n")
        tqdm.write(line)

    def generator(self, stage: str, step: int) -> torch.Generator:
        """Random numbers of one step of one stage."""
        number = int.from_bytes(stage.encode()[:3], "big")
        return torch.Generator().manual_seed((self.seed * 2**24 + number) * 2**24 + step)


def cosine_rate(step: int, steps: int, *, warm_up: int = 50, hold: float = 0.0) -> float:
    """Factor on the learning rate: a linear rise, level until the share ``hold`` of the steps, a cosine fall to 2 %."""
    rise = min(1.0, (step + 1) / warm_up)
    fallen = max(0.0, step / max(1, steps) - hold) / (1 - hold)
    return rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, fallen))))


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Scale each group's learning rate from the ``base`` it was made with."""
    for group in optimiser.param_groups:
        group["lr"] = group["base"] * factor


def run_stage(
    workshop: Workshop,
    name: str,
    steps: int,
    state: Mapping[str, Stateful],
    step: Callable[[int], dict[str, torch.Tensor]],
) -> None:
    """Run a stage to its end, from wherever its last checkpoint left it.

    Parameters
    ----------
    workshop
        Folder, seed and device.
    name
        Of the stage; names the checkpoint and the progress bar.
    steps
        How many to run in all. A checkpoint of as many steps makes this call a mere load.
    state
        What is saved and restored.
    step
        Does one step and returns the losses to report, each a scalar.
    """
    path = workshop.folder / "checkpoints" / f"{name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    first = 0
    if path.exists():
        saved = torch.load(path, map_location=workshop.device, weights_only=True)
        first = saved["step"]
        for key, part in state.items():
            part.load_state_dict(saved["state"][key])
        workshop.log(f"{name}: continued at step {first} of {steps}")
    if first >= steps:
        return

    def save(done: int) -> None:
        parts = {key: part.state_dict() for key, part in state.items()}
        draft = path.with_suffix(".wip")
        torch.save({"step": done, "state": parts}, draft)
        os.replace(draft, path)

    started = last_saved = time.monotonic()
    sums: dict[str, float] = {}
    report_every = max(1, steps // 40)
    with tqdm(total=steps, initial=first, desc=name, unit="step", mininterval=5.0) as bar:
        for index in range(first, steps):
            for key, value in step(index).items():
                sums[key] = sums.get(key, 0.0) + float(value.detach())
            bar.update()
            done = index + 1
            if done % report_every == 0 or done == steps:
                since = done - max(first, (done - 1) // report_every * report_every)
                means = {key: round(value / since, 4) for key, value in sums.items()}
                sums.clear()
                workshop.log(f"{name}: step {done} of {steps}, {time.monotonic() - started:.0f} s, {json.dumps(means)}")
            if done == steps or time.monotonic() - last_saved > workshop.checkpoint_every:
                save(done)
                last_saved = time.monotonic()

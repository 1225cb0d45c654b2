"""One resumable optimisation: weights, optimiser, running average, checkpoint file and log."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

__all__ = ["Log", "Run", "Stage", "fit"]

LOG_EVERY = 50
CHECKPOINT_EVERY = 100


class Log:
    """Appends JSON lines to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **entry: str | float) -> None:
        """Append one line; floats are kept to five significant digits."""
        rounded = {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in entry.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")


@dataclass(frozen=True)
class Run:
    """What the stages of one training share.

    Attributes
    ----------
    folder : Path
        Where checkpoints and the log live.
    log : Log
        Gets the losses and what the probes say.
    scenes : int
        Number of training scenes: those of seeds 0 to ``scenes - 1``.
    seed : int
        Seed of every draw.
    deadline : float
        ``time.monotonic()`` value after which to save and stop.
    """

    folder: Path
    log: Log
    scenes: int
    seed: int
    deadline: float


@dataclass(frozen=True)
class Stage:
    """How one part of the training goes.

    Attributes
    ----------
    name : str
        Name in the log and of the checkpoint file.
    steps : int
        Length.
    rate : float
        Learning rate after the warm-up.
    decay_from : float
        Fraction of the steps after which the rate falls to zero along a half cosine.
    average : float
        Decay of the exponential moving average of the weights.
    probe_every : int
        Steps between two calls of the probe.
    """

    name: str
    steps: int
    rate: float
    decay_from: float
    average: float
    probe_every: int = 250

    def schedule(self, step: int) -> float:
        """Learning rate of a step: linear warm-up over 100 steps, constant, half cosine."""
        warm = min(1.0, (step + 1) / 100)
        late = max(0.0, (step / self.steps - self.decay_from) / (1 - self.decay_from))
        return float(self.rate * warm * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * late)).item()))


def fit(
    model: nn.Module,
    stage: Stage,
    loss: Callable[[int], Tensor],
    probe: Callable[[], Mapping[str, float]],
    run: Run,
) -> bool:
    """Train until the stage is complete or the deadline has passed.

    Every random draw of step ``i`` must follow from ``i`` alone (``loss`` is given ``i``): then a run that was
    killed and started again goes through the same numbers as one that was not.

    Parameters
    ----------
    model : torch.nn.Module
        Trained in place; on return it holds the averaged weights if the stage is complete.
    stage : Stage
        Length, rates, average.
    loss : callable
        From the step to a scalar tensor with a gradient.
    probe : callable
        Gives numbers for the log; called with the averaged weights in ``model``, in eval mode.
    run : Run
        Its folder holds the checkpoint ``<stage name>.pt``; if that is there, training goes on from it.
        Its log gets the mean loss every 50 steps, and what the probe says.

    Returns
    -------
    bool
        Whether the stage is complete.
    """
    path = run.folder / f"{stage.name}.pt"
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.rate, fused=True)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    first, seconds = 0, 0.0
    if path.exists():
        saved = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average, first, seconds = saved["average"], saved["step"], saved["seconds"]
    started = time.monotonic() - seconds

    def save(step: int) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
        # A kill while writing must leave the previous checkpoint whole.
        torch.save({**state, "step": step, "seconds": time.monotonic() - started}, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    losses: list[Tensor] = []
    with tqdm(total=stage.steps, initial=first, desc=stage.name, unit="step") as bar:
        for step in range(first, stage.steps):
            if time.monotonic() > run.deadline:
                save(step)
                return False
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = stage.schedule(step)
            value = loss(step)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            # Early steps weigh more, or the random start would stay in the average for long.
            keep = min(stage.average, (step + 1) / (step + 10))
            for name, weight in model.state_dict().items():
                average[name].lerp_(weight, 1 - keep) if weight.is_floating_point() else average[name].copy_(weight)
            losses.append(value.detach())
            bar.update()
            done = step + 1
            if done % LOG_EVERY == 0 or done == stage.steps:
                mean = torch.stack(losses).mean().item()
                bar.set_postfix(loss=f"{mean:.4f}")
                run.log.write(stage=stage.name, step=done, seconds=time.monotonic() - started, loss=mean)
                losses.clear()
            if done % stage.probe_every == 0 or done == stage.steps:
                found = _probe(model, average, probe)
                run.log.write(stage=stage.name, step=done, seconds=time.monotonic() - started, **found)
            if done % CHECKPOINT_EVERY == 0 or done == stage.steps:
                save(done)
    model.load_state_dict(average)
    model.eval()
    return True


def _probe(
    model: nn.Module, average: Mapping[str, Tensor], probe: Callable[[], Mapping[str, float]]
) -> Mapping[str, float]:
    current = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(average)
    model.eval()
    with torch.no_grad():
        found = probe()
    model.load_state_dict(current)
    return found

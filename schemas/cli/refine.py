"""The `attlas demo-refine` command: the losses of the analysis in a training of the recorder's demo.

Neither of the two may import the other; this names both, and is where they meet.
"""

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from attlas.schemas.errors import InvalidValueError, StoreExistsError

__all__ = ["refine"]


@click.command("demo-refine")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for log, checkpoints, weights.")
@click.option("--control", is_flag=True, help="Train as long on the same samples, with the diffusion loss alone.")
@click.option("--steps", type=click.IntRange(1), help="Training steps.  [default: as the weights that ship]")
@click.option("--scenes", type=click.IntRange(1), help="Training figures to draw from.  [default: as for steps]")
@click.option("--dcml", default=0.003, show_default=True, help="Weight of DCML, a sum over pairs (eq. 16-18).")
@click.option("--tv", default=0.0001, show_default=True, help="Weight of TV, a sum over neighbours (eq. 19).")
@click.option("--cwg", default=5.0, show_default=True, help="Weight of CWG, a mean over queries and patches (eq. 21).")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 999), help="Of samples and noise.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Of torch.")
def refine(
    out: Path,
    control: bool,
    steps: int | None,
    scenes: int | None,
    dcml: float,
    tv: float,
    cwg: float,
    seed: int,
    threads: int,
) -> None:
    """Fine-tune the try-on demo with I2AM's losses on its attention (eq. 22).

    Writes OUT/refined.safetensors, or OUT/control.safetensors with --control. The shipped weights were made by this
    command. Given again, it goes on where it stopped; other settings need another folder.
    """
    weights = {"dcml": dcml, "tv": tv, "cwg": cwg}
    for name, weight in weights.items():
        if weight < 0:
            raise InvalidValueError(f"--{name} must not be negative; got {weight}")
    refining = importlib.import_module("attlas.recorder.demo.tryon.refining")
    importlib.import_module("torch").set_num_threads(threads)
    plan = refining.Plan(**{name: n for name, n in (("steps", steps), ("scenes", scenes)) if n is not None})
    name = "control" if control else "refined"
    _claim(out, name, {"plan": asdict(plan), "seed": seed, "weights": None if control else weights})
    path = refining.refine(out, None if control else attention_losses(weights), name=name, plan=plan, seed=seed)
    click.echo(f"Weights    {path}")


def _claim(out: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Write down what the folder's training is made with; refuse a folder that has checkpoints of other settings."""
    path = out / f"{name}.json"
    wanted = json.loads(json.dumps(settings))
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != wanted:
            differing = [key for key in wanted if found.get(key) != wanted[key]]
            raise StoreExistsError(
                f"{out} holds a training with other settings ({', '.join(differing)}; see {path}); give the same, or "
                "another --out"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")


def attention_losses(weights: Mapping[str, float]) -> Any:
    """Weighted terms of eq. 22 for `refine`: each averaged over layers and samples."""
    losses = importlib.import_module("attlas.analysis.papers.attention_losses").LOSSES

    def terms(attention: Any, queries: Any, places: Any) -> dict[str, Any]:
        return {name: weight * losses[name](attention, queries, places).mean() for name, weight in weights.items()}

    return terms

"""Train the shapes pipeline: ``python -m attlas.recorder.demo.shapes.training --out DIR``.

Two stages: the picture codec; then the denoiser together with its text encoder.
Everything is seeded. A run that was killed, or stopped by ``--minutes``, goes on when the same command is given
again, and passes through the same numbers as an uninterrupted one.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from attlas.recorder.demo.shapes.architecture import (
    build_autoencoder,
    build_denoiser,
    build_pipeline,
    build_text_encoder,
)
from attlas.recorder.demo.shapes.autoencoder import train_autoencoder
from attlas.recorder.demo.shapes.denoiser import Denoiser, train_denoiser
from attlas.recorder.demo.shapes.learner import Log, Run
from attlas.recorder.demo.shapes.prompts import TRAINING_SCENES

__all__ = ["Recipe", "main", "train"]


@dataclass(frozen=True)
class Recipe:
    """Lengths and seed of a training; the defaults made the pipeline that ships.

    Attributes
    ----------
    autoencoder_steps, denoiser_steps : int
        Steps of the two stages.
    scenes : int
        Training scenes: those of seeds 0 to ``scenes - 1``.
    seed : int
        Seed of the initial weights and of every draw.
    """

    autoencoder_steps: int = 800
    denoiser_steps: int = 2000
    scenes: int = TRAINING_SCENES
    seed: int = 0


def train(out: Path, recipe: Recipe, *, minutes: float = math.inf, device: str = "cpu") -> bool:
    """Train, or go on training, in a folder.

    Parameters
    ----------
    out : Path
        Gets the checkpoints, ``training.log`` (JSON lines), and at the end the folder ``pipeline``.
    recipe : Recipe
        Must be the one that the folder was begun with.
    minutes : float
        Save and stop after this time; the next call goes on.
    device : str
        A torch device.

    Returns
    -------
    bool
        Whether training is complete and ``out/pipeline`` is written.

    Raises
    ------
    ValueError
        If the folder was begun with another recipe.
    """
    deadline = time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    _check_recipe(out / "recipe.json", recipe)
    run = Run(out, Log(out / "training.log"), recipe.scenes, recipe.seed, deadline)

    torch.manual_seed(recipe.seed)
    autoencoder = build_autoencoder().to(device)
    model = Denoiser(build_denoiser(), build_text_encoder()).to(device)
    if not train_autoencoder(autoencoder, recipe.autoencoder_steps, run):
        return False
    autoencoder.requires_grad_(False).eval()

    if not train_denoiser(model, autoencoder, recipe.denoiser_steps, run):
        return False

    pipeline = build_pipeline(autoencoder, model.text_encoder, model.unet)
    save_pipeline(pipeline, out / "pipeline")
    return True


def save_pipeline(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Write the pipeline in float16 safetensors, readable by ``StableDiffusionPipeline.from_pretrained``."""
    # Part by part: the pipeline's own ``to`` warns that float16 cannot run on a CPU, which nobody wants here.
    for module in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        module.to("cpu").half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    # transformers loads in the dtype that the configuration names, diffusers in float32: by default the parts
    # would not fit together. The configuration therefore names float32; the stored weights stay as they are.
    path = folder / "text_encoder" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"dtype": "float32"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m attlas.recorder.demo.shapes.training", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints, log and pipeline")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time, to go on later")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (more than one is often slower)")
    default = Recipe()
    for name, value in asdict(default).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=f"default {value}")
    given = vars(parser.parse_args(arguments))
    torch.set_num_threads(given.pop("threads"))
    out, minutes = given.pop("out"), given.pop("minutes")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    complete = train(out, Recipe(**given), minutes=minutes, device=device)
    message = f"wrote {out / 'pipeline'}" if complete else "stopped in time; give the same command to go on"
    print(message)  # noqa: T201


def _check_recipe(path: Path, recipe: Recipe) -> None:
    wanted = asdict(recipe)
    if not path.exists():
        path.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
    begun = json.loads(path.read_text(encoding="utf-8"))
    if begun != wanted:
        raise ValueError(
            f"{path.parent} holds a training with {begun}, this one asks for {wanted}; choose another folder"
        )


if __name__ == "__main__":
    main()

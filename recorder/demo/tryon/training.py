"""Train the try-on pipeline: ``python -m attlas.recorder.demo.tryon.training --out DIR``.

Four stages, each continued from its last checkpoint if the command is given again: the autoencoder, the image
encoder's warm-up, the denoiser, the decoder once more. The result is ``DIR/pipeline``, beside ``DIR/training.log``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from attlas.recorder.demo.tryon.autoencoder import train_autoencoder, tune_decoder
from attlas.recorder.demo.tryon.denoiser import SCENES, cache_latents, train_denoiser
from attlas.recorder.demo.tryon.inpainting import TryOnPipeline
from attlas.recorder.demo.tryon.models import new_scheduler
from attlas.recorder.demo.tryon.stages import Workshop
from attlas.recorder.demo.tryon.warm_up import warm_up_encoder


@dataclass(frozen=True)
class Plan:
    """How much each stage trains; the defaults made the weights that ship.

    Attributes
    ----------
    autoencoder, warm_up, denoiser, decoder
        Steps of the stages, each at least 1.
    scenes
        Training figures whose latents are cached for the denoiser.
    batch
        Samples a step, in place of each stage's own; for trials.
    """

    autoencoder: int = 2200
    warm_up: int = 900
    denoiser: int = 1900
    decoder: int = 600
    scenes: int = SCENES
    batch: int | None = None


def train(out: Path, *, plan: Plan | None = None, seed: int = 0, device: str | None = None) -> Path:
    """Train, or continue to train, and save the pipeline.

    Parameters
    ----------
    out
        Folder for checkpoints, log and result; made if missing. One that holds checkpoints is continued.
    plan
        Steps of each stage; ``None`` is the default `Plan`.
    seed
        Of data, starting weights and noise.
    device
        ``cpu`` or ``cuda``; ``None`` takes CUDA if it is there.

    Returns
    -------
    ``out / "pipeline"``, float16 safetensors that ``TryOnPipeline.from_pretrained`` reads.
    """
    plan = plan or Plan()
    out.mkdir(parents=True, exist_ok=True)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    workshop = Workshop(out, seed, chosen, batch=plan.batch)
    workshop.log(f"training on {chosen}, {torch.get_num_threads()} thread(s), seed {seed}, {plan}")

    autoencoder = train_autoencoder(workshop, plan.autoencoder)
    encoder = warm_up_encoder(workshop, plan.warm_up)
    cache = cache_latents(workshop, autoencoder, plan.scenes)
    unet, encoder = train_denoiser(workshop, encoder, cache, plan.denoiser)
    autoencoder = tune_decoder(workshop, autoencoder, plan.decoder)

    folder = out / "pipeline"
    for part in (autoencoder, unet, encoder):
        # The file format knows no channels-last layout.
        part.half().to(memory_format=torch.contiguous_format)
    TryOnPipeline(autoencoder, unet, encoder, new_scheduler()).save_pretrained(folder)
    _ask_for_float32(folder / "image_encoder" / "config.json")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    workshop.log(f"saved {folder.name}, {size / 1e6:.2f} MB")
    return folder


def _ask_for_float32(config: Path) -> None:
    """Have transformers load the half-precision file in float32 by default, as diffusers does with its own."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["dtype"] = "float32"
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="Train the try-on demo pipeline; give the command again to resume.")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, log and the pipeline")
    parser.add_argument("--seed", type=int, default=0, help="of data, starting weights and noise (0)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="CUDA if it is there, else the CPU")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (1)")
    for stage in ("autoencoder", "warm_up", "denoiser", "decoder"):
        steps = getattr(Plan, stage)
        parser.add_argument(f"--{stage.replace('_', '-')}-steps", type=int, default=steps, help=f"({steps})")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    plan = Plan(given.autoencoder_steps, given.warm_up_steps, given.denoiser_steps, given.decoder_steps)
    train(given.out, plan=plan, seed=given.seed, device=given.device)


if __name__ == "__main__":
    main()

"""Training of the picture codec."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from attlas.recorder.demo.shapes.learner import Run, Stage, fit
from attlas.recorder.demo.shapes.scenes import Scene, draw

__all__ = ["encode", "train_autoencoder"]

BATCH = 8
# A learned posterior starts with noise as large as its signal; colours then took too long to come through.
# So the latent noise is fixed and small, and a light pull keeps the latents near unit size.
LATENT_NOISE = 0.05
LATENT_PULL = 1e-3
# Objects cover a tenth of a picture: without this, background decides what is learned.
CHROMA_WEIGHT = 8.0


def pictures(scenes: Sequence[Scene]) -> Tensor:
    """Stack scenes to a float32 tensor (scene, 3, 64, 64) in -1 to 1."""
    stacked = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


def encode(model: AutoencoderKL, scenes: Sequence[Scene]) -> Tensor:
    """Latents of scenes, unscaled: float32 tensor (scene, 4, 16, 16), the mean of the posterior."""
    device = model.device
    with torch.no_grad():
        parts = [model.encode(part.to(device)).latent_dist.mean for part in torch.split(pictures(scenes), 64)]
    return torch.cat(parts)


def train_autoencoder(model: AutoencoderKL, steps: int, run: Run) -> bool:
    """Train the codec in place and set its scaling factor, so that latents have unit variance.

    Parameters
    ----------
    model : AutoencoderKL
        Freshly built, or of any state if the run's folder holds a checkpoint.
    steps : int
        Length.
    run : Run
        Folder, log, data and seed.

    Returns
    -------
    bool
        Whether training is complete.
    """

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng((run.seed, 1, step))
        chosen = [
            draw(int(index), "slots" if rng.random() < 0.5 else "free")
            for index in rng.integers(run.scenes, size=BATCH)
        ]
        target = pictures(chosen).to(model.device)
        latents = model.encode(target).latent_dist.mean
        noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32)).to(model.device)
        error = model.decode(latents + LATENT_NOISE * noise).sample - target
        chroma = (target - target.mean(dim=1, keepdim=True)).abs().amax(dim=1, keepdim=True)
        weight = 1 + CHROMA_WEIGHT * chroma
        total: Tensor = (weight * (error.abs() + error.square())).mean() + LATENT_PULL * latents.square().mean()
        return total

    held_out = [draw(run.scenes + index) for index in range(min(run.scenes, 32))]

    def probe() -> dict[str, float]:
        target = pictures(held_out).to(model.device)
        error = F.mse_loss(model.decode(encode(model, held_out)).sample.clamp(-1, 1), target)
        return {"psnr_db": 10 * torch.log10(4 / error).item()}

    stage = Stage("autoencoder", steps, rate=2e-3, decay_from=0.4, average=0.98)
    complete = fit(model, stage, loss, probe, run)
    if complete:
        spread = encode(model, [draw(index) for index in range(min(run.scenes, 256))]).std().item()
        model.register_to_config(scaling_factor=1 / spread)
    return complete

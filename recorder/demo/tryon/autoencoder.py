"""The autoencoder: its shape, its training, and the fine-tuning of its decoder at the end."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from attlas.recorder.demo.tryon.batches import FIGURE, draw_batch, sample_numbers
from attlas.recorder.demo.tryon.garments import draw_garments, uniforms
from attlas.recorder.demo.tryon.scenes import SIZE, Figures, draw_figures
from attlas.recorder.demo.tryon.stages import Average, Workshop, cosine_rate, run_stage, set_rate

GARMENT_WEIGHT = 2.0
"""Pixels of the garment count more: it is a third of the picture and holds nearly all the detail."""

KL_WEIGHT = 2e-4
BATCH = 8


def new_autoencoder() -> Any:
    """Build an untrained autoencoder: 64x64 RGB to 16x16 latents of 8 channels."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def hide_region(figures: Figures) -> torch.Tensor:
    """Figures with the region to paint filled with mid-grey, ``(n, 3, 64, 64)`` in [-1, 1]."""
    return figures.image * ~figures.region[:, None]


def weighted_error(picture: torch.Tensor, target: torch.Tensor, garment: torch.Tensor) -> torch.Tensor:
    """Mean of absolute and squared error; the pixels of the garment ``(n, 64, 64)`` weigh `GARMENT_WEIGHT`."""
    weight = 1 + (GARMENT_WEIGHT - 1) * garment[:, None].float()
    error = picture - target
    return ((error.abs() + error.square()) * weight).mean() / weight.mean()


def train_autoencoder(workshop: Workshop, steps: int) -> Any:
    """Train on figures, a quarter of them with the region hidden, as the denoiser will need both.

    Returns
    -------
    The averaged `AutoencoderKL`, with ``scaling_factor`` set so that latents have unit variance.
    """
    torch.manual_seed(workshop.seed)
    model = new_autoencoder().to(workshop.device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW([{"params": model.parameters(), "base": 2e-3}], weight_decay=1e-4)
    average = Average(model, 0.998)

    def step(index: int) -> dict[str, torch.Tensor]:
        generator = workshop.generator("autoencoder", index)
        numbers = sample_numbers(BATCH, seed=workshop.seed, split="train", first=index * BATCH)
        random = uniforms(numbers)
        figures = draw_figures(draw_garments(random), random[:, FIGURE])
        shown = BATCH * 3 // 4
        target = torch.cat([figures.image[:shown], hide_region(figures)[shown:]])
        target = target.to(workshop.device, memory_format=torch.channels_last)
        posterior = model.encode(target).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(workshop.device)
        picture = model.decode(posterior.mean + posterior.std * noise).sample
        error = weighted_error(picture, target, figures.garment.to(workshop.device))
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        set_rate(optimiser, cosine_rate(index, steps, hold=0.3))
        optimiser.zero_grad()
        (error + KL_WEIGHT * divergence).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update()
        return {"error": error, "kl": divergence}

    run_stage(workshop, "autoencoder", steps, {"model": model, "optimiser": optimiser, "average": average}, step)
    average.copy_to(model)
    return finish_autoencoder(workshop, model)


@torch.no_grad()
def finish_autoencoder(workshop: Workshop, model: Any) -> Any:
    """Freeze, measure the spread of the latents, and log the error on unseen figures."""
    model = model.eval().requires_grad_(requires_grad=False)
    figures = draw_batch(sample_numbers(64, seed=workshop.seed, split="train", first=900_000)).figures
    image, garment = figures.image.to(workshop.device), figures.garment.to(workshop.device)
    latents = model.encode(image).latent_dist.mean
    model.register_to_config(scaling_factor=float(1 / latents.std()))
    error = (model.decode(latents).sample.clamp(-1, 1) - image).square().mean(1) / 4
    inside = (error * garment).sum((1, 2)) / garment.sum((1, 2))
    decibels = -10 * torch.log10(torch.stack([error.mean((1, 2)), inside])).mean(1)
    workshop.log(f"autoencoder: PSNR {decibels[0]:.1f} dB, inside the garment {decibels[1]:.1f} dB, 64 other figures")
    return model

"""The autoencoder: its shape, its training, and the fine-tuning of its decoder at the end."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL

from attlas.recorder.demo.tryon.batches import FIGURE, draw_batch, sample_numbers
from attlas.recorder.demo.tryon.garments import draw_garments, uniforms
from attlas.recorder.demo.tryon.scenes import SIZE, Figures, draw_figures
from attlas.recorder.demo.tryon.stages import Average, Workshop, cosine_rate, run_stage, set_rate

GARMENT_WEIGHT = 2.0
"""Pixels of the garment count more: it is a third of the picture and holds nearly all the detail."""

KL_WEIGHT = 2e-4
BATCH = 8
DECODER_FIRST_SAMPLE = 200_000
DECODER_NOISE = 0.1
"""Standard deviation, where scaled latents have 1, of the noise the decoder learns to bear with."""


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

    size = workshop.batch or BATCH

    def step(index: int) -> dict[str, torch.Tensor]:
        generator = workshop.generator("autoencoder", index)
        numbers = sample_numbers(size, seed=workshop.seed, split="train", first=index * size)
        random = uniforms(numbers)
        figures = draw_figures(draw_garments(random), random[:, FIGURE])
        shown = size * 3 // 4
        target = torch.cat([figures.image[:shown], hide_region(figures)[shown:]])
        target = target.to(workshop.device, memory_format=torch.channels_last)
        posterior = model.encode(target).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(workshop.device)
        picture = model.decode(posterior.mean + posterior.std * noise).sample
        error = weighted_error(picture, target, figures.garment.to(workshop.device))
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        set_rate(optimiser, cosine_rate(index, steps, hold=0.3))
        optimiser.zero_grad()
        torch.autograd.backward(error + KL_WEIGHT * divergence)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update()
        return {"error": error, "kl": divergence}

    run_stage(workshop, "autoencoder", steps, {"model": model, "optimiser": optimiser, "average": average}, step)
    average.copy_to(model)
    model = model.eval().requires_grad_(requires_grad=False)
    model.register_to_config(scaling_factor=latent_scale(workshop, model))
    log_error(workshop, model, "autoencoder")
    return model


def tune_decoder(workshop: Workshop, model: Any, steps: int) -> Any:
    """Train the decoder on, for latents that are a little off, as the denoiser's are.

    The encoder is left alone, so latents keep their meaning and the denoiser needs no further training.

    Returns
    -------
    The same `AutoencoderKL` with the averaged decoder.
    """
    parts = torch.nn.ModuleDict({"decoder": model.decoder, "post_quant_conv": model.post_quant_conv})
    parts.requires_grad_(requires_grad=True)
    optimiser = torch.optim.AdamW([{"params": parts.parameters(), "base": 1e-3}], weight_decay=1e-4)
    average = Average(parts, 0.99)
    size = workshop.batch or BATCH

    def step(index: int) -> dict[str, torch.Tensor]:
        generator = workshop.generator("decoder", index)
        first = DECODER_FIRST_SAMPLE + index * size
        random = uniforms(sample_numbers(size, seed=workshop.seed, split="train", first=first))
        figures = draw_figures(draw_garments(random), random[:, FIGURE])
        target = figures.image.to(workshop.device, memory_format=torch.channels_last)
        with torch.no_grad():
            latents = model.encode(target).latent_dist.mean
        noise = torch.randn(latents.shape, generator=generator).to(workshop.device)
        picture = model.decode(latents + noise * (DECODER_NOISE / model.config.scaling_factor)).sample
        error = weighted_error(picture, target, figures.garment.to(workshop.device))
        set_rate(optimiser, cosine_rate(index, steps))
        optimiser.zero_grad()
        torch.autograd.backward(error)
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimiser.step()
        average.update()
        return {"error": error}

    run_stage(workshop, "decoder", steps, {"parts": parts, "optimiser": optimiser, "average": average}, step)
    average.copy_to(parts)
    parts.requires_grad_(requires_grad=False)
    log_error(workshop, model, "decoder")
    return model


def _unseen(workshop: Workshop) -> tuple[torch.Tensor, torch.Tensor]:
    """Figures and garment masks that no stage trains on."""
    n = workshop.batch or 64
    figures = draw_batch(sample_numbers(n, seed=workshop.seed, split="train", first=900_000)).figures
    return figures.image.to(workshop.device), figures.garment.to(workshop.device)


@torch.no_grad()
def latent_scale(workshop: Workshop, model: Any) -> float:
    """Factor that gives latents unit variance, as the noise schedule assumes."""
    image, _ = _unseen(workshop)
    return float(1 / model.encode(image).latent_dist.mean.std())


@torch.no_grad()
def log_error(workshop: Workshop, model: Any, stage: str) -> None:
    """Log how well unseen figures survive encoding and decoding."""
    image, garment = _unseen(workshop)
    picture = model.decode(model.encode(image).latent_dist.mean).sample.clamp(-1, 1)
    # A range of 2 in place of 1 quarters the squared error.
    error = (picture - image).square().mean(1) / 4
    inside = (error * garment).sum((1, 2)) / garment.sum((1, 2))
    whole, worn = (-10 * torch.log10(torch.stack([error.mean((1, 2)), inside]))).mean(1).tolist()
    workshop.log(f"{stage}: PSNR {whole:.1f} dB, inside the garment {worn:.1f} dB, {len(image)} other figures")

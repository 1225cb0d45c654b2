"""The denoiser's training: the diffusion loss alone, on cached latents and freshly placed references."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from attlas.recorder.demo.tryon.autoencoder import hide_region
from attlas.recorder.demo.tryon.batches import FIGURE, draw_fresh_references, sample_numbers
from attlas.recorder.demo.tryon.garments import draw_garments, uniforms
from attlas.recorder.demo.tryon.models import denoiser_condition, new_scheduler, new_unet
from attlas.recorder.demo.tryon.scenes import draw_figures
from attlas.recorder.demo.tryon.stages import Average, Workshop, cosine_rate, run_stage, set_rate

BATCH = 16
SCENES = 6_000
UNET_RATE = 1.2e-3
ENCODER_RATE = 2e-4
"""Gentle, so that the diffusion loss refines what the warm-up taught and does not start over."""

DROPPED = 0.1
"""Share of samples whose reference tokens become zeros, for classifier-free guidance."""

REGION_WEIGHT = 3.0
"""Latents in the region count more; those outside are shown to the denoiser and only have to be copied."""

NOISE_BIAS = 0.7
"""Time steps are ``1000 * u ** NOISE_BIAS``: more of them noisy, where the reference is all there is to go by."""


@torch.no_grad()
def cache_latents(workshop: Workshop, autoencoder: Any, scenes: int = SCENES) -> dict[str, torch.Tensor]:
    """Scaled latents of training figures, made once.

    Returns
    -------
    ``latents`` float16 ``(scenes, 8, 16, 16)`` and ``condition`` float16 ``(scenes, 11, 16, 16)``.
    """
    path = workshop.folder / "checkpoints" / "latents.pt"
    if path.exists():
        found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
        if len(found["latents"]) == scenes:
            return found
    scale = autoencoder.config.scaling_factor
    latents, conditions = [], []
    numbers = sample_numbers(scenes, seed=workshop.seed, split="train")
    for start in range(0, scenes, 32):
        random = uniforms(numbers[start : start + 32])
        figures = draw_figures(draw_garments(random), random[:, FIGURE])
        pictures = torch.cat([figures.image, hide_region(figures)]).to(workshop.device)
        seen, hidden = (autoencoder.encode(pictures).latent_dist.mean * scale).chunk(2)
        region, body_uv = figures.region[:, None].float(), figures.body_uv
        latents.append(seen.half().cpu())
        conditions.append(denoiser_condition(hidden.cpu(), region, body_uv).half())
    cache = {"latents": torch.cat(latents), "condition": torch.cat(conditions)}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".wip")
    torch.save(cache, draft)
    os.replace(draft, path)
    workshop.log(f"denoiser: latents of {scenes} training figures cached")
    return cache


def train_denoiser(workshop: Workshop, encoder: Any, cache: dict[str, torch.Tensor], steps: int) -> tuple[Any, Any]:
    """Train the denoiser, and the encoder with it, on the diffusion loss.

    Parameters
    ----------
    workshop
        Folder, seed and device.
    encoder
        After its warm-up; it is trained on in place.
    cache
        From `cache_latents`.
    steps
        How many, of `BATCH` samples.

    Returns
    -------
    The averaged `UNet2DConditionModel` and `CLIPVisionModel`.
    """
    torch.manual_seed(workshop.seed + 2)
    device = workshop.device
    # Channels last is a third faster here, on the CPU.
    unet = new_unet().to(device, memory_format=torch.channels_last)
    both = nn.ModuleDict({"unet": unet, "encoder": encoder})
    groups = [
        {"params": unet.parameters(), "base": UNET_RATE},
        {"params": encoder.parameters(), "base": ENCODER_RATE},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    average = Average(both, 0.998)
    scheduler = new_scheduler()
    numbers = sample_numbers(len(cache["latents"]), seed=workshop.seed, split="train")

    size = workshop.batch or BATCH

    def step(index: int) -> dict[str, torch.Tensor]:
        generator = workshop.generator("denoiser", index)
        chosen = torch.randint(len(numbers), (size,), generator=generator)
        garments = draw_garments(uniforms([numbers[k] for k in chosen.tolist()]))
        references, _ = draw_fresh_references(garments, generator)
        latents = cache["latents"][chosen].float()
        condition = cache["condition"][chosen].float().to(device)
        noise = torch.randn(latents.shape, generator=generator)
        # One time step from each of as many equal parts: less variance than drawing them freely.
        level = (torch.arange(size) + torch.rand(size, generator=generator)) / size
        times = (1000 * level**NOISE_BIAS).long().clamp(0, 999)
        noisy = scheduler.add_noise(latents, noise, times).to(device)
        velocity = scheduler.get_velocity(latents, noise, times).to(device)
        kept = (torch.rand(size, 1, 1, generator=generator) >= DROPPED).to(device)

        tokens = encoder(pixel_values=references.image.to(device)).last_hidden_state * kept
        told = unet(torch.cat([noisy, condition], dim=1), times.to(device), encoder_hidden_states=tokens).sample
        weight = 1 + (REGION_WEIGHT - 1) * condition[:, 8:9]
        squared = (told - velocity).square() * weight
        loss = squared.mean() / weight.mean()
        set_rate(optimiser, cosine_rate(index, steps, warm_up=100, hold=0.4))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimiser.step()
        average.update()
        noisiest = squared[size // 2 :].mean() / weight.mean()
        return {"loss": loss, "loss_noisy_half": noisiest}

    run_stage(workshop, "denoiser", steps, {"both": both, "optimiser": optimiser, "average": average}, step)
    average.copy_to(both)
    return unet, encoder

"""The untrained parts of the denoiser: their shapes are decided here and nowhere else."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from attlas.recorder.demo.tryon.scenes import SIZE

LATENT_CHANNELS = 8
LATENT_SIZE = 16
PATCH = 4
PATCHES = SIZE // PATCH
EMBEDDING_WIDTH = 96


def new_unet() -> Any:
    """Build an untrained denoiser: 19 channels in (noisy latents, hidden figure, region, body map), 8 out.

    Cross-attention stands at 16x16 (three layers) and 8x8 (three layers) and in the middle at 4x4; four heads each.
    """
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=2 * LATENT_CHANNELS + 3,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 96, 96),
        layers_per_block=1,
        cross_attention_dim=EMBEDDING_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def new_image_encoder() -> Any:
    """Build an untrained image encoder: 64x64 RGB to 257 tokens, CLS first, then 16x16 patches row by row."""
    config = CLIPVisionConfig(
        hidden_size=EMBEDDING_WIDTH,
        intermediate_size=4 * EMBEDDING_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
    )
    return CLIPVisionModel(config)


def new_scheduler() -> Any:
    """Build the noise schedule: v-prediction, zero terminal signal-to-noise ratio, trailing steps."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )


def denoiser_condition(hidden_latents: torch.Tensor, region: torch.Tensor, body_uv: torch.Tensor) -> torch.Tensor:
    """Channels that tell the denoiser about the figure.

    Parameters
    ----------
    hidden_latents
        Scaled latents of the figure with its region filled with mid-grey, ``(n, 8, 16, 16)``.
    region
        1 in the region to paint, 0 elsewhere, float ``(n, 1, 64, 64)``.
    body_uv
        Garment point under each pixel, 0 outside the region, float ``(n, 2, 64, 64)``.

    Returns
    -------
    float ``(n, 11, 16, 16)``.
    """
    share = F.avg_pool2d(region, SIZE // LATENT_SIZE)
    # Mean over the covered pixels alone, or the map would shrink towards 0 along the border of the region.
    mean_uv = F.avg_pool2d(body_uv * region, SIZE // LATENT_SIZE) / share.clamp(min=1 / 16)
    return torch.cat([hidden_latents, share, mean_uv], dim=1)

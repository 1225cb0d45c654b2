"""A pipeline of Stable Diffusion 1's shape with random weights: its attention grids and heads, its widths by choice."""

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from tiny_pipelines import parts as tiny_parts
from tiny_pipelines import text_encoder, tokenizer

__all__ = ["TOKENS", "make_sd_shaped"]

TOKENS = 77
SMALL = (80, 160, 320, 320)
FULL = (320, 640, 1280, 1280)


def _autoencoder() -> AutoencoderKL:
    """A tiny autoencoder that divides the picture's sides by eight, as Stable Diffusion's does."""
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )


def make_sd_shaped(channels: tuple[int, ...] = SMALL, latent: int = 64, width: int = 64) -> StableDiffusionPipeline:
    """Sixteen text and sixteen self-attention modules of eight heads on `latent`, /2, /4 and /8 squares."""
    words = tokenizer(TOKENS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=latent,
            block_out_channels=channels,
            down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
            cross_attention_dim=width,
            attention_head_dim=8,
            norm_num_groups=16,
        )
        pipe = StableDiffusionPipeline(
            vae=_autoencoder().eval(),
            text_encoder=text_encoder(words, width).eval(),
            tokenizer=words,
            unet=unet.eval(),
            scheduler=tiny_parts()["scheduler"],
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe

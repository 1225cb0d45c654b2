"""Text encoders, autoencoders and pictures that the tiny transformer pipelines share."""

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderKLQwenImage, AutoencoderKLWan
from PIL import Image
from tiny_pipelines import TOKENS, text_encoder, tokenizer
from tiny_tokenizers import gemma_tokenizer, qwen_tokenizer, t5_tokenizer
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

WIDTH = 32
"""Channels of every text encoder but CLIP's."""


def finished(pipe):
    """The pipeline, quiet and in evaluation mode."""
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sharp(denoiser, factor=3.0):
    """Larger weights of Q and K: random ones give nearly flat attention, in which a mistake would not show."""
    for name, weight in denoiser.named_parameters():
        if {*name.split(".")} & {"to_q", "to_k", "add_q_proj", "add_k_proj", "norm_q", "norm_k"}:
            weight.data.mul_(factor)
    return denoiser


def flow_vae(channels=4):
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=2,
        shift_factor=0.1,
    )


def deep_vae(channels=4):
    """One of factor 8, which some pipelines take for granted."""
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=2,
        shift_factor=0.1,
    )


def clip_parts(tokens=TOKENS):
    """One CLIP text encoder and its tokenizer."""
    words = tokenizer(tokens)
    return {"text_encoder": text_encoder(words), "tokenizer": words}


def projected_clip(words, width):
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=32,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=words.model_max_length,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def t5_parts(tokens=16, number=""):
    words = t5_tokenizer(tokens)
    config = T5Config(vocab_size=len(words), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return {f"text_encoder{number}": T5EncoderModel(config), f"tokenizer{number}": words}


def umt5_parts(tokens=16):
    words = t5_tokenizer(tokens)
    config = UMT5Config(vocab_size=len(words), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return {"text_encoder": UMT5EncoderModel(config), "tokenizer": words}


def gemma_parts(tokens=64):
    words = gemma_tokenizer(tokens)
    config = Gemma2Config(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=words.pad_token_id,
    )
    return {"text_encoder": Gemma2Model(config), "tokenizer": words}


def qwen_parts():
    """Qwen2.5-VL with its eye, whose patches are merged two by two."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    words = qwen_tokenizer()
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [0],
        },
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
    )
    return {"text_encoder": Qwen2_5_VLForConditionalGeneration(config), "tokenizer": words}


def qwen_vae(halvings=2):
    return AutoencoderKLQwenImage(
        base_dim=2,
        z_dim=4,
        dim_mult=[1] * (halvings + 1),
        num_res_blocks=0,
        temperal_downsample=[False] * halvings,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def wan_vae():
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def photo(rows, columns, seed=0):
    """A picture of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8))

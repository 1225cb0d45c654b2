"""Tiny pipelines whose cross-attention looks at pictures, made from configurations alone."""

import numpy as np
import torch
from diffusers import PaintByExamplePipeline, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import (
    ImageProjection,
    IPAdapterPlusImageProjection,
    MultiIPAdapterImageProjection,
)
from diffusers.pipelines.deprecated.paint_by_example.image_encoder import PaintByExampleImageEncoder
from matrix.pieces import finished
from matrix.unet_parts import PLAIN, ddim, denoiser, parts, seeded
from tiny_pipelines import autoencoder
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

from attlas.recorder.demo.tryon import TryOnPipeline

PLUS_TOKENS = 5
BASE_TOKENS = 4


def vision(layers=2):
    """Looks at pictures of 32 x 32 in 4 x 4 patches."""
    return CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=6,
    )


def extractor():
    return CLIPImageProcessorPil(crop_size={"height": 32, "width": 32}, size={"shortest_edge": 32})


def base():
    return seeded(ImageProjection, image_embed_dim=6, cross_attention_dim=16, num_image_text_embeds=BASE_TOKENS)


def plus():
    """A resampler: its tokens ask all patches of the picture, and are none of them."""
    sizes = {"embed_dims": 16, "output_dims": 16, "hidden_dims": 16, "depth": 1, "dim_head": 8, "heads": 2}
    return seeded(IPAdapterPlusImageProjection, num_queries=PLUS_TOKENS, **sizes)


def ip_adapter(*adapters):
    """Stable Diffusion 1 with IP-Adapters (`base`, `plus`) of random weights."""
    settings = {**parts(), **PLAIN, "feature_extractor": extractor()}
    pipe = StableDiffusionPipeline(**settings, image_encoder=seeded(CLIPVisionModelWithProjection, vision()))
    pipe.unet.encoder_hid_proj = MultiIPAdapterImageProjection([adapter() for adapter in adapters])
    pipe.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    tokens = tuple(BASE_TOKENS if adapter is base else PLUS_TOKENS for adapter in adapters)
    processors = {}
    for name in pipe.unet.attn_processors:
        width = pipe.unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
        settings = {"hidden_size": width, "cross_attention_dim": 16, "num_tokens": tokens, "scale": [1.0] * len(tokens)}
        processors[name] = seeded(IPAdapterAttnProcessor2_0, **settings) if ".attn2." in name else AttnProcessor2_0()
    pipe.unet.set_attn_processor(processors)
    for name, weight in pipe.unet.named_parameters():
        if ".to_k_ip." in name:
            weight.data.mul_(3)
    return finished(pipe)


def in_one_block():
    """An IP-Adapter that acts in the middle only, as for the style of a picture alone."""
    pipe = ip_adapter(base)
    pipe.set_ip_adapter_scale({"mid": 1.0})
    return pipe


def masks(pictures, rows, columns):
    """Masks of an adapter's pictures: the left for the first, the right for the second."""
    halves = torch.zeros(1, 2, rows, columns)
    halves[:, 0, :, : columns // 2] = 1
    halves[:, 1, :, columns // 2 :] = 1
    return {"ip_adapter_masks": [halves[:, :pictures]]}


def paint_by_example():
    return finished(
        PaintByExamplePipeline(
            vae=seeded(autoencoder),
            image_encoder=seeded(PaintByExampleImageEncoder, config=vision(5), proj_size=16),
            unet=denoiser(channels=9),
            scheduler=ddim(),
            safety_checker=None,
            feature_extractor=extractor(),
            requires_safety_checker=False,
        )
    )


def try_on():
    """Every patch of the garment is a key."""
    vae = seeded(
        type(autoencoder()),
        block_out_channels=(4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=8,
        norm_num_groups=2,
    )
    encoder = seeded(CLIPVisionModel, vision(1))
    return finished(TryOnPipeline(vae, denoiser(in_channels=19, out_channels=8), encoder, ddim()))


def try_on_request():
    garment = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return {
        "reference_image": garment,
        "figure_image": np.full((32, 32, 3), 60, np.uint8),
        "mask_image": np.eye(32, dtype=bool),
        "body_uv": np.zeros((32, 32, 2), np.float32),
        "guidance_scale": 2.0,
    }


def embeddings():
    """Of one picture, without and with it: (branch, picture, channel)."""
    return [torch.linspace(-1, 1, 12).reshape(2, 1, 6)]

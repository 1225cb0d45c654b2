"""Tiny pipelines of large language models' embeddings, which their requests give: the encoders are not built."""

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKLFlux2,
    AutoencoderKLHunyuanVideo,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from matrix.pieces import WIDTH, deep_vae, finished, flow_vae, sharp, umt5_parts


def embeddings(tokens, seed=0):
    """What a text encoder may make of a prompt of that many tokens."""
    return torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


def aura_flow():
    denoiser = AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=256,
    )
    return finished(
        AuraFlowPipeline(
            vae=flow_vae(),
            transformer=sharp(denoiser, 1.5),
            scheduler=FlowMatchEulerDiscreteScheduler(),
            **umt5_parts(),
        )
    )


def _flux2(kind, **changes):
    denoiser = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        **changes,
    )
    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )
    return finished(
        kind(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            transformer=sharp(denoiser, 1.5),
            vae=vae,
            text_encoder=None,
            tokenizer=None,
        )
    )


def flux_2():
    return _flux2(Flux2Pipeline)


def flux_2_klein():
    return _flux2(Flux2KleinPipeline, guidance_embeds=False)


def cogview_4():
    denoiser = CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=16,
        condition_dim=4,
        pos_embed_max_size=16,
        sample_size=8,
        rope_axes_dim=(16, 16),
    )
    return finished(
        CogView4Pipeline(
            tokenizer=None,
            text_encoder=None,
            vae=flow_vae(),
            transformer=sharp(denoiser),
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        )
    )


def z_image():
    denoiser = ZImageTransformer2DModel(
        in_channels=4,
        dim=48,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 8, 8],
        axes_lens=[256, 32, 32],
    )
    with torch.no_grad():
        denoiser.x_pad_token.normal_()
        denoiser.cap_pad_token.normal_()
    return finished(
        ZImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=deep_vae(),
            text_encoder=None,
            tokenizer=None,
            transformer=sharp(denoiser, 1.5),
        )
    )


def hunyuan_video():
    denoiser = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        pooled_projection_dim=8,
        rope_axes_dim=(4, 4, 4),
    )
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
    return finished(
        HunyuanVideoPipeline(
            text_encoder=None,
            tokenizer=None,
            transformer=sharp(denoiser, 1.5),
            vae=vae,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
            text_encoder_2=None,
            tokenizer_2=None,
        )
    )

"""Tiny pipelines whose text and picture share one softmax."""

import warnings
from contextlib import contextmanager

import torch
from diffusers import (
    ChromaImg2ImgPipeline,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxKontextInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageImg2ImgPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
)
from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, IPAdapterTimeImageProjection, MultiIPAdapterImageProjection
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from matrix.pieces import (
    WIDTH,
    clip_parts,
    deep_vae,
    finished,
    flow_vae,
    gemma_parts,
    projected_clip,
    qwen_parts,
    qwen_vae,
    sharp,
    t5_parts,
)
from tiny_pipelines import tokenizer
from tiny_tokenizers import qwen_processor


@contextmanager
def current():
    """What diffusers imports from a place of its own that it gave up is no matter of these rows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`FluxPosEmbed` is deprecated", FutureWarning)
        yield


def sd3(kind=StableDiffusion3Pipeline, **changes):
    """Stable Diffusion 3; with dual_attention_layers and qk_norm 3.5."""
    words, second = tokenizer(77), tokenizer(77)
    denoiser = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
        **changes,
    )
    return finished(
        kind(
            transformer=sharp(denoiser),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=flow_vae(),
            text_encoder=projected_clip(words, 16),
            tokenizer=words,
            text_encoder_2=projected_clip(second, 16),
            tokenizer_2=second,
            **t5_parts(number="_3"),
        )
    )


def sd3_img2img():
    return sd3(StableDiffusion3Img2ImgPipeline)


def sd35():
    return sd3(dual_attention_layers=(0,), qk_norm="rms_norm")


def _flux(kind, channels=16, parts=None, **changes):
    denoiser = FluxTransformer2DModel(
        patch_size=1,
        in_channels=channels,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 4, 8],
        **changes,
    )
    return finished(
        kind(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            transformer=sharp(denoiser, 1.5),
            vae=flow_vae(),
            **clip_parts(),
            **t5_parts(number="_2"),
            **(parts or {}),
        )
    )


def flux():
    return _flux(FluxPipeline, guidance_embeds=True)


def flux_bfloat16():
    return flux().to(torch.bfloat16)


def flux_ip_adapter():
    pipe = flux()
    denoiser = pipe.transformer
    tokens = ImageProjection(image_embed_dim=6, cross_attention_dim=WIDTH, num_image_text_embeds=4)
    denoiser.encoder_hid_proj = MultiIPAdapterImageProjection([tokens])
    for name, module in denoiser.named_modules():
        if name.startswith("transformer_blocks") and name.endswith(".attn"):
            module.set_processor(FluxIPAdapterAttnProcessor(32, WIDTH, num_tokens=(4,), scale=[1.0]))
    return finished(pipe)


def sd3_ip_adapter():
    pipe = sd3()
    denoiser = pipe.transformer
    denoiser.image_proj = IPAdapterTimeImageProjection(
        embed_dim=6,
        output_dim=16,
        hidden_dim=16,
        depth=1,
        dim_head=8,
        heads=2,
        num_queries=4,
    )
    for block in denoiser.transformer_blocks:
        block.attn.set_processor(SD3IPAdapterJointAttnProcessor2_0(16, 16, 8, timesteps_emb_dim=16))
    return finished(pipe)


def flux_kontext():
    return _flux(FluxKontextPipeline)


def flux_img2img():
    return _flux(FluxImg2ImgPipeline)


def flux_fill():
    # Latents, the masked picture's, and the mask of 2x2 pixels in a latent pixel: 16 + 16 + 16.
    return _flux(FluxFillPipeline, channels=48, guidance_embeds=True)


def flux_control():
    return _flux(FluxControlPipeline, channels=32, guidance_embeds=True)


def flux_controlnet():
    with current():
        beside = FluxControlNetModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=16,
            axes_dims_rope=[4, 4, 8],
        )
    for weight in (*beside.controlnet_blocks.parameters(), *beside.controlnet_single_blocks.parameters()):
        weight.data.normal_(std=0.1)
    return _flux(FluxControlNetPipeline, parts={"controlnet": beside})


def flux_kontext_inpaint():
    return _flux(FluxKontextInpaintPipeline)


def chroma_img2img():
    return chroma(ChromaImg2ImgPipeline)


def chroma(kind=ChromaPipeline):
    with current():
        denoiser = ChromaTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=[4, 4, 8],
            approximator_num_channels=16,
            approximator_hidden_dim=32,
            approximator_layers=1,
        )
    return finished(
        kind(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            transformer=sharp(denoiser, 1.5),
            vae=flow_vae(),
            **t5_parts(),
        )
    )


def _qwen(kind, vae, **more):
    denoiser = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    return finished(
        kind(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            transformer=sharp(denoiser, 1.5),
            vae=vae,
            **qwen_parts(),
            **more,
        )
    )


def qwen_image():
    return _qwen(QwenImagePipeline, qwen_vae())


def qwen_img2img():
    return _qwen(QwenImageImg2ImgPipeline, qwen_vae())


def lumina_2():
    denoiser = Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=48,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=4,
        num_kv_heads=2,
        multiple_of=16,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(512, 16, 16),
        cap_feat_dim=WIDTH,
    )
    return finished(
        Lumina2Pipeline(
            transformer=sharp(denoiser, 1.5),
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=deep_vae(),
            **gemma_parts(512),
        )
    )


def qwen_edit(kind=QwenImageEditPipeline):
    """Its references have a million pixels, whatever they are given with: 128 to a latent leaves few tokens."""
    return _qwen(kind, qwen_vae(halvings=6), processor=qwen_processor())


def qwen_edit_plus():
    return qwen_edit(QwenImageEditPlusPipeline)

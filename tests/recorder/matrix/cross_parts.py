"""Tiny transformer pipelines whose text stays apart from the picture."""

from diffusers import (
    AutoencoderDC,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)
from matrix.pieces import WIDTH, deep_vae, finished, flow_vae, gemma_parts, sharp, t5_parts
from tiny_tokenizers import bert_tokenizer
from transformers import BertConfig, BertModel


def _pixart(kind, vae, **changes):
    denoiser = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        patch_size=2,
        **{"sample_size": 8, **changes},
    )
    return finished(
        kind(scheduler=DPMSolverMultistepScheduler(), transformer=sharp(denoiser, 1.5), vae=vae, **t5_parts(64))
    )


def pixart_alpha():
    return _pixart(PixArtAlphaPipeline, flow_vae(), use_additional_conditions=False)


def pixart_sigma():
    return _pixart(PixArtSigmaPipeline, flow_vae(), use_additional_conditions=False)


def pixart_256():
    """Large enough for a table of sizes."""
    return _pixart(PixArtAlphaPipeline, deep_vae(), sample_size=32, use_additional_conditions=False)


def hunyuan_dit():
    words = bert_tokenizer()
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    denoiser = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        activation_fn="gelu-approximate",
        sample_size=8,
        hidden_size=16,
        num_layers=2,
        cross_attention_dim=16,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=8,
    )
    return finished(
        HunyuanDiTPipeline(
            vae=deep_vae(),
            text_encoder=BertModel(config),
            tokenizer=words,
            transformer=sharp(denoiser),
            scheduler=DDPMScheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **t5_parts(256, "_2"),
        )
    )


def sana(kind=SanaPipeline, **changes):
    denoiser = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=8,
        patch_size=1,
        **changes,
    )
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=1.0,
    )
    flow = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    return finished(
        kind(
            transformer=sharp(denoiser),
            scheduler=SCMScheduler() if kind is SanaSprintPipeline else flow,
            vae=vae,
            **gemma_parts(512),
        )
    )


def sana_sprint():
    return sana(SanaSprintPipeline, guidance_embeds=True, qk_norm="rms_norm_across_heads")

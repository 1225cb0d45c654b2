"""Tiny pipelines of videos."""

from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    CogVideoXVideoToVideoPipeline,
    FlowMatchEulerDiscreteScheduler,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVideoToVideoPipeline,
)
from matrix.pieces import WIDTH, finished, sharp, t5_parts, umt5_parts, wan_vae
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel


def _wan_transformer(channels=4, **changes):
    denoiser = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
        **changes,
    )
    return sharp(denoiser, 1.5)


def _flow():
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def wan(**changes):
    return finished(
        WanPipeline(transformer=_wan_transformer(), vae=wan_vae(), scheduler=_flow(), **umt5_parts(512), **changes)
    )


def wan_video_to_video():
    return finished(
        WanVideoToVideoPipeline(transformer=_wan_transformer(), vae=wan_vae(), scheduler=_flow(), **umt5_parts(512))
    )


def wan_experts():
    """Wan 2.2: a second transformer for the calls at low noise."""
    return wan(transformer_2=_wan_transformer(), boundary_ratio=0.9)


def wan_image_to_video():
    eye = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
        )
    )
    # Latents, those of the first frame, and the mask of its four frames.
    denoiser = _wan_transformer(4 + 4 + 4, image_dim=16, added_kv_proj_dim=24)
    return finished(
        WanImageToVideoPipeline(
            transformer=denoiser,
            vae=wan_vae(),
            scheduler=_flow(),
            image_encoder=eye,
            image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16),
            **umt5_parts(512),
        )
    )


def wan_first_frame():
    """Wan 2.2 of 5 billion weights: the picture is the first frame of the latents, whose timestep is 0."""
    return finished(
        WanImageToVideoPipeline(
            transformer=_wan_transformer(),
            vae=wan_vae(),
            scheduler=_flow(),
            image_encoder=None,
            image_processor=None,
            expand_timesteps=True,
            **umt5_parts(512),
        )
    )


def cogvideox(kind=CogVideoXPipeline, channels=4, **changes):
    denoiser = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=channels,
        out_channels=4,
        time_embed_dim=16,
        text_embed_dim=WIDTH,
        num_layers=2,
        sample_width=16,
        sample_height=16,
        sample_frames=9,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=True,
        **changes,
    )
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=32,
        sample_width=32,
    )
    return finished(kind(transformer=sharp(denoiser), vae=vae, scheduler=CogVideoXDDIMScheduler(), **t5_parts()))


def cogvideox_15():
    return cogvideox(patch_size_t=2)


def cogvideox_image_to_video():
    return cogvideox(CogVideoXImageToVideoPipeline, 8)


def cogvideox_video_to_video():
    return cogvideox(CogVideoXVideoToVideoPipeline)


def ltx(kind=LTXPipeline):
    denoiser = LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=WIDTH,
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(4, 4, 4, 4),
        decoder_block_out_channels=(4, 4, 4, 4),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    return finished(
        kind(transformer=sharp(denoiser, 1.5), vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(), **t5_parts())
    )


def ltx_image_to_video():
    return ltx(LTXImageToVideoPipeline)

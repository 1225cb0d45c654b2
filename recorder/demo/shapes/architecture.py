"""The networks of the shapes pipeline, freshly initialised."""

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from attlas.recorder.demo.shapes.scenes import SIZE
from attlas.recorder.demo.shapes.vocabulary import MAX_TOKENS, build_tokenizer

__all__ = ["build_autoencoder", "build_denoiser", "build_pipeline", "build_text_encoder"]

_FACTOR = 4
_TEXT_WIDTH = 64


def build_autoencoder() -> AutoencoderKL:
    """Build the picture codec: 64x64 RGB to 16x16 latents of 4 channels and back, 0.6 M parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def build_text_encoder() -> CLIPTextModel:
    """Build the text encoder: one causal layer of width 64."""
    tokenizer = build_tokenizer()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_TEXT_WIDTH,
            intermediate_size=4 * _TEXT_WIDTH,
            projection_dim=_TEXT_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_denoiser() -> UNet2DConditionModel:
    """Build the UNet: grids 16, 8 and 4, attention on 16 and 8 and once on 4, 7 cross-attentions of 8 heads."""
    return UNet2DConditionModel(
        sample_size=SIZE // _FACTOR,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(48, 96, 96),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=_TEXT_WIDTH,
        # The name is diffusers' own slip: this is the number of heads.
        attention_head_dim=8,
    )


def build_scheduler() -> DDIMScheduler:
    """Build the sampler: v-prediction with zero terminal signal, so that plain greys are reachable."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def build_pipeline(
    autoencoder: AutoencoderKL, text_encoder: CLIPTextModel, denoiser: UNet2DConditionModel
) -> StableDiffusionPipeline:
    """Join the networks with our tokenizer and sampler."""
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=build_tokenizer(),
        unet=denoiser,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )

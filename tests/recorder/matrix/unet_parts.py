"""Tiny pipelines around the U-Nets of Stable Diffusion, made from configurations alone."""

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKLTemporalDecoder,
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    KandinskyV22Pipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    MotionAdapter,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    StableDiffusionXLPipeline,
    StableVideoDiffusionPipeline,
    T2IAdapter,
    UNetSpatioTemporalConditionModel,
    VQModel,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from matrix.pieces import finished, projected_clip, sharp
from tiny_pipelines import autoencoder, text_encoder, tokenizer, unet

PLAIN = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def seeded(make, *args, **settings):
    """What `make` gives, with the same random weights whatever ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*args, **settings)


def ddim(**changes):
    return DDIMScheduler(clip_sample=False, steps_offset=1, **changes)


def denoiser(**changes) -> UNet2DConditionModel:
    return sharp(seeded(unet, **changes))


def parts(levels=2, scheduler=None, **changes):
    """Components of Stable Diffusion 1 with an autoencoder of `levels` levels; `changes` are those of the U-Net."""
    words = tokenizer()
    return {
        "vae": seeded(autoencoder, levels),
        "text_encoder": seeded(text_encoder, words),
        "tokenizer": words,
        "unet": denoiser(**changes),
        "scheduler": scheduler or ddim(),
    }


def sd1(**changes):
    """Latents 8 times smaller than pictures, so that they may be odd."""
    return finished(StableDiffusionPipeline(**parts(levels=4, **changes), **PLAIN))


def small(**changes):
    """Latents 2 times smaller than pictures."""
    return finished(StableDiffusionPipeline(**parts(**changes), **PLAIN))


def sliced():
    pipe = small()
    pipe.enable_attention_slicing(1)
    return pipe


def sd2():
    """Predicts v, has more heads the deeper, linear projections, and a tokenizer that pads with an exclamation mark."""
    words = tokenizer(pad="!")
    made = parts(
        attention_head_dim=(1, 2, 4),
        block_out_channels=(8, 16, 16),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        use_linear_projection=True,
        scheduler=ddim(prediction_type="v_prediction"),
    )
    made |= {"tokenizer": words, "text_encoder": seeded(text_encoder, words)}
    return finished(StableDiffusionPipeline(**made, **PLAIN))


def latent_consistency():
    """A pipeline of its own class, outside the table of families."""
    made = parts(time_cond_proj_dim=8, scheduler=LCMScheduler(steps_offset=1))
    return finished(LatentConsistencyModelPipeline(**made, **PLAIN))


def t2i_adapter():
    adapter = seeded(T2IAdapter, channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    return finished(StableDiffusionAdapterPipeline(**parts(), adapter=adapter, **PLAIN))


def perturbed():
    return finished(StableDiffusionPAGPipeline(**parts(), **PLAIN, pag_applied_layers="mid"))


def lcm():
    """Guidance is a part of the time embedding: one row for each picture."""
    return finished(
        StableDiffusionPipeline(**parts(time_cond_proj_dim=8, scheduler=LCMScheduler(steps_offset=1)), **PLAIN)
    )


def task(kind, **changes):
    """A pipeline of Stable Diffusion 1 with one more input."""
    return finished(kind(**parts(**changes), **PLAIN))


def img2img():
    return task(StableDiffusionImg2ImgPipeline)


def inpaint():
    return task(StableDiffusionInpaintPipeline, channels=9)


def pix2pix():
    return task(StableDiffusionInstructPix2PixPipeline, channels=8)


def controlnet():
    control = seeded(
        ControlNetModel,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
        conditioning_embedding_out_channels=(4, 8),
    )
    # A fresh ControlNet is made of zeros and would add nothing.
    for name, weight in control.named_parameters():
        if name.startswith("controlnet_"):
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    return finished(StableDiffusionControlNetPipeline(**parts(), controlnet=control, **PLAIN))


def upscale():
    made = parts(channels=7, num_class_embeds=350)
    made["vae"].register_to_config(scaling_factor=0.08333)
    return finished(StableDiffusionUpscalePipeline(**made, low_res_scheduler=DDPMScheduler()))


def depth2img():
    """Its depth map is given with the request, so that nothing has to guess it."""
    made = parts(channels=5)
    pipe = StableDiffusionDepth2ImgPipeline(**made, depth_estimator=None, feature_extractor=None)
    return finished(pipe)


def sdxl_parts(**changes):
    """Two text encoders side by side, attention at two of three levels, more layers and heads the deeper."""
    words, second = tokenizer(), tokenizer(pad="!")
    return {
        "vae": seeded(autoencoder),
        "text_encoder": seeded(text_encoder, words, layers=2),
        "text_encoder_2": seeded(projected_clip, second, 16),
        "tokenizer": words,
        "tokenizer_2": second,
        "unet": denoiser(
            cross=32,
            block_out_channels=(8, 8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(1, 1, 2),
            transformer_layers_per_block=(1, 1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=64,
        ),
        "scheduler": EulerDiscreteScheduler(),
        **changes,
    }


def sdxl():
    return finished(StableDiffusionXLPipeline(**sdxl_parts(), add_watermarker=False))


def sdxl_img2img():
    return finished(StableDiffusionXLImg2ImgPipeline(**sdxl_parts(), add_watermarker=False))


def sdxl_pix2pix():
    made = sdxl_parts()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made["unet"].conv_in = torch.nn.Conv2d(8, 8, 3, padding=1)
    made["unet"].register_to_config(in_channels=8)
    return finished(StableDiffusionXLInstructPix2PixPipeline(**made, add_watermarker=False))


def animate_diff():
    made = parts()
    motion = MotionAdapter(
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
    )
    return finished(AnimateDiffPipeline(**made, motion_adapter=motion))


def video_diffusion():
    """Stable Video Diffusion's U-Net, without the parts that a refusal does not need."""
    model = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 2,
        up_block_types=("CrossAttnUpBlockSpatioTemporal",) * 2,
        layers_per_block=1,
        cross_attention_dim=8,
        num_attention_heads=2,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
    )
    return finished(
        StableVideoDiffusionPipeline(
            vae=AutoencoderKLTemporalDecoder(block_out_channels=(32,)),
            image_encoder=None,
            unet=model,
            scheduler=EulerDiscreteScheduler(),
            feature_extractor=None,
        )
    )


def kandinsky():
    movq = VQModel(block_out_channels=(32,), norm_type="spatial", norm_num_groups=4)
    return finished(KandinskyV22Pipeline(unet=denoiser(), scheduler=ddim(), movq=movq))

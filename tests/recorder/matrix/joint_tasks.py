"""Rows of tasks beside text to image, for transformers whose text and picture share one softmax."""

import torch
from matrix import joint_parts
from matrix.joint import ASKED, FLUX, GRID, LAST, PROMPT, WORDS
from matrix.pieces import photo
from matrix.rows import Row

EYE = torch.linspace(-1, 1, 6)[None, None]

ROWS = [
    Row(
        "Stable Diffusion 3, image to image",
        "StableDiffusion3Img2ImgPipeline",
        joint_parts.sd3_img2img,
        {**ASKED, "image": photo(20, 36), "num_inference_steps": 4, "strength": 0.5},
        {"encoding": "factors"},
        leaves={GRID: "45 generated, 93 text"},
        words={"red": (47, 123), "cat": (48, 124)},
        denoiser="transformer",
        queries=slice(0, 45),
    ),
    Row(
        "FLUX.1, control",
        "FluxControlPipeline",
        joint_parts.flux_control,
        {**ASKED, "control_image": photo(20, 36)},
        branches=("cond",),
        leaves=FLUX,
        words=WORDS,
        denoiser="transformer",
        queries=LAST,
        notes="the control picture comes in as channels",
    ),
    Row(
        "FLUX.1, ControlNet",
        "FluxControlNetPipeline",
        joint_parts.flux_controlnet,
        {**ASKED, "control_image": photo(20, 36)},
        branches=("cond",),
        leaves=FLUX,
        words=WORDS,
        denoiser="transformer",
        queries=LAST,
        notes="attention of the transformer; the ControlNet's own is not recorded",
    ),
    Row(
        "FLUX.1 Kontext, inpainting",
        "FluxKontextInpaintPipeline",
        joint_parts.flux_kontext_inpaint,
        {
            **ASKED,
            "image": photo(20, 36),
            "mask_image": photo(20, 36, 1).convert("L"),
            "image_reference": photo(28, 12, 2),
            "_auto_resize": False,
            "max_area": 20 * 36,
            "strength": 1.0,
        },
        branches=("cond",),
        leaves={GRID: "16 text, 45 generated, 21 reference"},
        words=WORDS,
        denoiser="transformer",
        queries=slice(16, 61),
    ),
    Row(
        "Qwen-Image, image to image",
        "QwenImageImg2ImgPipeline",
        joint_parts.qwen_img2img,
        {
            "prompt": PROMPT,
            "image": photo(24, 40),
            "height": 24,
            "width": 40,
            "num_inference_steps": 4,
            "strength": 0.5,
        },
        branches=("cond",),
        leaves={"joint/3x5": "64 text, 15 generated"},
        words=WORDS,
        denoiser="transformer",
        queries=slice(-15, None),
        notes="`strength` shortens the run",
    ),
    Row(
        "FLUX.1, IP-Adapter",
        "FluxPipeline",
        joint_parts.flux_ip_adapter,
        {**ASKED, "ip_adapter_image_embeds": [EYE], "negative_ip_adapter_image_embeds": [EYE]},
        branches=("cond",),
        leaves={**FLUX, "image/5x9": "4 reference"},
        words=WORDS,
        denoiser="transformer",
        queries=LAST,
        notes="a module looks at the sequence and then at the reference's tokens; blocks of one stream have no adapter",
    ),
]

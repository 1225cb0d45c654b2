"""Rows of the U-Nets of Stable Diffusion: text, and pictures that come in beside the attention."""

import numpy as np
import torch
from matrix import unet_parts
from matrix.pieces import photo
from matrix.rows import Row

from attlas.schemas.errors import CaptureError

PROMPT = "a red cat"
TEXT = "1 bos, 3 word, 1 eos, 7 pad"
CAT = {"red": (2,), "cat": (3,)}


def grids(kinds, *sizes, keys=TEXT):
    """Leaves of text and of self-attention on grids of rows and columns."""
    of = {"text": lambda rows, columns: keys, "self": lambda rows, columns: f"{rows * columns} self"}
    return {f"{kind}/{rows}x{columns}": of[kind](rows, columns) for rows, columns in sizes for kind in kinds}


BOTH = ("text", "self")
SQUARE = ((8, 8), (4, 4))

ROWS = [
    Row(
        "Stable Diffusion 1",
        "StableDiffusionPipeline",
        unet_parts.sd1,
        {"prompt": PROMPT, "negative_prompt": "blue dog", "height": 56, "width": 88},
        {"kinds": BOTH},
        leaves=grids(BOTH, (7, 11), (4, 6)),
        words=CAT,
        notes="odd latents: a level has half the rows and columns of the one above, rounded up",
    ),
    Row(
        "Stable Diffusion 1, guidance off",
        "StableDiffusionPipeline",
        unet_parts.small,
        {"prompt": PROMPT, "guidance_scale": 1.0, "height": 16, "width": 32},
        {"kinds": BOTH},
        branches=("cond",),
        leaves=grids(BOTH, (8, 16), (4, 8)),
        words=CAT,
        notes="one branch, with every head",
    ),
    Row(
        "Stable Diffusion 1, one branch kept",
        "StableDiffusionPipeline",
        unet_parts.small,
        {"prompt": PROMPT, "negative_prompt": "dog", "height": 16, "width": 16},
        {"kinds": "text", "branches": "cond", "encoding": "factors"},
        leaves=grids(["text"], *SQUARE),
        words=CAT,
        notes='`Capture(branches="cond")`',
    ),
    Row(
        "Stable Diffusion 1, prompts and pictures",
        "StableDiffusionPipeline",
        unet_parts.small,
        {
            "prompt": [PROMPT, "a dog"],
            "negative_prompt": ["dog", "a blue cat"],
            "num_images_per_prompt": 2,
            "seed": [3, 4, 5, 6],
            "height": 16,
            "width": 16,
        },
        {"kinds": BOTH},
        leaves=grids(BOTH, *SQUARE),
        words=CAT,
        notes="each picture of a batch is a run",
    ),
    Row(
        "Stable Diffusion 2",
        "StableDiffusionPipeline",
        unet_parts.sd2,
        {"prompt": PROMPT, "height": 16, "width": 32},
        {"kinds": BOTH},
        leaves=grids(BOTH, (8, 16), (4, 8), (2, 4)),
        words=CAT,
        notes="more heads the deeper the level; a leaf has the heads of its own layers",
    ),
    Row(
        "Latent Consistency Models",
        "StableDiffusionPipeline",
        unet_parts.lcm,
        {"prompt": PROMPT, "guidance_scale": 8.0, "height": 16, "width": 16, "num_inference_steps": 3},
        {"kinds": BOTH},
        branches=("cond",),
        leaves=grids(BOTH, *SQUARE),
        words=CAT,
        calls=3,
        notes="guidance is in the time embedding: one branch",
    ),
    Row(
        "Latent Consistency Models, own pipeline",
        "LatentConsistencyModelPipeline",
        unet_parts.latent_consistency,
        {"prompt": PROMPT, "height": 16, "width": 16},
        {"kinds": BOTH},
        branches=("cond",),
        leaves=grids(BOTH, *SQUARE),
        words=CAT,
        notes="a U-Net pipeline that is in no family: recorded where a picture is one row",
    ),
    Row(
        "Stable Diffusion, image to image",
        "StableDiffusionImg2ImgPipeline",
        unet_parts.img2img,
        {"prompt": PROMPT, "image": photo(16, 24), "strength": 0.5, "num_inference_steps": 6},
        {"kinds": BOTH},
        leaves=grids(BOTH, (8, 12), (4, 6)),
        words=CAT,
        calls=3,
        notes="`strength` shortens the run: `t` and `step` count the calls made",
    ),
    Row(
        "Stable Diffusion, inpainting",
        "StableDiffusionInpaintPipeline",
        unet_parts.inpaint,
        {"prompt": PROMPT, "image": photo(16, 16), "mask_image": photo(16, 16, 1), "height": 16, "width": 16},
        {"kinds": BOTH},
        leaves=grids(BOTH, *SQUARE),
        words=CAT,
        notes="picture and mask come in as channels, not as keys",
    ),
    Row(
        "ControlNet",
        "StableDiffusionControlNetPipeline",
        unet_parts.controlnet,
        {"prompt": PROMPT, "image": photo(16, 32), "height": 16, "width": 32},
        {"kinds": BOTH},
        leaves=grids(BOTH, (8, 16), (4, 8)),
        words=CAT,
        notes="attention of the U-Net; the ControlNet's own is not recorded",
    ),
    Row(
        "T2I-Adapter",
        "StableDiffusionAdapterPipeline",
        unet_parts.t2i_adapter,
        {"prompt": PROMPT, "image": photo(16, 16), "height": 16, "width": 16},
        {"kinds": BOTH},
        leaves=grids(BOTH, *SQUARE),
        words=CAT,
        notes="the adapter has no attention",
    ),
    Row(
        "InstructPix2Pix",
        "StableDiffusionInstructPix2PixPipeline",
        unet_parts.pix2pix,
        {"prompt": PROMPT, "negative_prompt": "dog", "image": photo(16, 24)},
        {"kinds": BOTH},
        branches=("cond", "image_uncond", "uncond"),
        leaves=grids(BOTH, (8, 12), (4, 6)),
        words=CAT,
        notes="three branches; the picture comes in as channels",
    ),
    Row(
        "Stable Diffusion upscaler",
        "StableDiffusionUpscalePipeline",
        unet_parts.upscale,
        {"prompt": PROMPT, "image": photo(8, 12)},
        {"kinds": BOTH},
        leaves=grids(BOTH, (8, 12), (4, 6)),
        words=CAT,
        notes="",
    ),
    Row(
        "Stable Diffusion, depth to image",
        "StableDiffusionDepth2ImgPipeline",
        unet_parts.depth2img,
        {
            "prompt": PROMPT,
            "image": photo(16, 24),
            "depth_map": torch.from_numpy(np.indices((16, 24))[0][None].astype("f4")),
            "strength": 1.0,
        },
        {"kinds": BOTH},
        leaves=grids(BOTH, (8, 12), (4, 6)),
        words=CAT,
        notes="the depth map comes in as a channel",
    ),
    Row(
        "SDXL",
        "StableDiffusionXLPipeline",
        unet_parts.sdxl,
        {
            "prompt": [PROMPT, "a dog"],
            "negative_prompt": "blue dog",
            "num_images_per_prompt": 2,
            "height": 32,
            "width": 48,
        },
        {"kinds": BOTH},
        leaves=grids(BOTH, (8, 12), (4, 6)),
        words=CAT,
        notes="the two text encoders see the same tokens: one key is both",
    ),
    Row(
        "SDXL, image to image",
        "StableDiffusionXLImg2ImgPipeline",
        unet_parts.sdxl_img2img,
        {"prompt": PROMPT, "image": photo(32, 32), "strength": 0.5, "num_inference_steps": 4},
        {"kinds": BOTH},
        leaves=grids(BOTH, *SQUARE),
        words=CAT,
        notes="as the refiner runs",
    ),
    Row(
        "SDXL InstructPix2Pix",
        "StableDiffusionXLInstructPix2PixPipeline",
        unet_parts.sdxl_pix2pix,
        {"prompt": PROMPT, "image": photo(32, 32), "height": 32, "width": 32},
        {"kinds": BOTH},
        branches=("cond", "image_uncond", "uncond"),
        leaves=grids(BOTH, *SQUARE),
        words=CAT,
        notes="three branches",
    ),
    Row(
        "Perturbed-attention guidance",
        "StableDiffusionPAGPipeline",
        unet_parts.perturbed,
        {"prompt": PROMPT, "height": 16, "width": 16},
        reason="two scales decide how many rows a picture has and in what order; no family names them",
        error=(CaptureError, "got 3 rows for one picture.*the order of its guidance branches is not known"),
    ),
    Row(
        "AnimateDiff",
        "AnimateDiffPipeline",
        unet_parts.animate_diff,
        {"prompt": PROMPT},
        reason="frames are rows of the batch, and in its motion modules pixels are: rows cannot be told apart",
        error=(CaptureError, "AnimateDiffPipeline is of no known pipeline family"),
    ),
    Row(
        "Stable Video Diffusion",
        "StableVideoDiffusionPipeline",
        unet_parts.video_diffusion,
        {"image": photo(16, 16)},
        reason="frames are rows of the batch, and each looks at one key, whose softmax is 1",
        error=(CaptureError, "StableVideoDiffusionPipeline is of no known pipeline family"),
    ),
    Row(
        "Kandinsky 2.2",
        "KandinskyV22Pipeline",
        unet_parts.kandinsky,
        reason="it has no prompt: image embeddings and the picture share one softmax, in an order that no family names",
        error=(CaptureError, "KandinskyV22Pipeline is of no known pipeline family"),
    ),
]

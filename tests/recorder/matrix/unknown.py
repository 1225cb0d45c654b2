"""Rows of what is not known yet, or computes in a way that cannot be told: refused, not recorded wrongly."""

import inspect
from functools import partial

import diffusers
import torch
from matrix import cross_parts, joint_parts
from matrix.rows import Row

from attlas.schemas.errors import CaptureError, ObservationError

ABSENT = {
    "Allegro": "AllegroPipeline",
    "HiDream": "HiDreamImagePipeline",
    "HunyuanVideo, image to video": "HunyuanVideoImageToVideoPipeline",
    "Kandinsky 5": "Kandinsky5T2VPipeline",
    "LTX-2": "LTX2Pipeline",
    "LTX-Video, conditions": "LTXConditionPipeline",
    "Mochi": "MochiPipeline",
    "Perturbed attention guidance, Stable Diffusion 3": "StableDiffusion3PAGPipeline",
    "Qwen-Image-Layered": "QwenImageLayeredPipeline",
    "SkyReels-V2": "SkyReelsV2Pipeline",
    "Wan Animate": "WanAnimatePipeline",
    "Wan VACE": "WanVACEPipeline",
}


def without_parts(name):
    """The pipeline with nothing in it: it is refused before anything is looked at."""
    kind = getattr(diffusers, name)
    needed = [
        argument
        for argument, parameter in inspect.signature(kind.__init__).parameters.items()
        if parameter.default is inspect.Parameter.empty and argument != "self"
    ]
    return kind(**dict.fromkeys(needed))


ROWS = [
    Row(
        "Sana, linear attention",
        "SanaPipeline",
        cross_parts.sana,
        capture={"layers": "*.attn1"},
        reason="linear attention has no softmax, so that there is no attention to record; `attn2` can be recorded",
        error=(CaptureError, "linear attention has no softmax"),
    ),
    Row(
        "Lumina 2, text refiner",
        "Lumina2Pipeline",
        joint_parts.lumina_2,
        capture={"layers": "context_refiner.*"},
        reason="its queries are the text's, not the picture's; the other layers can be recorded",
        error=(CaptureError, "its queries are the text's"),
    ),
    Row(
        "Lumina 2, guidance that ends early",
        "Lumina2Pipeline",
        joint_parts.lumina_2,
        {"prompt": "a red cat", "height": 32, "width": 48, "cfg_trunc_ratio": 0.5, "num_inference_steps": 4},
        reason="calls of one pass follow calls of two, and one store holds the same branches of every call",
        error=(ObservationError, "expected to make 2 passes a call"),
    ),
    Row(
        "Lumina 2, prompts of two lengths in a batch",
        "Lumina2Pipeline",
        joint_parts.lumina_2,
        {"prompt": ["a red cat", "a dog"], "height": 32, "width": 48},
        reason="the picture comes right after each text; one prompt a request can be recorded",
        error=(ObservationError, "the captions of this batch have"),
    ),
    Row(
        "Stable Diffusion 3.5, skip-layer guidance",
        "StableDiffusion3Pipeline",
        joint_parts.sd35,
        {"prompt": "a red cat", "height": 20, "width": 36, "max_sequence_length": 16}
        | {"num_inference_steps": 6, "skip_guidance_layers": [1], "skip_layer_guidance_stop": 0.8},
        reason="some calls have one pass more, without some of the layers",
        error=(ObservationError, "this pipeline makes more than 1 pass a call"),
    ),
    Row(
        "Stable Diffusion 3, IP-Adapter",
        "StableDiffusion3Pipeline",
        joint_parts.sd3_ip_adapter,
        {"prompt": "a red cat", "height": 20, "width": 36, "max_sequence_length": 16}
        | {"ip_adapter_image_embeds": torch.zeros(2, 3, 6)},
        reason="a second softmax of each module is over the picture and the reference's tokens together",
        error=(ObservationError, "made 2 attention calls in one pass; 1 is known of it"),
    ),
    *(
        Row(
            name,
            pipeline,
            partial(without_parts, pipeline),
            reason="not in the table yet; `register_family` can add what it has in common with a known one",
            error=(CaptureError, f"{pipeline} is of no known pipeline family"),
        )
        for name, pipeline in ABSENT.items()
    ),
]

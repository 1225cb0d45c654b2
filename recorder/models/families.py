"""The table of pipeline families, and what it says of a pipeline.

Branch order cannot be seen in the tensors, so it is a table; a pipeline that is not in it is refused rather than
labelled by guess.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from attlas.recorder.models.family import Family, effective
from attlas.schemas.errors import CaptureError, InvalidValueError

__all__ = ["FAMILIES", "Family", "denoiser_of", "family_of", "pictures_of", "register_family"]


def _guided(pipe: Any, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Wan, Lumina 2, Chroma: the prompt, then the negative prompt, where guidance is on."""
    return ("cond", "uncond") if effective(pipe, arguments, "guidance_scale") > 1 else ("cond",)


def _true_guidance(pipe: Any, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """FLUX, Qwen-Image: a second pass only where a negative prompt is given."""
    negative = any(arguments.get(name) is not None for name in ("negative_prompt", "negative_prompt_embeds"))
    return ("cond", "uncond") if negative and effective(pipe, arguments, "true_cfg_scale") > 1 else ("cond",)


def _undistilled(pipe: Any, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """FLUX.2 klein: a second pass where guidance is on and the model has not learned it."""
    return ("cond",) if pipe.config.is_distilled else _guided(pipe, arguments)


_TASKS = ("", "Img2Img", "Inpaint")
_STABLE = tuple(
    f"StableDiffusion{size}{control}{task}Pipeline"
    for size in ("", "XL")
    for control in ("", "ControlNet", "ControlNetUnion")
    for task in _TASKS
)

FAMILIES: list[Family] = [
    Family(
        "stable diffusion",
        (
            *_STABLE,
            "StableDiffusionUpscalePipeline",
            "StableDiffusionDepth2ImgPipeline",
            "StableDiffusionAdapterPipeline",
            "StableDiffusionXLAdapterPipeline",
        ),
        "text",
        reference="ip_adapter_image",
    ),
    Family(
        "instruct-pix2pix",
        ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline"),
        "text",
        branches=(("cond",), ("cond", "image_uncond", "uncond")),
    ),
    Family("paint by example", ("PaintByExamplePipeline",), "image", batch=("image",), reference="example_image"),
    Family(
        "try-on",
        ("TryOnPipeline",),
        "image",
        batch=("reference_image",),
        reference="reference_image",
        picture="figure_image",
    ),
    Family(
        "stable diffusion 3",
        tuple(f"StableDiffusion3{task}Pipeline" for task in _TASKS),
        "text",
        denoiser="transformer",
    ),
    Family(
        "flux",
        (
            *(f"Flux{control}{task}Pipeline" for control in ("", "Control", "ControlNet") for task in _TASKS),
            "FluxFillPipeline",
        ),
        "text",
        denoiser="transformer",
        passes=_true_guidance,
        reference="ip_adapter_image",
    ),
    Family(
        "flux kontext",
        ("FluxKontextPipeline",),
        "text",
        denoiser="transformer",
        passes=_true_guidance,
        reference="image",
    ),
    Family(
        "flux kontext inpaint",
        ("FluxKontextInpaintPipeline",),
        "text",
        denoiser="transformer",
        passes=_true_guidance,
        reference="image_reference",
    ),
    Family(
        "qwen image",
        ("QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline"),
        "text",
        denoiser="transformer",
        passes=_true_guidance,
        ragged=True,
    ),
    Family(
        "qwen image edit",
        ("QwenImageEditPipeline",),
        "text",
        denoiser="transformer",
        passes=_true_guidance,
        ragged=True,
        reference="image",
    ),
    # Several references of one picture: none of them is the one that a store has room for.
    Family(
        "qwen image edit plus",
        ("QwenImageEditPlusPipeline",),
        "text",
        denoiser="transformer",
        passes=_true_guidance,
        ragged=True,
    ),
    Family("lumina 2", ("Lumina2Pipeline",), "text", denoiser="transformer", passes=_guided, ragged=True),
    Family(
        "diffusion transformer",
        ("PixArtAlphaPipeline", "PixArtSigmaPipeline", "HunyuanDiTPipeline", "SanaPipeline", "SanaControlNetPipeline"),
        "text",
        denoiser="transformer",
    ),
    Family("chroma", ("ChromaPipeline", "ChromaImg2ImgPipeline"), "text", denoiser="transformer", passes=_guided),
    Family("wan", ("WanPipeline",), "text", denoiser="transformer", relay="transformer_2", passes=_guided),
    Family(
        "wan image to video",
        ("WanImageToVideoPipeline",),
        "text",
        batch=("prompt", "prompt_embeds"),
        denoiser="transformer",
        relay="transformer_2",
        passes=_guided,
        reference="image",
    ),
    Family("aura flow", ("AuraFlowPipeline",), "text", denoiser="transformer"),
    # One reference of a picture or several: none of them is the one that a store has room for.
    Family("flux 2", ("Flux2Pipeline",), "text", denoiser="transformer"),
    Family("flux 2 klein", ("Flux2KleinPipeline",), "text", denoiser="transformer", passes=_undistilled),
    Family("cogview 4", ("CogView4Pipeline",), "text", denoiser="transformer", passes=_guided, ragged=True),
    Family(
        "z-image",
        ("ZImagePipeline", "ZImageImg2ImgPipeline"),
        "text",
        branches=(("cond",), ("cond", "uncond")),
        denoiser="transformer",
        ragged=True,
    ),
    Family("hunyuan video", ("HunyuanVideoPipeline",), "text", denoiser="transformer", passes=_true_guidance),
    Family("sana sprint", ("SanaSprintPipeline",), "text", branches=(("cond",),), denoiser="transformer"),
    Family("wan video to video", ("WanVideoToVideoPipeline",), "text", denoiser="transformer", passes=_guided),
    Family(
        "video transformer",
        ("CogVideoXPipeline", "CogVideoXVideoToVideoPipeline", "LTXPipeline"),
        "text",
        denoiser="transformer",
    ),
    Family(
        "image to video",
        ("CogVideoXImageToVideoPipeline", "LTXImageToVideoPipeline"),
        "text",
        denoiser="transformer",
        reference="image",
    ),
]
"""Known families; `register_family` puts a new one in front."""


def register_family(family: Family) -> None:
    """Make `family` known, before the ones that are there, so that it may also replace one of them."""
    FAMILIES.insert(0, family)


def family_of(pipe: Any) -> Family:
    """Family of the pipeline `pipe`.

    A pipeline outside the table with a `UNet2DConditionModel` and a tokenizer is recorded where it runs one row
    a picture (no guidance), because there the order of branches does not matter.

    Raises
    ------
    CaptureError
        If nothing is known of this kind of pipeline.
    """
    names = [cls.__name__ for cls in type(pipe).__mro__]
    for name in names:
        for family in FAMILIES:
            if name in family.pipelines:
                return family
    if isinstance(getattr(pipe, "unet", None), UNet2DConditionModel) and getattr(pipe, "tokenizer", None) is not None:
        return Family(names[0], (names[0],), "text", branches=(("cond",),))
    known = sorted({name for family in FAMILIES for name in family.pipelines})
    raise CaptureError(
        f"{names[0]} is of no known pipeline family; known: {', '.join(known)} and their subclasses; "
        "register_family(Family(...)) adds one"
    )


def denoiser_of(pipe: Any, family: Family) -> torch.nn.Module:
    """Denoiser module of `pipe`."""
    found = getattr(pipe, family.denoiser, None)
    if not isinstance(found, torch.nn.Module):
        raise CaptureError(f"{type(pipe).__name__}.{family.denoiser} is {type(found).__name__}; a module is needed")
    return found


def pictures_of(family: Family, request: Mapping[str, Any]) -> int:
    """Return the number of pictures that a request makes: length of its batch times images per prompt."""
    for name in family.batch:
        value = request.get(name)
        if value is not None:
            each = request.get("num_images_per_prompt") or request.get("num_videos_per_prompt") or 1
            return _length(name, value) * int(each)
    raise InvalidValueError(f"a request of {family.name} needs {' or '.join(repr(name) for name in family.batch)}")


def _length(name: str, value: Any) -> int:
    """Entries of a batch; one picture or text is a batch of one."""
    if isinstance(value, list | tuple):
        if not value:
            raise InvalidValueError(f"{name!r} of the request is an empty list")
        return len(value)
    shape: tuple[int, ...] = tuple(getattr(value, "shape", ()))
    return int(shape[0]) if name.endswith("embeds") or len(shape) == 4 else 1

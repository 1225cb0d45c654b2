"""The shapes of a denoiser's attention without its weights: a run of an empty copy on torch's meta device."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from attlas.recorder.observe import Sighting, Watch

__all__ = ["rehearse"]

Shapes = dict[str, tuple[tuple[int, int] | None, int | None]]


def rehearse(pipe: Any, denoiser: nn.Module, paths: set[str]) -> Shapes:
    """Query grid and number of keys of each module at the default picture size, in order of computation.

    Keys are None for cross-attention to something else than a tokenizer's text. Empty for denoisers other than a
    `UNet2DConditionModel` with the conditions of Stable Diffusion (XL).
    """
    tokenizer = getattr(pipe, "tokenizer", None) or getattr(pipe, "tokenizer_2", None)
    tokens = None if tokenizer is None else int(tokenizer.model_max_length)
    inputs = _inputs(denoiser, tokens or 1)
    if inputs is None or not isinstance(denoiser, UNet2DConditionModel):
        return {}
    with torch.device("meta"):
        # An IP-Adapter adds keys of its own, but changes no shape of the others.
        twin = type(denoiser).from_config({**denoiser.config, **_without_adapter(denoiser.config)})
    cross = {path for path, module in denoiser.named_modules() if getattr(module, "is_cross_attention", False)}
    shapes: Shapes = {}

    def note(sighting: Sighting) -> None:
        keys = None if tokens is None and sighting.path in cross else int(sighting.key.shape[-2])
        shapes.setdefault(sighting.path, (sighting.grid, keys))

    twin.eval()
    with torch.no_grad(), Watch(twin, paths, note):
        twin(**inputs)
    return shapes


def _without_adapter(config: Any) -> dict[str, None]:
    return {"encoder_hid_dim_type": None} if config.encoder_hid_dim_type == "ip_image_proj" else {}


def _inputs(denoiser: nn.Module, tokens: int) -> dict[str, Any] | None:
    """Empty arguments for a forward pass, or None where it is not known what the denoiser needs."""
    if not isinstance(denoiser, UNet2DConditionModel):
        return None
    config: Any = denoiser.config
    if config.class_embed_type is not None or config.addition_embed_type not in (None, "text_time"):
        return None
    if config.sample_size is None or config.encoder_hid_dim_type not in (None, "text_proj", "ip_image_proj"):
        return None
    size = config.sample_size if isinstance(config.sample_size, list | tuple) else (config.sample_size,) * 2
    width = config.encoder_hid_dim or config.cross_attention_dim
    width = width[0] if isinstance(width, list | tuple) else width
    inputs: dict[str, Any] = {
        "sample": torch.empty(1, config.in_channels, *size, device="meta"),
        "timestep": torch.empty(1, device="meta"),
        "encoder_hidden_states": torch.empty(1, tokens, width, device="meta"),
    }
    if config.addition_embed_type == "text_time":
        times = 6
        pooled = config.projection_class_embeddings_input_dim - times * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {
            "text_embeds": torch.empty(1, pooled, device="meta"),
            "time_ids": torch.empty(1, times, device="meta"),
        }
    return inputs

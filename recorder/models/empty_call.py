"""Arguments for one pass of a denoiser, with the shapes that its pipeline would give it and nothing in them."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attlas.recorder.views import ROOM

__all__ = ["EmptyCall", "empty_call"]


@dataclass(frozen=True)
class EmptyCall:
    """Arguments of a denoiser's forward pass for one row.

    Values count only in tensors on the CPU, which say where tokens are; the others are on the meta device. ``without``
    are parts of the denoiser that cannot run on nothing, and from which nothing is recorded.
    """

    arguments: dict[str, Any]
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Asked:
    """The pipeline, its denoiser's settings, and the request's arguments."""

    pipe: Any
    config: Any
    arguments: Mapping[str, Any]

    def setting(self, name: str, default: Any = None) -> Any:
        """Argument as given, or the pipeline's default, or `default`."""
        if self.arguments.get(name) is not None:
            return self.arguments[name]
        parameter = inspect.signature(type(self.pipe).__call__).parameters.get(name)
        known = None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default
        return default if known is None else known

    @property
    def tokens(self) -> int:
        """Tokens to which the text is padded."""
        return int(self.setting("max_sequence_length"))

    def latents(self, factor: int | None = None) -> tuple[int, int]:
        """Rows and columns of the latents; `factor` pixels make one."""
        factor = int(self.pipe.vae_scale_factor if factor is None else factor)
        size = getattr(self.pipe, "default_sample_size", None) or self.config.sample_size
        rows, columns = size if isinstance(size, list | tuple) else (size, size)
        return (
            int(self.setting("height", rows * factor)) // factor,
            int(self.setting("width", columns * factor)) // factor,
        )


def _empty(*shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(1, *shape, device="meta", dtype=dtype)


def _mask(tokens: int) -> Tensor:
    return _empty(tokens, dtype=torch.bool)


def _unet(ask: _Asked) -> EmptyCall | None:
    config = ask.config
    if config.class_embed_type is not None or config.num_class_embeds is not None:
        return None
    if config.addition_embed_type not in (None, "text_time") or config.sample_size is None:
        return None
    if config.encoder_hid_dim_type not in (None, "text_proj", "ip_image_proj"):
        return None
    tokenizer = getattr(ask.pipe, "tokenizer", None) or getattr(ask.pipe, "tokenizer_2", None)
    tokens = 1 if tokenizer is None else int(tokenizer.model_max_length)
    width = config.encoder_hid_dim or config.cross_attention_dim
    width = width[0] if isinstance(width, list | tuple) else width
    inputs: dict[str, Any] = {
        "sample": _empty(config.in_channels, *ask.latents(getattr(ask.pipe, "vae_scale_factor", 8))),
        "timestep": _empty(),
        "encoder_hidden_states": _empty(tokens, width),
    }
    if config.addition_embed_type == "text_time":
        times = 6
        pooled = config.projection_class_embeddings_input_dim - times * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {"text_embeds": _empty(pooled), "time_ids": _empty(times)}
    return EmptyCall(inputs)


def _stable_diffusion_3(ask: _Asked) -> EmptyCall:
    tokens = int(ask.pipe.tokenizer_max_length) + ask.tokens
    return EmptyCall(
        {
            "hidden_states": _empty(ask.config.in_channels, *ask.latents()),
            "encoder_hidden_states": _empty(tokens, ask.config.joint_attention_dim),
            "pooled_projections": _empty(ask.config.pooled_projection_dim),
            "timestep": _empty(),
        }
    )


def _flux(ask: _Asked) -> EmptyCall:
    rows, columns = (size // 2 for size in ask.latents())
    # Picture, row and column of each token.
    places = torch.cartesian_prod(torch.zeros(1), torch.arange(float(rows)), torch.arange(float(columns)))
    inputs: dict[str, Any] = {
        "hidden_states": _empty(rows * columns, ask.config.in_channels),
        "encoder_hidden_states": _empty(ask.tokens, ask.config.joint_attention_dim),
        "timestep": _empty(),
        "img_ids": places,
        "txt_ids": torch.zeros(ask.tokens, 3),
    }
    if "pooled_projection_dim" in ask.config:
        inputs["pooled_projections"] = _empty(ask.config.pooled_projection_dim)
        inputs["guidance"] = _empty() if ask.config.guidance_embeds else None
    else:
        # Chroma
        inputs["attention_mask"] = _mask(ask.tokens + rows * columns)
    return EmptyCall(inputs)


def _qwen_image(ask: _Asked) -> EmptyCall:
    rows, columns = (size // 2 for size in ask.latents())
    return EmptyCall(
        {
            "hidden_states": _empty(rows * columns, ask.config.in_channels),
            "encoder_hidden_states": _empty(ROOM, ask.config.joint_attention_dim),
            "timestep": _empty(),
            "img_shapes": [[(1, rows, columns)]],
            "guidance": _empty() if ask.config.guidance_embeds else None,
        }
    )


def _lumina_2(ask: _Asked) -> EmptyCall:
    inputs = {
        "hidden_states": _empty(ask.config.in_channels, *(size // 2 * 2 for size in ask.latents())),
        "timestep": _empty(),
        "encoder_hidden_states": _empty(ROOM, ask.config.cap_feat_dim),
        "encoder_attention_mask": torch.ones(1, ROOM, dtype=torch.bool),
    }
    return EmptyCall(inputs, without=("context_refiner",))


def _pixart(ask: _Asked) -> EmptyCall:
    return EmptyCall(
        {
            "hidden_states": _empty(ask.config.in_channels, *ask.latents()),
            "encoder_hidden_states": _empty(ask.tokens, ask.config.caption_channels or ask.config.cross_attention_dim),
            "encoder_attention_mask": _mask(ask.tokens),
            "timestep": _empty(),
            "added_cond_kwargs": {"resolution": _empty(2), "aspect_ratio": _empty(1)},
        }
    )


def _hunyuan(ask: _Asked) -> EmptyCall:
    config = ask.config
    rows, columns = ask.latents()
    patches = (rows // config.patch_size) * (columns // config.patch_size)
    return EmptyCall(
        {
            "hidden_states": _empty(config.in_channels, rows, columns),
            "timestep": _empty(),
            "encoder_hidden_states": _empty(config.text_len, config.cross_attention_dim),
            "text_embedding_mask": _mask(config.text_len),
            "encoder_hidden_states_t5": _empty(config.text_len_t5, config.cross_attention_dim_t5),
            "text_embedding_mask_t5": _mask(config.text_len_t5),
            "image_meta_size": _empty(6),
            "style": _empty(dtype=torch.long),
            "image_rotary_emb": tuple(_empty(patches, config.attention_head_dim)[0] for _ in range(2)),
        }
    )


def _sana(ask: _Asked) -> EmptyCall:
    return EmptyCall(
        {
            "hidden_states": _empty(ask.config.in_channels, *ask.latents()),
            "encoder_hidden_states": _empty(ask.tokens, ask.config.caption_channels),
            "encoder_attention_mask": _mask(ask.tokens),
            "timestep": _empty(),
            "guidance": _empty() if ask.config.guidance_embeds else None,
        }
    )


def _wan(ask: _Asked) -> EmptyCall:
    spatial, temporal = int(ask.pipe.vae_scale_factor_spatial), int(ask.pipe.vae_scale_factor_temporal)
    frames = (int(ask.setting("num_frames")) - 1) // temporal + 1
    rows, columns = (int(ask.setting(name)) // spatial for name in ("height", "width"))
    return EmptyCall(
        {
            "hidden_states": _empty(ask.config.in_channels, frames, rows, columns),
            "timestep": _empty(),
            "encoder_hidden_states": _empty(ask.tokens, ask.config.text_dim),
        }
    )


def _cogvideox(ask: _Asked) -> EmptyCall:
    config = ask.config
    spatial, temporal = int(ask.pipe.vae_scale_factor_spatial), int(ask.pipe.vae_scale_factor_temporal)
    patch, patch_t = int(config.patch_size), int(config.patch_size_t or 1)
    rows = int(ask.setting("height", config.sample_height * spatial)) // spatial
    columns = int(ask.setting("width", config.sample_width * spatial)) // spatial
    frames = (int(ask.setting("num_frames", config.sample_frames)) - 1) // temporal + 1
    frames = math.ceil(frames / patch_t) * patch_t
    tokens = int(ask.arguments.get("max_sequence_length") or config.max_text_seq_length)
    inputs: dict[str, Any] = {
        "hidden_states": _empty(frames, config.in_channels, rows, columns),
        "encoder_hidden_states": _empty(tokens, config.text_embed_dim),
        "timestep": _empty(),
    }
    if config.use_rotary_positional_embeddings:
        patches = frames // patch_t * (rows // patch) * (columns // patch)
        inputs["image_rotary_emb"] = tuple(_empty(patches, config.attention_head_dim)[0] for _ in range(2))
    return EmptyCall(inputs)


def _ltx(ask: _Asked) -> EmptyCall:
    spatial, temporal = int(ask.pipe.vae_spatial_compression_ratio), int(ask.pipe.vae_temporal_compression_ratio)
    frames = (int(ask.setting("num_frames")) - 1) // temporal + 1
    rows, columns = (int(ask.setting(name)) // spatial for name in ("height", "width"))
    config = ask.config
    patches = frames // config.patch_size_t * (rows // config.patch_size) * (columns // config.patch_size)
    return EmptyCall(
        {
            "hidden_states": _empty(patches, config.in_channels),
            "encoder_hidden_states": _empty(ask.tokens, config.caption_channels),
            "timestep": _empty(),
            "encoder_attention_mask": _mask(ask.tokens),
            "num_frames": frames,
            "height": rows,
            "width": columns,
        }
    )


_CALLS: dict[str, Callable[[_Asked], EmptyCall | None]] = {
    "UNet2DConditionModel": _unet,
    "SD3Transformer2DModel": _stable_diffusion_3,
    "FluxTransformer2DModel": _flux,
    "ChromaTransformer2DModel": _flux,
    "QwenImageTransformer2DModel": _qwen_image,
    "Lumina2Transformer2DModel": _lumina_2,
    "PixArtTransformer2DModel": _pixart,
    "HunyuanDiT2DModel": _hunyuan,
    "SanaTransformer2DModel": _sana,
    "WanTransformer3DModel": _wan,
    "CogVideoXTransformer3DModel": _cogvideox,
    "LTXVideoTransformer3DModel": _ltx,
}


def empty_call(pipe: Any, denoiser: nn.Module, arguments: Mapping[str, Any]) -> EmptyCall | None:
    """Shape one pass of `denoiser` for a request with these pipeline arguments, without its reference images.

    Sizes that are not given are the pipeline's own. Text whose length differs from prompt to prompt has `ROOM` tokens.
    None where it is not known what the denoiser needs.
    """
    make = next((_CALLS[cls.__name__] for cls in type(denoiser).__mro__ if cls.__name__ in _CALLS), None)
    return None if make is None else make(_Asked(pipe, denoiser.config, arguments))

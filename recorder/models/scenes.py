"""How the tokens of a transformer denoiser are laid out in one call: the text's, the picture's, its references'.

Each reader takes the pipeline, the denoiser, and the denoiser's arguments by name over those of the request. Rows,
columns and frames come from what the denoiser is given, never from a square root.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from attlas.schemas.errors import ObservationError

__all__ = [
    "Part",
    "Scene",
    "aura_flow",
    "binned",
    "cogvideox",
    "cogview_4",
    "flux",
    "hunyuan_video",
    "ltx",
    "lumina_2",
    "patches",
    "qwen_image",
    "stable_diffusion_3",
    "wan",
    "z_image",
]


@dataclass(frozen=True)
class Part:
    """A stretch of a token sequence: ``text``, the ``generated`` picture, one ``reference``, ``register`` or ``pad``.

    ``grid`` is rows and columns, after frames for a video; of what is no picture, its number of tokens.
    """

    segment: str
    grid: tuple[int, ...]
    picture: int = -1

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return math.prod(self.grid)


@dataclass(frozen=True)
class Scene:
    """The token sequences of one denoiser call.

    Parameters
    ----------
    pictures
        The picture stream: the generated picture, then its references, or what fills it up.
    text
        Text tokens of a joint sequence; 0 where text and picture are never joined.
    text_first
        Whether the text comes before the picture in a joint sequence.
    shape
        Rows and columns of the picture in pixels.
    frames
        Frames of the video; None for a picture.
    before
        What comes before a joint sequence.
    """

    pictures: tuple[Part, ...]
    text: int
    text_first: bool
    shape: tuple[int, int]
    frames: int | None = None
    before: tuple[Part, ...] = ()

    @property
    def generated(self) -> Part:
        """The generated picture."""
        return self.pictures[0]

    @property
    def joint(self) -> tuple[Part, ...]:
        """Parts of a joint sequence, in order."""
        text = (Part("text", (self.text,)),)
        return self.before + (text + self.pictures if self.text_first else self.pictures + text)


def stable_diffusion_3(pipe: Any, denoiser: nn.Module, arguments: Mapping[str, Any]) -> Scene:
    """SD3 and SD3.5: latents in patches, before the text."""
    return _latents(pipe, denoiser, arguments, text_first=False)


def patches(pipe: Any, denoiser: nn.Module, arguments: Mapping[str, Any]) -> Scene:
    """HunyuanDiT: latents in patches; the text is never joined."""
    return _latents(pipe, denoiser, arguments, text=0)


def binned(pipe: Any, denoiser: nn.Module, arguments: Mapping[str, Any]) -> Scene:
    """PixArt, Sana: as `patches`, of a size of their own near the one asked for, to which they cut the picture."""
    scene = patches(pipe, denoiser, arguments)
    side = int(denoiser.config.sample_size) * int(pipe.vae_scale_factor)  # type: ignore[union-attr, arg-type]
    return replace(scene, shape=(int(arguments.get("height") or side), int(arguments.get("width") or side)))


def lumina_2(pipe: Any, denoiser: nn.Module, arguments: Mapping[str, Any]) -> Scene:
    """Lumina 2: the caption without its padding, then the latents in patches."""
    lengths = arguments["encoder_attention_mask"].sum(dim=1).tolist()
    if len(set(lengths)) > 1:
        raise ObservationError(
            f"the captions of this batch have {', '.join(str(int(n)) for n in lengths)} tokens, and the picture comes "
            "right after each: record prompts of one length together, or one prompt a request"
        )
    return _latents(pipe, denoiser, arguments, text=int(lengths[0]))


def cogview_4(pipe: Any, denoiser: nn.Module, arguments: Mapping[str, Any]) -> Scene:
    """CogView4: the text, then latents in patches."""
    return _latents(pipe, denoiser, arguments)


def aura_flow(pipe: Any, denoiser: nn.Module, arguments: Mapping[str, Any]) -> Scene:
    """AuraFlow: learned tokens, the text, then latents in patches."""
    learned: Any = denoiser.register_tokens
    return replace(_latents(pipe, denoiser, arguments), before=(Part("register", (int(learned.shape[1]),)),))


def z_image(pipe: Any, _denoiser: nn.Module, arguments: Mapping[str, Any]) -> Scene:
    """Z-Image: latents in patches and then the text, both filled up to a multiple of 32 tokens."""
    patch, multiple = int(arguments.get("patch_size", 2)), 32
    rows, columns = (int(size) for size in arguments["x"][0].shape[-2:])
    part = Part("generated", (rows // patch, columns // patch))
    fill = -part.tokens % multiple
    pictures = (part, Part("pad", (fill,))) if fill else (part,)
    text = max(len(caption) + -len(caption) % multiple for caption in arguments["cap_feats"])
    factor = int(pipe.vae_scale_factor)
    return Scene(pictures, text, False, (rows * factor, columns * factor))


def _latents(
    pipe: Any, denoiser: nn.Module, arguments: Mapping[str, Any], *, text: int | None = None, text_first: bool = True
) -> Scene:
    """Read latents (row, channel, y, x) cut into square patches."""
    rows, columns = (int(size) for size in arguments["hidden_states"].shape[-2:])
    patch = int(denoiser.config.patch_size)  # type: ignore[union-attr, arg-type]
    if text is None:
        text = int(arguments["encoder_hidden_states"].shape[1])
    factor = int(pipe.vae_scale_factor)
    part = Part("generated", (rows // patch, columns // patch))
    return Scene((part,), text, text_first, (rows * factor, columns * factor))


def flux(pipe: Any, _denoiser: nn.Module, arguments: Mapping[str, Any]) -> Scene:
    """FLUX and Kontext: packed 2x2 latents whose ids say picture, row and column, after the text."""
    ids: Tensor = arguments["img_ids"]
    places = (ids[0] if ids.ndim == 3 else ids).detach().float().cpu().numpy().round().astype(int)
    # The first id tells pictures apart, the others are row and column.
    borders = np.flatnonzero(np.diff(places[:, 0])) + 1
    parts = []
    for picture, place in enumerate(np.split(places, borders)):
        rows, columns = (int(place[:, axis].max() - place[:, axis].min()) + 1 for axis in (1, 2))
        parts.append(_packed(picture, (rows, columns), len(place)))
    factor = 2 * int(pipe.vae_scale_factor)
    rows, columns = parts[0].grid
    text = int(arguments["encoder_hidden_states"].shape[1])
    return Scene(tuple(parts), text, True, (rows * factor, columns * factor))


def qwen_image(pipe: Any, _denoiser: nn.Module, arguments: Mapping[str, Any]) -> Scene:
    """Qwen-Image and its Edit: packed 2x2 latents whose shapes are given, after the text."""
    shapes = arguments["img_shapes"][0]
    shapes = shapes if isinstance(shapes, list) else [shapes]
    parts = tuple(
        _packed(picture, (int(rows), int(columns)), int(frames * rows * columns))
        for picture, (frames, rows, columns) in enumerate(shapes)
    )
    factor = 2 * int(pipe.vae_scale_factor)
    rows, columns = parts[0].grid
    text = int(arguments["encoder_hidden_states"].shape[1])
    return Scene(parts, text, True, (rows * factor, columns * factor))


def _packed(place: int, grid: tuple[int, int], tokens: int) -> Part:
    if grid[0] * grid[1] != tokens:
        raise ObservationError(
            f"picture {place} of the sequence has {tokens} tokens, but positions of {grid[0]}x{grid[1]} patches; "
            "its layout is not known to this recorder"
        )
    return Part("generated", grid) if place == 0 else Part("reference", grid, place - 1)


def wan(pipe: Any, denoiser: nn.Module, arguments: Mapping[str, Any]) -> Scene:
    """Wan: latents (row, channel, frame, y, x) in patches over time and space."""
    frames, rows, columns = (int(size) for size in arguments["hidden_states"].shape[-3:])
    patch: Any = denoiser.config.patch_size  # type: ignore[union-attr]
    grid = (frames // patch[0], rows // patch[1], columns // patch[2])
    return _video(grid, 0, (frames, rows, columns), int(pipe.vae_scale_factor_spatial), pipe.vae_scale_factor_temporal)


def hunyuan_video(pipe: Any, denoiser: nn.Module, arguments: Mapping[str, Any]) -> Scene:
    """HunyuanVideo: latents (row, channel, frame, y, x) in patches, before the text."""
    frames, rows, columns = (int(size) for size in arguments["hidden_states"].shape[-3:])
    config: Any = denoiser.config
    patch, patch_t = int(config.patch_size), int(config.patch_size_t)
    grid = (frames // patch_t, rows // patch, columns // patch)
    text = int(arguments["encoder_hidden_states"].shape[1])
    factors = int(pipe.vae_scale_factor_spatial), pipe.vae_scale_factor_temporal
    return replace(_video(grid, text, (frames, rows, columns), *factors), text_first=False)


def cogvideox(pipe: Any, denoiser: nn.Module, arguments: Mapping[str, Any]) -> Scene:
    """CogVideoX: latents (row, frame, channel, y, x) in patches, after the text."""
    frames, _, rows, columns = (int(size) for size in arguments["hidden_states"].shape[-4:])
    config: Any = denoiser.config
    patch, patch_t = int(config.patch_size), int(config.patch_size_t or 1)
    grid = (frames // patch_t, rows // patch, columns // patch)
    text = int(arguments["encoder_hidden_states"].shape[1])
    factor = int(pipe.vae_scale_factor_temporal)
    # The pipeline fills the frames up to whole patches, and drops what it added before it decodes the others: two at
    # a time, so that the first one is a single frame only where their number is odd.
    if patch_t > 1:
        asked = arguments.get("num_frames") or int(config.sample_frames)
        frames = min(frames, (asked - 1) // factor + 1)
    scene = _video(grid, text, (frames, rows, columns), int(pipe.vae_scale_factor_spatial), factor)
    return scene if frames % 2 else replace(scene, frames=frames * factor)


def ltx(pipe: Any, denoiser: nn.Module, arguments: Mapping[str, Any]) -> Scene:
    """LTX: packed latents whose frames, rows and columns are given."""
    latents = tuple(int(arguments[name]) for name in ("num_frames", "height", "width"))
    config: Any = denoiser.config
    patch, patch_t = int(config.patch_size), int(config.patch_size_t)
    grid = (latents[0] // patch_t, latents[1] // patch, latents[2] // patch)
    factors = int(pipe.vae_spatial_compression_ratio), int(pipe.vae_temporal_compression_ratio)
    return _video(grid, 0, (latents[0], latents[1], latents[2]), *factors)


def _video(grid: tuple[int, int, int], text: int, latents: tuple[int, int, int], spatial: int, temporal: Any) -> Scene:
    frames, rows, columns = latents
    shape = (rows * spatial, columns * spatial)
    # The first latent frame is one frame of the video, each other one `temporal` frames.
    return Scene((Part("generated", grid),), text, True, shape, (frames - 1) * int(temporal) + 1)

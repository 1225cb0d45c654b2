"""What the pipeline accepts: each input checked, and turned into a tensor.

A wrong input is an error that names it, says what was got and what is accepted; nothing is resized or cast in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

Picture = Image.Image | np.ndarray
"""One picture: PIL, or uint8 ``(height, width, 3)``."""


def as_list(value: Any, name: str, dims: int) -> list[Any]:
    """Split a batch into its items; ``dims`` is the number of dimensions of one array."""
    if isinstance(value, np.ndarray) and value.ndim == dims + 1:
        return list(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if not value:
            raise ValueError(f"{name} is an empty list; give at least one item.")
        return list(value)
    return [value]


def picture_tensor(picture: Any, name: str, size: int) -> torch.Tensor:
    """Turn one picture into float32 ``(3, size, size)`` in [-1, 1]."""
    if isinstance(picture, Image.Image):
        picture = np.asarray(picture.convert("RGB"))
    if not isinstance(picture, np.ndarray):
        raise TypeError(
            f"{name} must be a PIL image or a numpy array (or a list of them); got {type(picture).__name__}."
        )
    if picture.dtype != np.uint8:
        raise TypeError(f"{name} as an array must be uint8 in [0, 255]; got {picture.dtype}.")
    if picture.shape != (size, size, 3):
        raise ValueError(f"{name} must be RGB of {size}x{size} pixels, ({size}, {size}, 3); got {picture.shape}.")
    return torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1) / 127.5 - 1


def mask_tensor(mask: Any, name: str, size: int) -> torch.Tensor:
    """Turn one mask into float32 ``(1, size, size)`` of 0 and 1."""
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask.convert("L"))
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"{name} must be a PIL image or a numpy array (or a list of them); got {type(mask).__name__}.")
    if mask.dtype not in (np.bool_, np.uint8):
        raise TypeError(f"{name} as an array must be bool, or uint8 in [0, 255]; got {mask.dtype}.")
    if mask.shape != (size, size):
        raise ValueError(f"{name} must have {size}x{size} pixels, ({size}, {size}); got {mask.shape}.")
    covered = mask if mask.dtype == np.bool_ else mask >= 128
    return torch.from_numpy(covered.astype(np.float32))[None]


def uv_tensor(uv: Any, name: str, size: int) -> torch.Tensor:
    """Turn one body map into float32 ``(2, size, size)``."""
    if not isinstance(uv, np.ndarray):
        raise TypeError(f"{name} must be a numpy array (or a list of them); got {type(uv).__name__}.")
    if not np.issubdtype(uv.dtype, np.floating):
        raise TypeError(f"{name} must be floating point; got {uv.dtype}.")
    if uv.shape != (size, size, 2):
        raise ValueError(f"{name} must be (u, v) at each pixel, ({size}, {size}, 2); got {uv.shape}.")
    if not np.isfinite(uv).all():
        raise ValueError(f"{name} must be finite; use 0 where there is no body.")
    return torch.from_numpy(uv.astype(np.float32)).permute(2, 0, 1)

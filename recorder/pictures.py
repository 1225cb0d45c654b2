"""Pictures in every form that pipelines take and give, as uint8 RGB arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from attlas.recorder.models.family import Family
from attlas.schemas.errors import InvalidValueError

__all__ = ["generated_pictures", "reference_pictures", "rgb"]

Picture = NDArray[np.uint8]

SHARED = ("ip_adapter_image",)
"""Arguments whose pictures act on every generated one, all of them."""


def rgb(value: Any, what: str) -> Picture:
    """One picture as uint8 (rows, columns, RGB).

    Takes PIL images; arrays (rows, columns[, 1, 3 or 4]) and tensors (1 or 3, rows, columns), uint8 or floats in
    [0, 1], or in [-1, 1] where a value is negative.

    Examples
    --------
    >>> rgb(np.zeros((2, 3), np.uint8), "image").shape
    (2, 3, 3)
    """
    if isinstance(value, Image.Image):
        return np.asarray(value.convert("RGB"))
    if isinstance(value, torch.Tensor):
        value = value.detach().float().cpu().numpy() if value.is_floating_point() else value.detach().cpu().numpy()
        if value.ndim == 3 and value.shape[0] in (1, 3):
            value = value.transpose(1, 2, 0)
    if not isinstance(value, np.ndarray) or value.ndim not in (2, 3):
        shape = getattr(value, "shape", None)
        raise InvalidValueError(f"{what} is {type(value).__name__} of shape {shape}; one picture is needed")
    picture = value if value.ndim == 3 else value[..., None]
    if picture.shape[-1] not in (1, 3, 4):
        raise InvalidValueError(f"{what} has {picture.shape[-1]} channels; 1, 3 or 4 are accepted")
    if picture.dtype != np.uint8:
        picture = _eight_bits(picture.astype(np.float32), what)
    picture = picture[..., :3]
    return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))


def _eight_bits(picture: NDArray[Any], what: str) -> Picture:
    """Round floats as diffusers does when it makes a PIL image."""
    low, high = float(picture.min()), float(picture.max())
    if not (low >= -1.001 and high <= 1.001):
        raise InvalidValueError(f"{what} has values from {low:.3g} to {high:.3g}; uint8, [0, 1] or [-1, 1] is accepted")
    if low < 0:
        picture = (picture + 1) / 2
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def generated_pictures(output: Any) -> list[Picture]:
    """Return the pictures of a pipeline's output, whatever its ``output_type`` and ``return_dict``.

    Of a video pipeline, one array (frame, rows, columns, RGB) for each video.
    """
    images = getattr(output, "images", None)
    videos = getattr(output, "frames", None)
    if images is None and videos is None and isinstance(output, tuple) and output:
        images, videos = (None, output[0]) if _are_videos(output[0]) else (output[0], None)
    if videos is not None:
        return [np.stack([rgb(frame, "a frame of the video") for frame in video]) for video in videos]
    if images is None:
        raise InvalidValueError(f"the pipeline returned {type(output).__name__} without images; none can be stored")
    return [rgb(image, "the generated picture") for image in images]


def _are_videos(value: Any) -> bool:
    """Whether it is a list of lists of frames, or an array or tensor with an axis for them."""
    if isinstance(value, list):
        return bool(value) and (isinstance(value[0], list) or getattr(value[0], "ndim", 0) == 4)
    return getattr(value, "ndim", 0) == 5


def reference_pictures(family: Family, arguments: Mapping[str, Any], pictures: int) -> list[Picture] | None:
    """Return the reference picture of each generated one, or None where the request has none, or several for each."""
    if family.reference is None or arguments.get(family.reference) is None:
        return None
    given = _flat(arguments[family.reference])
    if family.reference in SHARED and len(given) > 1:
        return None
    if pictures % len(given):
        raise InvalidValueError(
            f"{family.reference!r} has {len(given)} pictures for {pictures} generated ones; give one, or one for each"
        )
    found = [rgb(value, repr(family.reference)) for value in given]
    if len({picture.shape for picture in found}) > 1:
        raise InvalidValueError(f"the pictures of {family.reference!r} differ in size; one store holds one size")
    return [found[index * len(found) // pictures] for index in range(pictures)]


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [picture for entry in value for picture in _flat(entry)]
    return list(value) if getattr(value, "ndim", 0) == 4 else [value]

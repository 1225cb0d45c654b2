"""Requests with ground truth: what the pipeline is called with, and what it ought to look at."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from attlas.recorder.demo.tryon.batches import BACKDROP, FIGURE, PLACEMENT, SAMPLES_PER_SEED, SPLITS, sample_numbers
from attlas.recorder.demo.tryon.garments import draw_garments, uniforms
from attlas.recorder.demo.tryon.scenes import (
    SIZE,
    Placements,
    average_placements,
    draw_figures,
    draw_placements,
    draw_references,
)
from attlas.schemas import Annotation

STEPS = 20
"""Denoiser calls of a request."""


def _bytes(pictures: torch.Tensor) -> np.ndarray:
    """Pictures ``(n, 3, 64, 64)`` in [-1, 1] as uint8 ``(n, 64, 64, 3)``."""
    return ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _pixels(placements: Placements, points: torch.Tensor, where: torch.Tensor) -> np.ndarray:
    """Where garment points ``(n, 64, 64, 2)`` lie in the references, ``(y, x)``, NaN outside ``where``."""
    flat = placements.to_pixels(points.reshape(len(points), -1, 2)).flip(-1)
    pixels = flat.reshape(-1, SIZE, SIZE, 2)
    return torch.where(where[..., None], pixels, torch.nan).numpy()


def requests(n: int, *, seed: int = 0, split: str = "held_out", swapped: bool = False) -> list[dict[str, Any]]:
    """Make requests for the try-on pipeline, each with its ground truth.

    The same arguments give the same requests, and the first ``m`` of ``n`` requests are the ``m`` requests.

    Parameters
    ----------
    n
        How many, at least 0; at most half a million.
    seed
        Which samples of the split, at least 0 and below 1000.
    split
        ``held_out``, or ``train`` for samples that training may have seen.
    swapped
        Keep the scene and give the reference picture of another sample. If attention follows the picture, it moves
        to the new place; if it was learnt by heart, it stays.

    Returns
    -------
    One dict a request: the pipeline's keyword arguments ``reference_image`` and ``figure_image`` (uint8
    ``(64, 64, 3)``, the figure with its region filled with mid-grey), ``mask_image`` (bool ``(64, 64)``), ``body_uv``
    (float32 ``(64, 64, 2)``), ``num_inference_steps``; ``seed`` for the starting noise, ``id``, and ``annotations``, of
    which the first three and ``target`` have roles:

    ``garment``
        Cloth on the figure picture, bool ``(64, 64)``: the object.
    ``reference_garment``
        Cloth on the reference picture, bool ``(64, 64)``.
    ``correspondence``
        Reference pixel ``(y, x)`` that shows the cloth under each figure pixel, float32 ``(64, 64, 2)``, not rounded,
        array indices (0 is the centre of the first pixel); NaN outside ``garment``.
    ``uv_lookup``
        Where a look-up from ``body_uv`` alone would point: the garment as the average placement (upright, centred,
        scale 0.8) would have it. The same form.
    ``target``
        The true picture, uint8 ``(64, 64, 3)``.
    ``former_correspondence``
        Only if ``swapped``: where the cloth lay in the scene's own reference. ``garment``, ``target`` and the others
        belong to the reference that is given.

    Raises
    ------
    ValueError
        If ``n``, ``seed`` or ``split`` is not among the accepted.
    """
    if not 0 <= n <= SAMPLES_PER_SEED // 2:
        raise ValueError(f"n must be at least 0 and at most {SAMPLES_PER_SEED // 2}; got {n}.")
    numbers = sample_numbers(n, seed=seed, split=split)
    made: list[dict[str, Any]] = []
    # Blocks keep the oversampled pictures of thousands of requests out of memory.
    for start in range(0, n, 64):
        made += _block(numbers[start : start + 64], start, split, swapped)
    return made


def _block(numbers: list[int], start: int, split: str, swapped: bool) -> list[dict[str, Any]]:
    random = uniforms(numbers)
    garments, placements = draw_garments(random), draw_placements(random[:, PLACEMENT])
    figures = draw_figures(garments, random[:, FIGURE])
    wearing, other, given = figures, random, placements
    if swapped:
        # The second half of a seed's samples is kept for swaps, so that a swap never gives a sample its own garment.
        other = uniforms([number + SAMPLES_PER_SEED // 2 for number in numbers])
        garments, given = draw_garments(other), draw_placements(other[:, PLACEMENT])
        wearing = draw_figures(garments, random[:, FIGURE])
    references = draw_references(garments, given, other[:, BACKDROP])
    # Another garment may be wider than the region that its place was cut out for.
    worn = wearing.garment & figures.region
    body_uv = figures.body_uv.permute(0, 2, 3, 1).contiguous()

    inputs = {
        "reference_image": _bytes(references.image),
        "figure_image": _bytes(figures.image * ~figures.region[:, None]),
        "mask_image": figures.region.numpy(),
        "body_uv": body_uv.numpy(),
    }
    annotations = {
        "garment": worn.numpy(),
        "reference_garment": references.garment.numpy(),
        "correspondence": _pixels(given, figures.points, worn),
        "uv_lookup": _pixels(average_placements(len(numbers)), body_uv, worn),
        "target": _bytes(torch.where(figures.region[:, None], wearing.image, figures.image)),
    }
    if swapped:
        annotations["former_correspondence"] = _pixels(placements, figures.points, worn)
    roles = {"garment": "object", "reference_garment": "reference_object"}
    roles |= {name: name for name in ("correspondence", "target")}
    suffix = "-swapped" if swapped else ""
    return [
        {
            **{name: values[k] for name, values in inputs.items()},
            "num_inference_steps": STEPS,
            "seed": numbers[k] - SPLITS[split],
            "id": f"tryon-{start + k:04d}{suffix}",
            "annotations": {name: Annotation(values[k], roles.get(name)) for name, values in annotations.items()},
        }
        for k in range(len(numbers))
    ]

"""Which random numbers make which sample, and batches of samples for training.

Training and held-out samples are numbered apart, so no seed can make them meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from attlas.recorder.demo.tryon.garments import Garments, draw_garments, uniforms
from attlas.recorder.demo.tryon.scenes import (
    Figures,
    Placements,
    References,
    draw_figures,
    draw_placements,
    draw_references,
)

SAMPLES_PER_SEED = 1_000_000
SEEDS = 1_000
SPLITS = {"train": 0, "held_out": SAMPLES_PER_SEED * SEEDS}
"""First sample number of each split."""

BACKDROP = slice(19, 22)
FIGURE = slice(22, 57)
PLACEMENT = slice(57, 62)
"""Columns of a sample's random numbers, behind those of the garment."""


@dataclass(frozen=True)
class Batch:
    """``n`` samples: garments, the figures that wear them, and the reference pictures."""

    garments: Garments
    figures: Figures
    placements: Placements
    references: References


def sample_numbers(n: int, *, seed: int, split: str, first: int = 0) -> list[int]:
    """Numbers of ``n`` samples of a split, the same for the same seed, never shared with another split or seed.

    Raises
    ------
    ValueError
        If the split is unknown, the seed is outside [0, 1000), or more than a million samples are asked for.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {sorted(SPLITS)}; got {split!r}.")
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed must be at least 0 and below {SEEDS}; got {seed}.")
    if n < 0 or first < 0 or first + n > SAMPLES_PER_SEED:
        raise ValueError(f"a seed has {SAMPLES_PER_SEED} samples; got n = {n} from sample {first}.")
    start = SPLITS[split] + seed * SAMPLES_PER_SEED + first
    return list(range(start, start + n))


def draw_batch(numbers: Sequence[int]) -> Batch:
    """Draw the samples of these numbers."""
    random = uniforms(numbers)
    garments = draw_garments(random)
    placements = draw_placements(random[:, PLACEMENT])
    return Batch(
        garments=garments,
        figures=draw_figures(garments, random[:, FIGURE]),
        placements=placements,
        references=draw_references(garments, placements, random[:, BACKDROP]),
    )


def draw_fresh_references(garments: Garments, generator: torch.Generator) -> tuple[References, Placements]:
    """Draw reference pictures of given garments at new random placements, as training sees them."""
    random = torch.rand(len(garments.pattern), 8, generator=generator)
    placements = draw_placements(random[:, 3:])
    return draw_references(garments, placements, random[:, :3]), placements

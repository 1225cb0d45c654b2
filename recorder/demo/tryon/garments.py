"""Procedural garments, painted at any point of their own coordinates.

A garment is a function, not a picture: given points ``(u, v)`` it says the colour there and whether there is cloth.
The figure and the reference picture evaluate the same function at different points, which is why the
correspondence between them is known exactly and needs no optical flow and no nearest-colour search.

``u`` runs from -1 (the picture's left of the upright garment) to 1, ``v`` from -1 (neck) to 1 (hem).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

N_UNIFORMS = 64
"""Random numbers that fix one sample; every module names the columns that it reads."""

PATTERNS = ("plain", "hoops", "pinstripes", "diagonals", "checks", "dots", "blocks")
"""What the cloth shows between the trims."""

CLOTH_COLOURS = (
    (0.95, 0.85, 0.25),
    (0.95, 0.55, 0.15),
    (0.60, 0.30, 0.70),
    (0.35, 0.80, 0.85),
    (0.95, 0.60, 0.75),
    (0.95, 0.95, 0.92),
    (0.55, 0.40, 0.28),
    (0.55, 0.58, 0.62),
    (0.70, 0.85, 0.45),
    (0.80, 0.70, 0.95),
)
"""RGB in [0, 1]; none is close to a trim, or orientation could not be read from the picture."""

TRIMS = {"neck": (0.05, 0.05, 0.05), "left": (0.85, 0.08, 0.10), "right": (0.10, 0.15, 0.85), "hem": (0.05, 0.50, 0.15)}
"""RGB in [0, 1], the same on every garment: they tell left from right and up from down."""

TRIM_WIDTH = 0.15
NECK_CENTRE = (0.0, -0.86)
NECK_RADIUS = 0.17
TOP, HEM = -0.74, 0.86
SHOULDER = (0.34, -0.56)
LEFT_CUFF = (0.92, -0.26)
RIGHT_CUFF = (0.68, -0.39)
SLEEVE_HALF_WIDTH = 0.19


@dataclass(frozen=True)
class Garments:
    """Parameters of ``n`` garments; every tensor is float32 and broadcasts against points ``(n, p)``.

    Attributes
    ----------
    pattern
        Index into `PATTERNS`, int64 ``(n, 1)``.
    colours
        First, second and emblem colour, ``(n, 3, 3)``, RGB in [0, 1].
    period, phase
        Of the pattern, in garment units, ``(n, 1)``.
    half_width, flare
        Of the body at the shoulders, and what the hem adds to it, ``(n, 1)``.
    emblem
        Centre and radius, ``(n, 3)``; radius 0 where there is none.
    """

    pattern: torch.Tensor
    colours: torch.Tensor
    period: torch.Tensor
    phase: torch.Tensor
    half_width: torch.Tensor
    flare: torch.Tensor
    emblem: torch.Tensor


def uniforms(numbers: Sequence[int]) -> torch.Tensor:
    """Random numbers behind the samples of these numbers.

    Parameters
    ----------
    numbers
        One non-negative integer a sample. A sample depends on its own number alone, not on its neighbours.

    Returns
    -------
    float32 ``(len(numbers), N_UNIFORMS)`` in [0, 1).
    """
    rows = [np.random.default_rng(number).random(N_UNIFORMS, dtype=np.float32) for number in numbers]
    return torch.from_numpy(np.stack(rows))


def between(low: float, high: float, column: torch.Tensor) -> torch.Tensor:
    """Spread a column of uniforms ``(n,)`` over [low, high), as ``(n, 1)`` so that it broadcasts over points."""
    return (low + (high - low) * column)[:, None]


def draw_garments(random: torch.Tensor) -> Garments:
    """Garments behind the random numbers of some samples.

    Parameters
    ----------
    random
        From `uniforms`, float32 ``(n, N_UNIFORMS)``; columns 0 to 21 are read.

    Returns
    -------
    `Garments` of ``n``.
    """
    ranking = random[:, : len(CLOTH_COLOURS)].argsort(dim=1)[:, :3]
    has_emblem = (random[:, 14] < 0.6).float()
    return Garments(
        pattern=(random[:, 10:11] * len(PATTERNS)).long(),
        colours=torch.tensor(CLOTH_COLOURS)[ranking],
        period=between(0.38, 0.62, random[:, 11]),
        phase=between(0.0, 1.0, random[:, 12]),
        half_width=between(0.44, 0.52, random[:, 13]),
        flare=between(-0.04, 0.12, random[:, 15]),
        emblem=torch.cat(
            [
                between(-0.22, 0.22, random[:, 16]),
                between(-0.30, 0.35, random[:, 17]),
                between(0.14, 0.22, random[:, 18]) * has_emblem[:, None],
            ],
            dim=1,
        ),
    )


def _sleeve(u: torch.Tensor, v: torch.Tensor, cuff: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Is the point in the sleeve that runs from the shoulder to ``cuff``, and how far from the cuff."""
    along = (cuff[0] - SHOULDER[0], cuff[1] - SHOULDER[1])
    length = float(np.hypot(*along))
    du, dv = u - SHOULDER[0], v - SHOULDER[1]
    position = (du * along[0] + dv * along[1]) / length
    across = (du * along[1] - dv * along[0]) / length
    inside = (position > -0.2) & (position < length) & (across.abs() < SLEEVE_HALF_WIDTH)
    return inside, length - position


def _is_second_colour(garments: Garments, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    def odd(distance: torch.Tensor) -> torch.Tensor:
        return torch.remainder(distance / garments.period + garments.phase, 1.0) < 0.5

    hoops, pinstripes = odd(v), odd(u)
    centred_u = torch.remainder(u / garments.period + garments.phase, 1.0) - 0.5
    centred_v = torch.remainder(v / garments.period + garments.phase, 1.0) - 0.5
    candidates = torch.stack(
        [
            torch.zeros_like(hoops),
            hoops,
            pinstripes,
            odd((u + v) * 0.7071),
            hoops ^ pinstripes,
            centred_u.square() + centred_v.square() < 0.1,
            v < garments.phase - 0.5,
        ],
        dim=1,
    )
    chosen = garments.pattern[:, :, None].expand(-1, 1, u.shape[1])
    return candidates.gather(1, chosen)[:, 0]


def paint(garments: Garments, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour and presence of cloth at points of garment coordinates.

    Parameters
    ----------
    garments
        ``n`` garments.
    points
        ``(u, v)``, float32 ``(n, p, 2)``.

    Returns
    -------
    colour
        float32 ``(n, p, 3)``, RGB in [0, 1]; meaningless where there is no cloth.
    inside
        bool ``(n, p)``.
    """
    u, v = points.unbind(-1)
    half_width = garments.half_width + garments.flare * (v - TOP) / (HEM - TOP)
    from_side = half_width - u.abs()
    body = (from_side > 0) & (v > TOP) & (v < HEM)
    left, to_left_cuff = _sleeve(-u, v, LEFT_CUFF)
    right, to_right_cuff = _sleeve(u, v, RIGHT_CUFF)
    from_neck = torch.hypot(u - NECK_CENTRE[0], v - NECK_CENTRE[1])
    inside = (body | left | right) & (from_neck > NECK_RADIUS)

    second = _is_second_colour(garments, u, v)
    colour = torch.where(second[..., None], garments.colours[:, None, 1], garments.colours[:, None, 0])
    emblem_u, emblem_v, radius = garments.emblem[:, :, None].unbind(1)
    on_emblem = torch.hypot(u - emblem_u, v - emblem_v) < radius
    colour = torch.where(on_emblem[..., None], garments.colours[:, None, 2], colour)

    # Under the arms the sides of the body; on the sleeves the cuffs.
    flank = body & (from_side < TRIM_WIDTH) & (v > -0.15)
    trims = (
        ("left", (flank & (u < 0)) | (left & ~body & (to_left_cuff < TRIM_WIDTH))),
        ("right", (flank & (u > 0)) | (right & ~body & (to_right_cuff < TRIM_WIDTH))),
        ("hem", body & (HEM - v < TRIM_WIDTH)),
        ("neck", from_neck < NECK_RADIUS + TRIM_WIDTH),
    )
    for name, where in trims:
        colour = torch.where(where[..., None], torch.tensor(TRIMS[name]), colour)
    return colour, inside

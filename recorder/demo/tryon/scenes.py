"""Scenes: a garment worn by a posed figure, and the same garment alone in a reference picture.

Both pictures are 64x64 and made by asking, for each pixel, which garment point lies there. Composing one map with
the inverse of the other gives the true correspondence.

Pixel coordinates are array indices: ``(y, x) = (0, 0)`` is the centre of the first pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from attlas.recorder.demo.tryon.garments import SHOULDER, Garments, between, paint

SIZE = 64
OVERSAMPLING = 2
REFERENCE_UNIT = 28.0
"""Pixels in one garment unit of a reference picture of scale 1."""

REFERENCE_SCALES = (0.6, 1.0)
UV_JITTER = 0.02
"""Standard deviation of the noise on the body map, as a fraction of its range of 2."""

MASK_MARGIN = 2
"""Pixels by which the region to paint is wider than the garment, so that it does not give the outline away."""

CENTRE = (SIZE - 1) / 2


@dataclass(frozen=True)
class Placements:
    """Where ``n`` garments lie in their reference pictures: a similarity, perhaps mirrored.

    Attributes
    ----------
    matrix
        Garment units to pixels, ``(x, y) = matrix @ (u, v) + offset``, float32 ``(n, 2, 2)``.
    offset
        float32 ``(n, 2)``, in ``(x, y)``.
    """

    matrix: torch.Tensor
    offset: torch.Tensor

    def to_pixels(self, points: torch.Tensor) -> torch.Tensor:
        """Garment points ``(n, p, 2)`` as ``(u, v)`` to pixels ``(n, p, 2)`` as ``(x, y)``."""
        pixels: torch.Tensor = points @ self.matrix.transpose(1, 2) + self.offset[:, None]
        return pixels

    def to_points(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels ``(n, p, 2)`` as ``(x, y)`` to garment points ``(n, p, 2)`` as ``(u, v)``."""
        points: torch.Tensor = (pixels - self.offset[:, None]) @ torch.linalg.inv(self.matrix).transpose(1, 2)
        return points


@dataclass(frozen=True)
class References:
    """Reference pictures.

    Attributes
    ----------
    image
        float32 ``(n, 3, 64, 64)`` in [-1, 1].
    garment
        Cloth covers at least half of the pixel, bool ``(n, 64, 64)``.
    points
        Garment point at each pixel's centre, float32 ``(n, 64, 64, 2)`` as ``(u, v)``, also where there is no cloth.
    """

    image: torch.Tensor
    garment: torch.Tensor
    points: torch.Tensor


@dataclass(frozen=True)
class Figures:
    """Pictures of figures that wear the garments.

    Attributes
    ----------
    image
        float32 ``(n, 3, 64, 64)`` in [-1, 1].
    garment
        Cloth covers at least half of the pixel, bool ``(n, 64, 64)``.
    region
        The region to paint: the garment and `MASK_MARGIN` pixels around it, bool ``(n, 64, 64)``.
    body_uv
        Noisy garment point under each pixel of the region, 0 elsewhere, float32 ``(n, 2, 64, 64)`` as ``(u, v)``.
    points
        Garment point at each pixel's centre, without noise, float32 ``(n, 64, 64, 2)`` as ``(u, v)``.
    """

    image: torch.Tensor
    garment: torch.Tensor
    region: torch.Tensor
    body_uv: torch.Tensor
    points: torch.Tensor


def pixel_grid(oversampling: int = 1) -> torch.Tensor:
    """Sample positions of a picture, float32 ``((64 * oversampling) ** 2, 2)`` as ``(x, y)`` array indices."""
    axis = (torch.arange(SIZE * oversampling) + 0.5) / oversampling - 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def draw_placements(random: torch.Tensor) -> Placements:
    """Any rotation, mirrored half of the time, scale 0.6 to 1, any shift that keeps the garment in the picture.

    Parameters
    ----------
    random
        Uniforms in [0, 1), float32 ``(n, 5)``: angle, mirror, scale, two for the shift.
    """
    angle = random[:, 0] * 2 * math.pi - math.pi
    mirror = torch.where(random[:, 1] < 0.5, -1.0, 1.0)
    scale = REFERENCE_SCALES[0] + (REFERENCE_SCALES[1] - REFERENCE_SCALES[0]) * random[:, 2]
    # The corner of the longer sleeve lies 1.10 units from the garment's centre.
    freedom = (CENTRE - 1.10 * REFERENCE_UNIT * scale).clamp(min=0.0)[:, None]
    offset = CENTRE + freedom * (2 * random[:, 3:5] - 1)
    return place(angle, mirror, scale, offset)


def place(angle: torch.Tensor, mirror: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor) -> Placements:
    """Compose placements from angles (radian), mirrors (-1 or 1), scales, each ``(n,)``, and offsets ``(n, 2)``."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = torch.stack([torch.stack([cos * mirror, -sin], dim=1), torch.stack([sin * mirror, cos], dim=1)], dim=1)
    return Placements(rows * (scale * REFERENCE_UNIT)[:, None, None], offset)


def average_placements(n: int) -> Placements:
    """Give the mean of each parameter of `draw_placements`: what a look-up that never sees the reference assumes."""
    scale = torch.full((n,), sum(REFERENCE_SCALES) / 2)
    return place(torch.zeros(n), torch.ones(n), scale, torch.full((n, 2), CENTRE))


def _flatten(colour: torch.Tensor, cover: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Average oversampled colours ``(n, p, 3)`` and cover ``(n, p)`` down to pictures in [-1, 1] and masks."""
    wide = SIZE * OVERSAMPLING
    picture = F.avg_pool2d(colour.transpose(1, 2).reshape(-1, 3, wide, wide), OVERSAMPLING)
    share = F.avg_pool2d(cover.float().reshape(-1, 1, wide, wide), OVERSAMPLING)[:, 0]
    return picture * 2 - 1, share >= 0.5


def draw_references(garments: Garments, placements: Placements, backdrop: torch.Tensor) -> References:
    """Paint garments alone, each at its placement.

    Parameters
    ----------
    garments, placements
        ``n`` of each.
    backdrop
        Uniforms in [0, 1), float32 ``(n, 3)``: a light tint of the plain background.
    """
    fine = pixel_grid(OVERSAMPLING).expand(len(backdrop), -1, -1)
    cloth, inside = paint(garments, placements.to_points(fine))
    plain = (0.86 + 0.12 * backdrop)[:, None]
    image, garment = _flatten(torch.where(inside[..., None], cloth, plain), inside)
    points = placements.to_points(pixel_grid().expand(len(backdrop), -1, -1))
    return References(image, garment, points.reshape(-1, SIZE, SIZE, 2))


def _posed(random: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Garment points ``(n, p, 2)`` under pixels ``(p, 2)`` of figures posed by uniforms ``(n, 9)``."""
    angle = between(-0.30, 0.30, random[:, 0])
    cos, sin = torch.cos(angle), torch.sin(angle)
    x = pixels[None, :, 0] - CENTRE - between(-3.0, 3.0, random[:, 1])
    y = pixels[None, :, 1] - CENTRE - between(0.0, 4.0, random[:, 2])
    across = (cos * x + sin * y) / between(22.5, 26.5, random[:, 3])
    down = (cos * y - sin * x) / between(22.5, 26.0, random[:, 4])
    u = across - between(-0.12, 0.12, random[:, 5]) * down.square()
    # Arms hang or rise: beyond the shoulder the cloth is sheared, which is continuous and needs no joints.
    lift = torch.where(u < 0, between(-0.45, 0.45, random[:, 6]), between(-0.45, 0.45, random[:, 7]))
    v = down + lift * (u.abs() - SHOULDER[0]).clamp(min=0.0) - between(-0.08, 0.08, random[:, 8]) * u
    return torch.stack([u, v], dim=-1)


def _body(random: torch.Tensor, points: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Colours ``(n, p, 3)`` of a figure and its background, without the garment, from uniforms ``(n, 8)``."""
    u, v = points.unbind(-1)
    height = (pixels[None, :, 1:] / (SIZE - 1)).clamp(0, 1)
    top, bottom = 0.45 + 0.4 * random[:, None, 0:3], 0.35 + 0.4 * random[:, None, 3:6]
    colour = top + (bottom - top) * height
    skin = torch.tensor((0.98, 0.82, 0.70)) * (1 - 0.55 * random[:, None, 6:7])
    trousers = torch.tensor((0.22, 0.22, 0.30)) + 0.12 * random[:, None, 7:8]
    arms = ((v + 0.56 - 0.5 * (u.abs() - 0.34)).abs() < 0.13) & (u.abs() > 0.3) & (u.abs() < 1.15)
    head = (u / 0.21).square() + ((v + 1.08) / 0.27).square() < 1
    chest = (u.abs() < 0.40) & (v > -0.70) & (v < 0.8)
    neck = (u.abs() < 0.12) & (v > -1.0) & (v < -0.6)
    legs = (u.abs() < 0.42) & (v > 0.8)
    colour = torch.where((arms | head | chest | neck)[..., None], skin, colour)
    return torch.where(legs[..., None], trousers, colour)


def draw_figures(garments: Garments, random: torch.Tensor) -> Figures:
    """Paint figures that wear the garments.

    Parameters
    ----------
    garments
        ``n`` garments.
    random
        Uniforms in [0, 1), float32 ``(n, 35)``: 9 for the pose, 8 for the body and background, 18 for the jitter.
    """
    pose, body, jitter = random[:, :9], random[:, 9:17], random[:, 17:35]
    fine = pixel_grid(OVERSAMPLING)
    points = _posed(pose, fine)
    cloth, inside = paint(garments, points)
    image, garment = _flatten(torch.where(inside[..., None], cloth, _body(body, points, fine)), inside)

    centres = _posed(pose, pixel_grid()).reshape(-1, SIZE, SIZE, 2)
    reach = 2 * MASK_MARGIN + 1
    region = F.max_pool2d(garment.float()[:, None], reach, stride=1, padding=MASK_MARGIN)[:, 0] > 0
    # Uniforms of variance 1/12, scaled to the wanted deviation; smooth, as an estimated body map would err.
    noise = (jitter - 0.5).reshape(-1, 2, 3, 3) * (math.sqrt(12) * UV_JITTER * 2)
    noise = F.interpolate(noise, size=(SIZE, SIZE), mode="bicubic", align_corners=True)
    body_uv = (centres.permute(0, 3, 1, 2) + noise) * region[:, None]
    return Figures(image, garment, region, body_uv, centres)

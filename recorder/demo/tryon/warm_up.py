"""The encoder's warm-up: it learns where on the garment each patch of a reference picture lies.

This stage is supervised with the true garment points, and most of the alignment that the finished pipeline shows
comes from it. The denoiser never sees this supervision; it is trained with the diffusion loss alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from attlas.recorder.demo.tryon.batches import BACKDROP, PLACEMENT, sample_numbers
from attlas.recorder.demo.tryon.garments import draw_garments, paint, uniforms
from attlas.recorder.demo.tryon.models import EMBEDDING_WIDTH, PATCH, PATCHES, new_image_encoder
from attlas.recorder.demo.tryon.scenes import SIZE, References, draw_placements, draw_references
from attlas.recorder.demo.tryon.stages import Average, Workshop, cosine_rate, run_stage, set_rate

BATCH = 24
POINTS = 48
"""Garment points looked up in each reference picture and step."""

FREQUENCIES = (0.5, 1.0, 2.0)
"""Of the code of a garment point, in half turns per garment unit."""

CODE_WIDTH = 4 * len(FREQUENCIES)
FIRST_SAMPLE = 100_000


def point_code(points: torch.Tensor) -> torch.Tensor:
    """Sines and cosines of garment points ``(..., 2)``, as ``(..., 12)``; near points have near codes."""
    angles = points[..., None] * (math.pi * torch.tensor(FREQUENCIES, device=points.device))
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class Probe(nn.Module):
    """What asks the encoder's tokens for garment points; thrown away after the warm-up.

    Attributes
    ----------
    head
        Each patch token to cover 1, mean colour 3, and the code of its garment point.
    key, query
        A look-up in the manner of the cross-attention to come: keys from tokens, queries from point codes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(EMBEDDING_WIDTH, 4 + CODE_WIDTH)
        self.key = nn.Linear(EMBEDDING_WIDTH, 64)
        self.query = nn.Sequential(nn.Linear(CODE_WIDTH, 64), nn.GELU(), nn.Linear(64, 64))

    def look_up(self, tokens: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, p, patches)`` of garment points ``(n, p, 2)`` over patch tokens ``(n, patches, width)``."""
        logits: torch.Tensor = self.query(point_code(points)) @ self.key(tokens).transpose(1, 2) / 8.0
        return logits


def patch_targets(references: References) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cover ``(n, 256)``, mean colour ``(n, 256, 3)`` and garment point ``(n, 256, 2)`` of each patch."""
    cover = F.avg_pool2d(references.garment.float()[:, None], PATCH)
    colour = F.avg_pool2d(references.image, PATCH)
    # The point at the patch's centre; the map is affine, so the mean over the patch is just that.
    points = F.avg_pool2d(references.points.permute(0, 3, 1, 2), PATCH)
    return cover.flatten(1), colour.flatten(2).transpose(1, 2), points.flatten(2).transpose(1, 2)


def warm_up_encoder(workshop: Workshop, steps: int) -> Any:
    """Train a new image encoder to tell garment points, colours and cover of the patches.

    Returns
    -------
    The averaged `CLIPVisionModel`, on the workshop's device.
    """
    torch.manual_seed(workshop.seed + 1)
    encoder, probe = new_image_encoder().to(workshop.device), Probe().to(workshop.device)
    both = nn.ModuleDict({"encoder": encoder, "probe": probe})
    optimiser = torch.optim.AdamW([{"params": both.parameters(), "base": 1.5e-3}], weight_decay=0.01)
    average = Average(encoder, 0.99)
    size = workshop.batch or BATCH

    def step(index: int) -> dict[str, torch.Tensor]:
        generator = workshop.generator("warm-up", index)
        first = FIRST_SAMPLE + index * size
        random = uniforms(sample_numbers(size, seed=workshop.seed, split="train", first=first))
        garments, placements = draw_garments(random), draw_placements(random[:, PLACEMENT])
        references = draw_references(garments, placements, random[:, BACKDROP])
        cover, colour, points = (part.to(workshop.device) for part in patch_targets(references))

        asked = torch.rand(size, POINTS, 2, generator=generator) * 2 - 1
        _, on_cloth = paint(garments, asked)
        pixels = placements.to_pixels(asked).clamp(-0.5, SIZE - 0.51)
        columns, rows = ((pixels + 0.5) / PATCH).long().unbind(-1)
        truth = (rows * PATCHES + columns).to(workshop.device)
        on_cloth = on_cloth.to(workshop.device)

        tokens = encoder(pixel_values=references.image.to(workshop.device)).last_hidden_state[:, 1:]
        told = probe.head(tokens)
        place_error = (told[..., 4:] - point_code(points)).square().mean(-1)
        losses = {
            "place": (place_error * cover).sum() / cover.sum(),
            "colour": (told[..., 1:4] - colour).square().mean(),
            "cover": F.binary_cross_entropy_with_logits(told[..., 0], cover),
            "look_up": F.cross_entropy(probe.look_up(tokens, asked.to(workshop.device))[on_cloth], truth[on_cloth]),
        }
        set_rate(optimiser, cosine_rate(index, steps, warm_up=100, hold=0.4))
        optimiser.zero_grad()
        torch.autograd.backward(4 * losses["place"] + 2 * losses["colour"] + losses["cover"] + losses["look_up"])
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimiser.step()
        average.update()
        return losses

    run_stage(workshop, "warm-up", steps, {"both": both, "optimiser": optimiser, "average": average}, step)
    average.copy_to(encoder)
    return encoder

"""Procedural scenes: one or two coloured shapes on plain grey, with the mask of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from attlas.recorder.demo.shapes.words import COLOURS, NOUNS, Mention, caption

__all__ = ["GREYS", "SIZE", "Scene", "captions", "draw", "signed_distance"]

SIZE = 64
GREYS = (56, 128, 204)
RADIUS = (13.0, 14.5)
RING_WIDTH = 4.0
CROSS_ARM = 0.36
PAIRS = 0.8
UNNAMED_COLOUR = 0.15
SLOT_JITTER = 1.0

Placement = Literal["slots", "free"]


@dataclass(frozen=True)
class Scene:
    """One picture and its truth.

    Attributes
    ----------
    image : uint8 array (64, 64, 3)
        The picture, RGB.
    objects : tuple of Mention
        Noun and colour of each object, in the order drawn; nouns and colours differ within a scene.
    masks : dict of str to bool array (64, 64)
        For each noun the pixels that its object covers by at least half.
    """

    image: npt.NDArray[np.uint8]
    objects: tuple[Mention, ...]
    masks: dict[str, npt.NDArray[np.bool_]]


def signed_distance(
    noun: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], radius: float
) -> npt.NDArray[np.float64]:
    """Distance of points to the outline of a shape centred at the origin; negative inside.

    Exact for disc and ring; for the polygons it is the distance to the nearest edge line, which is exact
    near edges and too small beyond corners: good enough to antialias.

    Parameters
    ----------
    noun : str
        One of ``NOUNS``.
    x, y : float64 arrays of one shape
        Offsets from the centre in pixels, y downwards.
    radius : float
        Outer radius (circumradius for the triangle, half the side for the cross) in pixels.

    Returns
    -------
    float64 array
        Of the shape of ``x``, in pixels.
    """
    if noun == "disc":
        return np.asarray(np.hypot(x, y) - radius)
    if noun == "ring":
        return np.asarray(np.abs(np.hypot(x, y) - (radius - RING_WIDTH / 2)) - RING_WIDTH / 2)
    if noun == "cross":
        long, short = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
        return np.asarray(np.maximum(long - radius, short - CROSS_ARM * radius))
    if noun == "triangle":
        # Equilateral, tip up. The centroid sits a quarter of the radius below the slot's centre,
        # so that the bounding box (height 1.5 radius) is centred.
        low = y - 0.25 * radius
        side = (np.abs(x) * np.sqrt(3.0) - low) / 2
        return np.asarray(np.maximum(side, low) - radius / 2)
    raise ValueError(f"unknown shape {noun!r}; known are {', '.join(NOUNS)}")


def draw(seed: int, placement: Placement = "slots") -> Scene:
    """Draw the scene of a seed.

    Parameters
    ----------
    seed : int
        Non-negative. The same seed and placement always give the same scene.
    placement : {"slots", "free"}
        ``"slots"`` puts each object in its own quadrant, within one pixel of its centre;
        ``"free"`` puts it anywhere in the picture, two objects not overlapping.

    Returns
    -------
    Scene
        One object (20 %) or two (80 %), of radius 13 to 14.5 pixels.
    """
    rng = np.random.default_rng((0x5EED, seed))
    count = 2 if rng.random() < PAIRS else 1
    nouns = rng.choice(NOUNS, count, replace=False)
    colours = rng.choice(list(COLOURS), count, replace=False)
    radii = rng.uniform(*RADIUS, count)
    centres = _slots(rng, count) if placement == "slots" else _free(rng, radii)

    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    image = np.full((SIZE, SIZE, 3), float(rng.choice(GREYS)))
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    for noun, colour, radius, (x, y) in zip(nouns, colours, radii, centres, strict=True):
        distance = signed_distance(str(noun), columns - x, rows - y, float(radius))
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        image = image * (1 - cover) + np.array(COLOURS[str(colour)]) * cover
        masks[str(noun)] = cover[..., 0] >= 0.5
    objects = tuple(Mention(str(noun), str(colour)) for noun, colour in zip(nouns, colours, strict=True))
    return Scene(np.rint(image).astype(np.uint8), objects, masks)


def captions(scene: Scene, rng: np.random.Generator) -> Iterator[str]:
    """Captions of a scene without end: random order of mention, 15 % of the objects by shape word alone.

    Parameters
    ----------
    scene : Scene
        What to describe.
    rng : numpy.random.Generator
        Source of order and omissions; advanced by each caption.

    Yields
    ------
    str
        Such as ``"a ring and a blue cross"``.
    """
    while True:
        order = rng.permutation(len(scene.objects))
        named = rng.random(len(order)) >= UNNAMED_COLOUR
        yield caption(
            [
                Mention(scene.objects[place].noun, scene.objects[place].colour if colour else None)
                for place, colour in zip(order, named, strict=True)
            ]
        )


def _slots(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    quadrants = rng.choice(4, count, replace=False)
    centres = SIZE * (0.25 + 0.5 * np.stack([quadrants % 2, quadrants // 2], axis=1))
    return np.asarray(centres + rng.uniform(-SLOT_JITTER, SLOT_JITTER, (count, 2)))


def _free(rng: np.random.Generator, radii: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    while True:
        centres = rng.uniform(radii[:, None], SIZE - radii[:, None], (len(radii), 2))
        if len(radii) == 1 or np.hypot(*(centres[0] - centres[1])) >= radii.sum() + 1:
            return centres

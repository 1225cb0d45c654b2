"""Ground truth of a generated picture: where each asked object really is, and whether it is what was asked.

Backgrounds are grey, so a pixel's chroma (its colour less its own mean) is the coverage of an object times the
chroma of that object's colour. Projecting on the palette's chroma vectors therefore gives both the colour (the
nearest direction) and the coverage (the length), and coverage one half is the outline that ``scenes`` draws.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from attlas.recorder.demo.shapes.scenes import signed_distance
from attlas.recorder.demo.shapes.words import COLOURS, MAX_OBJECTS, NOUNS, Mention, mentions

__all__ = ["annotate", "components", "recognise"]

Mask = npt.NDArray[np.bool_]

# The thinnest object, a ring, covers about 250 pixels; specks and colour fringes stay below this.
MIN_PIXELS = 60
MIN_OVERLAP = 0.5
_EIGHT_NEIGHBOURS = np.ones((3, 3))
# Width and height of each shape's bounding box, in units of its radius.
_EXTENT = {"disc": (2.0, 2.0), "triangle": (3.0**0.5, 1.5), "ring": (2.0, 2.0), "cross": (2.0, 2.0)}


def annotate(request: Mapping[str, Any], image: Image.Image | npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    """Find the objects of a request in the picture made from it.

    An object is the largest connected region of its colour. Objects that share a colour take its largest
    regions, paired with the nouns that they resemble. An object named without a colour is the largest region of
    any colour that the prompt does not name.

    Parameters
    ----------
    request : mapping
        Needs ``"prompt"``, naming one or two different shapes.
    image : PIL image or uint8 array (height, width, 3)
        The generated picture, RGB.

    Returns
    -------
    dict of str to array
        For each noun of the prompt its mask, bool (height, width), all False if the object is absent; and,
        for each object in the order of the prompt, padded with NaN to two,

        ``colour_present`` : float32 (2,), 1 if a region of the asked colour (at least 60 pixels) is there, or 0;
        ``shape_correct`` : float32 (2,), 1 if that region is recognised as the asked shape, or 0.

    Raises
    ------
    ValueError
        If the prompt names no shape or more than two, or the picture is not RGB in uint8.
    """
    asked = mentions(str(request["prompt"]))
    pixels = _pixels(image)
    named = {item.colour for item in asked}
    truth: dict[str, npt.NDArray[Any]] = {}
    for colour in dict.fromkeys(item.colour for item in asked):
        group = [item for item in asked if item.colour == colour]
        colours = [colour] if colour else [other for other in COLOURS if other not in named]
        regions = sorted((region for each in colours for region in components(pixels, each)), key=_area)
        truth.update(_assign(group, regions[::-1], pixels.shape[:2]))

    present, correct = np.full((2, MAX_OBJECTS), np.nan, dtype=np.float32)
    for place, item in enumerate(asked):
        present[place] = truth[item.noun].any()
        correct[place] = recognise(truth[item.noun]) == item.noun
    return {item.noun: truth[item.noun] for item in asked} | {"colour_present": present, "shape_correct": correct}


def components(pixels: npt.NDArray[np.uint8], colour: str) -> list[Mask]:
    """Find the connected regions of a colour, by eight neighbours, of at least 60 pixels.

    Parameters
    ----------
    pixels : uint8 array (height, width, 3)
        RGB.
    colour : str
        A name of ``COLOURS``.

    Returns
    -------
    list of bool array (height, width)
        The largest first.
    """
    palette = np.array(list(COLOURS.values()), dtype=np.float64)
    palette -= palette.mean(axis=1, keepdims=True)
    length = np.linalg.norm(palette, axis=1)
    chroma = pixels - pixels.mean(axis=-1, keepdims=True)
    along = chroma @ (palette / length[:, None]).T
    nearest = along.argmax(axis=-1)
    which = list(COLOURS).index(colour)
    labels, count = ndimage.label((nearest == which) & (along[..., which] >= length[which] / 2), _EIGHT_NEIGHBOURS)
    regions = [labels == label for label in range(1, count + 1)]
    return sorted((region for region in regions if _area(region) >= MIN_PIXELS), key=_area, reverse=True)


def recognise(region: Mask) -> str | None:
    """Name the shape of a region.

    Each shape is drawn at the region's bounding box (its size the mean of what width and height ask for);
    the one with the greatest intersection over union wins, if that is at least one half.

    Parameters
    ----------
    region : bool array (height, width)
        One object.

    Returns
    -------
    str or None
        One of ``NOUNS``; None for an empty region or one that resembles no shape.
    """
    if not region.any():
        return None
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    y, x = np.indices(region.shape) + 0.5
    x, y = x - (left + right) / 2, y - (top + bottom) / 2
    overlaps = {}
    for noun in NOUNS:
        wide, high = _EXTENT[noun]
        radius = ((right - left) / wide + (bottom - top) / high) / 2
        template = signed_distance(noun, x, y, radius) <= 0
        overlaps[noun] = float((template & region).sum() / (template | region).sum())
    best = max(overlaps, key=lambda noun: overlaps[noun])
    return best if overlaps[best] >= MIN_OVERLAP else None


def _assign(group: list[Mention], regions: list[Mask], shape: tuple[int, ...]) -> dict[str, Mask]:
    """Give the largest regions to the nouns of one colour, in the order that matches more shapes."""
    taken = regions[: len(group)]
    taken += [np.zeros(shape, dtype=np.bool_)] * (len(group) - len(taken))
    seen = [recognise(region) for region in taken]
    nouns = [item.noun for item in group]
    straight = sum(noun == shape for noun, shape in zip(nouns, seen, strict=True))
    crossed = sum(noun == shape for noun, shape in zip(nouns, seen[::-1], strict=True))
    return dict(zip(nouns, taken if straight >= crossed else taken[::-1], strict=True))


def _area(region: Mask) -> int:
    return int(region.sum())


def _pixels(image: Image.Image | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"the picture must be RGB, uint8 (height, width, 3); got {pixels.dtype} {pixels.shape}. "
            "A float picture in 0 to 1 needs (255 * picture).round().astype('uint8')"
        )
    return pixels

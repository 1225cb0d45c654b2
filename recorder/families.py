"""What differs between pipelines: where the denoiser is, how guidance orders its rows, what cross-attention looks at.

Branch order cannot be seen in the tensors, so it is a table; a pipeline that is not in it is refused rather than
labelled by guess.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from attlas.schemas.errors import CaptureError, InvalidValueError, unknown_name

__all__ = ["FAMILIES", "Family", "denoiser_of", "family_of", "patch_keys", "pictures_of", "register_family"]


@dataclass(frozen=True)
class Family:
    """Facts about pipelines that share one denoising loop.

    Parameters
    ----------
    name
        Label used in messages.
    pipelines
        Class names; subclasses count too.
    cross
        What the keys of cross-attention are: ``text`` or ``image``.
    branches
        The row orders that occur, one tuple for each number of rows in a picture's batch.
    batch
        Request arguments whose length is the number of pictures, the first given one counts.
    reference
        Request argument that holds the reference image, or None.
    picture
        Request argument whose size the generated picture has, where height and width are not arguments.
    denoiser
        Attribute of the pipeline that holds the denoiser.

    Examples
    --------
    >>> Family("mine", ("MyPipeline",), "text", (("cond",), ("cond", "uncond"))).labels(2)
    ('cond', 'uncond')
    """

    name: str
    pipelines: tuple[str, ...]
    cross: str
    branches: tuple[tuple[str, ...], ...] = (("cond",), ("uncond", "cond"))
    batch: tuple[str, ...] = ("prompt", "prompt_embeds")
    reference: str | None = None
    picture: str | None = None
    denoiser: str = "unet"

    def labels(self, rows: int) -> tuple[str, ...]:
        """Branch names of a batch with `rows` rows a picture."""
        for order in self.branches:
            if len(order) == rows:
                return order
        known = ", ".join(f"{len(order)} {list(order)}" for order in self.branches)
        raise CaptureError(
            f"the denoiser got {rows} rows for one picture; pipelines of family {self.name!r} have {known}: "
            "the order of its guidance branches is not known; register_family(Family(...)) can name it"
        )

    @property
    def branch_names(self) -> tuple[str, ...]:
        """All branch names that can occur."""
        return tuple(dict.fromkeys(name for order in self.branches for name in order))


_PLAIN = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")
_LARGE = tuple(name.replace("Diffusion", "DiffusionXL") for name in _PLAIN)

FAMILIES: list[Family] = [
    Family("stable diffusion", _PLAIN + _LARGE, "text", reference="ip_adapter_image"),
    Family(
        "instruct-pix2pix",
        ("StableDiffusionInstructPix2PixPipeline",),
        "text",
        branches=(("cond",), ("cond", "image_uncond", "uncond")),
    ),
    Family(
        "paint by example",
        ("PaintByExamplePipeline",),
        "image",
        batch=("image",),
        reference="example_image",
    ),
    Family(
        "try-on",
        ("TryOnPipeline",),
        "image",
        batch=("reference_image",),
        reference="reference_image",
        picture="figure_image",
    ),
]
"""Known families; `register_family` puts a new one in front."""


def register_family(family: Family) -> None:
    """Make `family` known, before the ones that are there, so that it may also replace one of them."""
    if family.cross not in ("text", "image"):
        raise unknown_name("kind of cross-attention", family.cross, ("text", "image"))
    FAMILIES.insert(0, family)


def family_of(pipe: Any) -> Family:
    """Family of the pipeline `pipe`.

    A pipeline outside the table with a `UNet2DConditionModel` and a tokenizer is recorded where it runs one row
    a picture (no guidance), because there the order of branches does not matter.

    Raises
    ------
    CaptureError
        If nothing is known of this kind of pipeline.
    """
    names = [cls.__name__ for cls in type(pipe).__mro__]
    for name in names:
        for family in FAMILIES:
            if name in family.pipelines:
                return family
    if isinstance(getattr(pipe, "unet", None), UNet2DConditionModel) and getattr(pipe, "tokenizer", None) is not None:
        return Family(names[0], (names[0],), "text", branches=(("cond",),))
    known = sorted({name for family in FAMILIES for name in family.pipelines})
    raise CaptureError(
        f"{names[0]} is of no known pipeline family; known: {', '.join(known)} and their subclasses; "
        "register_family(Family(...)) adds one"
    )


def denoiser_of(pipe: Any, family: Family) -> torch.nn.Module:
    """Denoiser module of `pipe`."""
    found = getattr(pipe, family.denoiser, None)
    if not isinstance(found, torch.nn.Module):
        raise CaptureError(f"{type(pipe).__name__}.{family.denoiser} is {type(found).__name__}; a module is needed")
    return found


def pictures_of(family: Family, request: Mapping[str, Any]) -> int:
    """Return the number of pictures that a request makes: length of its batch times images per prompt."""
    for name in family.batch:
        value = request.get(name)
        if value is not None:
            return _length(name, value) * int(request.get("num_images_per_prompt") or 1)
    raise InvalidValueError(f"a request of {family.name} needs {' or '.join(repr(name) for name in family.batch)}")


def _length(name: str, value: Any) -> int:
    """Entries of a batch; one picture or text is a batch of one."""
    if isinstance(value, list | tuple):
        if not value:
            raise InvalidValueError(f"{name!r} of the request is an empty list")
        return len(value)
    shape: tuple[int, ...] = tuple(getattr(value, "shape", ()))
    return int(shape[0]) if name.endswith("embeds") or len(shape) == 4 else 1


def patch_keys(pipe: Any, keys: int) -> tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    """Segment, row and column of each image key, from the image encoder's own picture and patch size.

    Patches are row-major, after the class token where there is one. Keys that are no patches (a single class
    token, the tokens of an IP-Adapter) get -1.
    """
    config = getattr(getattr(pipe, "image_encoder", None), "config", None)
    config = getattr(config, "vision_config", config)
    size, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    side = size // patch if isinstance(size, int) and isinstance(patch, int) and patch else 0
    rows = tuple(i // side for i in range(side * side)) if side else ()
    columns = tuple(i % side for i in range(side * side)) if side else ()
    if keys == 1:
        return ("cls",), (-1,), (-1,)
    if side and keys == side * side:
        return ("reference",) * keys, rows, columns
    if side and keys == side * side + 1:
        return ("cls", *("reference",) * (keys - 1)), (-1, *rows), (-1, *columns)
    return ("reference",) * keys, (-1,) * keys, (-1,) * keys

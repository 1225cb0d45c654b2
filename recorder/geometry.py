"""From what the first denoiser call showed to the leaves of a store."""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from attlas.recorder.capture import Capture
from attlas.recorder.models.adapters import adapters_of
from attlas.recorder.models.families import denoiser_of
from attlas.recorder.models.family import Family
from attlas.recorder.models.inventory import Site, core
from attlas.recorder.models.scenes import Part
from attlas.schemas import Leaf
from attlas.schemas.errors import CaptureError

__all__ = ["SiteShape", "build_leaves", "head_labels"]

DENSE_LIMIT = 4
"""`auto` stores the attention itself unless that takes more than this many times the bytes of its factors."""


@dataclass(frozen=True)
class SiteShape:
    """What a kernel call showed of a site; heads and keys are those kept.

    ``parts`` are the stretches of its keys; ``masked`` says whether its logits have a mask: ``keys`` (it is a channel
    of Q and K), ``queries`` (it differs from query to query) or empty. ``partial``: more keys took part in it.
    ``features`` is the length of the text's embeddings where K is their product with W_k, else 0.
    """

    site: Site
    grid: tuple[int, ...]
    heads: tuple[int, ...]
    channels: int
    parts: tuple[Part, ...]
    masked: str = ""
    partial: bool = False
    features: int = 0

    @property
    def keys(self) -> int:
        """Number of keys."""
        return sum(part.tokens for part in self.parts)

    @property
    def group(self) -> tuple[Any, ...]:
        """Sites with the same group share a leaf."""
        return (
            self.site.kind,
            self.grid,
            self.heads,
            self.channels,
            self.parts,
            bool(self.site.order),
            self.masked,
            self.features,
        )


def head_labels(capture: Capture, heads: int) -> tuple[int, ...]:
    """Numbers of the heads that are kept of a module with `heads` heads."""
    return tuple(range(heads)) if capture.heads is None else tuple(capture.heads)


def build_leaves(
    pipe: Any, family: Family, shapes: Iterable[SiteShape], capture: Capture, calls: int
) -> tuple[Leaf, ...]:
    """Group sites into leaves, in the order in which they computed, and choose each leaf's encoding.

    `calls` is the number of calls kept of a run. Warns where a site has one key only: its softmax is 1, so that
    what it looks at cannot act on the picture.
    """
    groups: dict[tuple[Any, ...], list[SiteShape]] = {}
    for shape in shapes:
        groups.setdefault(shape.group, []).append(shape)
    leaves = tuple(_leaf(pipe, family, members, capture, calls) for members in groups.values())
    single = [leaf.layers[0] for leaf in leaves if leaf.keys == 1 and not leaf.partial]
    if single:
        warnings.warn(
            f"{single[0]} and its like have one key: the softmax over keys is 1 whatever Q and K are, so these maps "
            "probe weights that do not act on the picture",
            UserWarning,
            stacklevel=2,
        )
    return leaves


def _leaf(pipe: Any, family: Family, members: list[SiteShape], capture: Capture, calls: int) -> Leaf:
    first = members[0]
    labels: list[KeyLabel] = []
    if first.site.kind == "image":
        labels = _image_keys(pipe, family, first)
    elif first.site.kind != "text":
        labels = [label for part in first.parts for label in part_labels(part)]
    encoding = _encoding(members, capture, calls)
    if capture.vocabulary is not None and first.site.kind == "text":
        if not first.features:
            raise CaptureError(
                f"{first.site.path} makes its keys by more than one product with W_k (a norm, a bias, an adapter), so "
                "that words which were in no prompt have no keys; leave out Capture(vocabulary=...)"
            )
        encoding = "factors" if capture.encoding == "factors" else "both"
    return Leaf(
        kind=first.site.kind,
        query_grid=first.grid,
        heads=len(first.heads),
        channels=first.channels,
        layers=tuple(member.site.label for member in members),
        keys=first.keys,
        key_segments=tuple(label.segment for label in labels),
        key_y=tuple(label.y for label in labels),
        key_x=tuple(label.x for label in labels),
        encoding=encoding,
        keys_vary=first.site.kind in ("self", "joint") or first.site.varies,
        head_labels=first.heads,
        key_frame=tuple(label.frame for label in labels) if len(first.grid) == 3 and labels else (),
        key_picture=tuple(label.picture for label in labels),
        masked=first.masked == "keys",
        partial=first.partial,
        features=first.features if encoding in ("factors", "both") and first.site.kind == "text" else 0,
        separate_branches=family.passes is not None,
    )


def _encoding(members: list[SiteShape], capture: Capture, calls: int) -> str:
    if capture.detail == "summary":
        return "none"
    masked = next((member.site.path for member in members if member.masked == "queries"), None)
    partial = next((member.site.path for member in members if member.partial), None)
    if capture.encoding in ("factors", "both"):
        if masked is not None:
            raise CaptureError(
                f"{masked} adds a mask to its logits that differs from query to query, which Q and K do not hold; "
                "record it with encoding='dense'"
            )
        if partial is not None:
            raise CaptureError(
                f"{partial} keeps {members[0].keys} of its keys, and Q and K need them all for the softmax; record it "
                "with encoding='dense', or with keys='all'"
            )
    if capture.encoding != "auto":
        return capture.encoding
    first = members[0]
    queries = math.prod(first.grid)
    key_calls = calls if first.site.kind in ("self", "joint") or first.site.varies else 1
    dense = calls * queries * first.keys
    factors = (calls * queries + key_calls * first.keys) * first.channels
    return "dense" if masked or partial or dense <= DENSE_LIMIT * factors else "factors"


@dataclass(frozen=True)
class KeyLabel:
    """What one key is, and where in its picture."""

    segment: str
    frame: int = -1
    y: int = -1
    x: int = -1
    picture: int = -1


def part_labels(part: Part) -> list[KeyLabel]:
    """Labels of a stretch of keys, row by row."""
    if len(part.grid) == 1:
        return [KeyLabel(part.segment)] * part.tokens
    return [
        KeyLabel(part.segment, place[0] if len(place) == 3 else 0, place[-2], place[-1], part.picture)
        for place in np.ndindex(*part.grid)
    ]


def _image_keys(pipe: Any, family: Family, shape: SiteShape) -> list[KeyLabel]:
    """Labels of the keys of cross-attention to an image.

    By default the patches of the pipeline's image encoder, by its own picture and patch size, after the class token
    where there is one. Keys that are no patches (a single class token, the tokens of an IP-Adapter) have no place.
    """
    keys = shape.keys
    site = shape.site
    made = {a.label: a for a in adapters_of(site.path, core(denoiser_of(pipe, family)).get_submodule(site.path))}
    if site.order and site.label in made:
        each = made[site.label].tokens
        return [KeyLabel("reference", picture=key // each if each and keys % each == 0 else 0) for key in range(keys)]
    grid = None if family.key_grid is None else family.key_grid(shape.site.path, keys, shape.grid)
    if grid is not None:
        extra = keys - grid[0] * grid[1]
        if extra not in (0, 1):
            raise CaptureError(
                f"key_grid of family {family.name!r} says {grid[0]}x{grid[1]} for {shape.site.path}, which has {keys} "
                "keys; as many are needed, or one more for a class token"
            )
        return [KeyLabel("cls")] * extra + part_labels(Part("reference", grid, 0))
    if keys == 1:
        return [KeyLabel("cls")]
    side = _patch_side(pipe)
    patches = part_labels(Part("reference", (side, side), 0))
    if side and keys == len(patches):
        return patches
    if side and keys == len(patches) + 1:
        return [KeyLabel("cls"), *patches]
    return [KeyLabel("reference", picture=0)] * keys


def _patch_side(pipe: Any) -> int:
    """Patches along a side of the picture that the pipeline's image encoder looks at; 0 where it does not say."""
    config = getattr(getattr(pipe, "image_encoder", None), "config", None)
    config = getattr(config, "vision_config", config)
    size, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    return size // patch if isinstance(size, int) and isinstance(patch, int) and patch else 0

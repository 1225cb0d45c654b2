"""From what the first denoiser call showed to the leaves of a store."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from attlas.recorder.capture import Capture
from attlas.recorder.families import patch_keys
from attlas.recorder.inventory import Site
from attlas.schemas import Leaf
from attlas.schemas.errors import CaptureError, ObservationError

__all__ = ["SiteShape", "build_leaves", "check_grid", "head_labels"]

DENSE_LIMIT = 4
"""`auto` stores the attention itself unless that takes more than this many times the bytes of its factors."""


@dataclass(frozen=True)
class SiteShape:
    """What a kernel call showed of a site; heads are those kept."""

    site: Site
    grid: tuple[int, int]
    heads: tuple[int, ...]
    channels: int
    keys: int
    masked: bool

    @property
    def group(self) -> tuple[Any, ...]:
        """Sites with the same group share a leaf."""
        return self.site.kind, self.grid, self.heads, self.channels, self.keys


def head_labels(capture: Capture, heads: int) -> tuple[int, ...]:
    """Numbers of the heads that are kept of a module with `heads` heads."""
    return tuple(range(heads)) if capture.heads is None else tuple(capture.heads)


def build_leaves(pipe: Any, shapes: Iterable[SiteShape], capture: Capture, calls: int) -> tuple[Leaf, ...]:
    """Group sites into leaves, in the order in which they computed, and choose each leaf's encoding.

    `calls` is the number of calls kept of a run. Warns where a site has one key only: its softmax is 1, so that
    what it looks at cannot act on the picture.
    """
    groups: dict[tuple[Any, ...], list[SiteShape]] = {}
    for shape in shapes:
        groups.setdefault(shape.group, []).append(shape)
    leaves = tuple(_leaf(pipe, members, capture, calls) for members in groups.values())
    single = [leaf.layers[0] for leaf in leaves if leaf.keys == 1]
    if single:
        warnings.warn(
            f"{single[0]} and its like have one key: the softmax over keys is 1 whatever Q and K are, so these maps "
            "probe weights that do not act on the picture",
            UserWarning,
            stacklevel=2,
        )
    return leaves


def _leaf(pipe: Any, members: list[SiteShape], capture: Capture, calls: int) -> Leaf:
    first = members[0]
    kind, queries, keys = first.site.kind, first.grid[0] * first.grid[1], first.keys
    segments: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    if kind == "image" and first.site.order:
        # Tokens of an IP-Adapter are no patches, however many there are.
        segments, rows, columns = ("reference",) * keys, (-1,) * keys, (-1,) * keys
    elif kind == "image":
        segments, rows, columns = patch_keys(pipe, keys)
    elif kind == "self":
        if keys != queries:
            raise CaptureError(
                f"{first.site.path} has {keys} keys for the {queries} queries of its own grid: its keys are more "
                "than the picture, and are not known; leave it out of Capture(layers=...)"
            )
        segments = ("self",) * keys
        rows = tuple(place // first.grid[1] for place in range(keys))
        columns = tuple(place % first.grid[1] for place in range(keys))
    return Leaf(
        kind=kind,
        query_grid=first.grid,
        heads=len(first.heads),
        channels=first.channels,
        layers=tuple(member.site.path for member in members),
        keys=keys,
        key_segments=segments,
        key_y=rows,
        key_x=columns,
        encoding=_encoding(members, capture, calls),
        keys_vary=kind == "self",
        head_labels=first.heads,
    )


def _encoding(members: list[SiteShape], capture: Capture, calls: int) -> str:
    if capture.detail == "summary":
        return "none"
    masked = next((member.site.path for member in members if member.masked), None)
    if masked is not None and capture.encoding == "factors":
        raise CaptureError(
            f"{masked} adds a mask to its logits, which Q and K do not hold; record it with encoding='dense'"
        )
    if capture.encoding != "auto":
        return capture.encoding
    first = members[0]
    queries = first.grid[0] * first.grid[1]
    key_calls = calls if first.site.kind == "self" else 1
    dense = calls * queries * first.keys
    factors = (calls * queries + key_calls * first.keys) * first.channels
    return "dense" if masked is not None or dense <= DENSE_LIMIT * factors else "factors"


def check_grid(site: Site, grid: tuple[int, int] | None, queries: int) -> tuple[int, int]:
    """Return the grid of a site's queries, or say why it is not known."""
    if grid is None:
        raise CaptureError(
            f"the query grid of {site.path} is not known: neither the module nor a Transformer2DModel around it gets "
            "a picture-shaped input; leave it out of Capture(layers=...)"
        )
    if grid[0] * grid[1] != queries:
        raise ObservationError(
            f"{site.path} has {queries} queries, but its input is a picture of {grid[0]}x{grid[1]}; "
            "leave it out of Capture(layers=...)"
        )
    return grid

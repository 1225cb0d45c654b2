"""Where questions of a kind of attention land: on which part of its keys, on which picture, on which frame."""

from functools import lru_cache
from typing import Any

import xarray as xr

from attlas.analysis import Trace
from attlas.analysis.aggregation.key_parts import KeyPart
from attlas.schemas import Leaf, Store

__all__ = ["Landing", "landing", "middle"]


class Landing:
    """Part of the keys of one kind that a page asks about: the reference where there is one, else the picture itself.

    Attributes
    ----------
    arguments
        ``segment`` and ``picture`` of the maps, where the keys are of several parts.
    on_reference
        Whether the part's patches are those of the reference picture.
    grid
        Rows and columns of the part's finest grid; None where its keys are no patches.
    frame, frames
        Latent frame that is shown of a video, and how many there are; None of pictures.
    """

    def __init__(self, store: Store, leaves: list[Leaf]) -> None:
        parts = dict.fromkeys(part for leaf in leaves for part in leaf.key_parts)
        own = next((part for part in parts if part != "reference"), None)
        shown = leaves[0].kind != "joint" or store.reference_shape is not None
        wanted = "reference" if "reference" in parts and leaves[0].kind != "self" and shown else own
        self.arguments: dict[str, Any] = {"segment": wanted} if len(parts) > 1 else {}
        pictures = {
            picture
            for leaf in leaves
            for picture, segment in zip(leaf.key_picture, leaf.key_segments, strict=True)
            if segment == wanted
        }
        if len(pictures) > 1:
            self.arguments["picture"] = min(pictures)
        self.on_reference = leaves[0].kind == "image" or wanted == "reference"
        part = KeyPart(wanted, self.arguments.get("picture"))
        grids = [] if wanted is None else [grid for leaf in leaves if (grid := part.grid(leaf)) is not None]
        self.grid = max(((grid[-2], grid[-1]) for grid in grids), default=None)
        videos = [leaf.query_grid[0] for leaf in leaves if len(leaf.query_grid) == 3]
        self.frame = videos[0] // 2 if videos else None
        self.frames = videos[0] if videos else None


def landing(trace: Trace, kind: str) -> Landing:
    """Landing of a kind that the trace has."""
    return _landing(trace.stores[0], kind)


@lru_cache(maxsize=64)
def _landing(store: Store, kind: str) -> Landing:
    """Each click asks for it, and a leaf may have thousands of keys."""
    return Landing(store, [leaf for leaf in store.leaves.values() if leaf.kind == kind])


def middle(maps: xr.DataArray) -> dict[str, int]:
    """Place of the only run of a map, and of the middle frame of a video, for ``isel``."""
    place = {"run": 0}
    for dim in ("query_frame", "key_frame"):
        if dim in maps.dims:
            place[dim] = maps.sizes[dim] // 2
    return place

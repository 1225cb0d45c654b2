"""Which tokens of a kernel call are the picture's, what its keys are, and which of them are kept."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attlas.recorder.models.inventory import Site
from attlas.recorder.models.scenes import Part, Scene
from attlas.recorder.observe import Sighting
from attlas.schemas.errors import CaptureError, ObservationError

__all__ = ["Chosen", "View", "arrange_keys", "kept_parts", "key_bias", "text_places", "view_of"]

Chosen = str | Sequence[tuple[int, ...]]
"""Which text keys are kept: ``all``; ``prompt``, the text only; or the tokens of some words, for each picture."""

GONE = 1000.0
"""A key whose logit lies this far below another's gets no weight in any precision."""

ROOM = 64
"""Places for the tokens of a text whose length differs from prompt to prompt come in multiples of this."""


@dataclass(frozen=True)
class View:
    """How one kernel call of a site is cut.

    ``grid`` is that of the queries, which are the slice ``queries`` of the call's; ``parts`` are the keys as a store
    holds them; ``text`` is the slice of the call's keys that is text, or None; ``absent`` counts the places after the
    text for which this run has no token.
    """

    grid: tuple[int, ...]
    queries: slice
    parts: tuple[Part, ...]
    text: slice | None
    absent: int


def view_of(site: Site, sighting: Sighting, scene: Scene | None, places: int | None) -> View:
    """Lay out a kernel call; `places` is the room for text that the store has, where prompts differ in length.

    Raises
    ------
    CaptureError, ObservationError
        If the call's tokens are not those of a layout that is known.
    """
    queries, keys = int(sighting.query.shape[-2]), int(sighting.key.shape[-2])
    if scene is None:
        grid, window = _grid(site, sighting.grid, queries), slice(None)
    else:
        grid, window = scene.generated.grid, _window(site, scene, queries)
    if site.kind in ("joint", "self") and scene is not None:
        parts = scene.joint if site.kind == "joint" else _own(scene.pictures)
    elif site.kind == "self":
        parts = (Part("self", grid),)
    else:
        parts = (Part(site.kind, (keys,)),)
    if sum(part.tokens for part in parts) != keys:
        shown = " + ".join(f"{part.tokens} {part.segment}" for part in parts)
        raise CaptureError(
            f"{site.path} has {keys} keys, but its sequence is {shown} tokens: what its keys are is not known; "
            "leave it out of Capture(layers=...)"
        )
    start = 0
    text = None
    for part in parts:
        if part.segment == "text":
            text = slice(start, start + part.tokens)
        start += part.tokens
    if text is None or places is None:
        return View(grid, window, parts, text, 0)
    return _with_room(site, View(grid, window, parts, text, 0), places)


def text_places(tokens: int) -> int:
    """Room that a new store has for a text of `tokens` tokens, where prompts differ in length."""
    return ROOM * math.ceil(tokens / ROOM)


def _with_room(site: Site, view: View, places: int) -> View:
    tokens = 0 if view.text is None else view.text.stop - view.text.start
    if tokens > places:
        raise CaptureError(
            f"the text of {site.path} has {tokens} tokens, and this store has room for {places}: it was laid out for "
            "its first prompt; record the longest prompt first, or into another store"
        )
    parts = tuple(replace(part, grid=(places,)) if part.segment == "text" else part for part in view.parts)
    return replace(view, parts=parts, absent=places - tokens)


def _own(pictures: tuple[Part, ...]) -> tuple[Part, ...]:
    """Keys of self-attention: the picture itself, and the references beside it."""
    return (replace(pictures[0], segment="self"), *pictures[1:])


def _window(site: Site, scene: Scene, queries: int) -> slice:
    """Where the generated picture is among the queries: of a joint sequence, or of the picture stream alone."""
    stream = sum(part.tokens for part in scene.pictures)
    before = itertools.takewhile(lambda part: part.segment != "generated", scene.joint)
    starts = {stream: 0, sum(part.tokens for part in scene.joint): sum(part.tokens for part in before)}
    start = starts.get(queries)
    if start is None:
        raise CaptureError(
            f"{site.path} has {queries} queries; the picture stream has {stream} tokens and the text {scene.text}: "
            "which of them are the picture's is not known; leave it out of Capture(layers=...)"
        )
    return slice(start, start + scene.generated.tokens)


def _grid(site: Site, grid: tuple[int, ...] | None, queries: int) -> tuple[int, ...]:
    """Return the grid of a site's queries, or say why it is not known."""
    if grid is None:
        raise CaptureError(
            f"the query grid of {site.path} is not known: neither the module nor one around it gets a picture-shaped "
            "input; leave it out of Capture(layers=...)"
        )
    if math.prod(grid) != queries:
        raise ObservationError(
            f"{site.path} has {queries} queries, but its input is a picture of {'x'.join(str(n) for n in grid)}; "
            "leave it out of Capture(layers=...)"
        )
    return grid


def key_bias(mask: Tensor) -> Tensor | None:
    """Read what a mask adds to the logits of each key, (row, head or 1, key), where that is the same for every query.

    Boolean masks become 0 and -inf; so does what leaves a key no weight beside the others, such as -10000.
    """
    mask = mask[(None,) * (4 - mask.ndim)]
    first = mask[..., :1, :]
    if mask.shape[-2] > 1 and not torch.equal(mask, first.expand_as(mask)):
        return None
    if mask.dtype == torch.bool:
        first = torch.zeros(first.shape, device=mask.device).masked_fill(~first, -math.inf)
    bias = first[..., 0, :].float()
    return bias.masked_fill(bias < bias.amax(dim=-1, keepdim=True) - GONE, -math.inf)


def arrange_keys(key: Tensor, view: View, chosen: Chosen) -> tuple[Tensor, Tensor | None]:
    """Cut K (branch, picture, head, key, channel) into what is kept and, where anything is left, what is not.

    `chosen` is ``all``; ``prompt`` for the text; or the kept text tokens of each picture. Places for which there is no
    token get keys of nothing but -inf in the last channel, which is the mask's.
    """
    if view.absent and view.text is not None:
        gap = key.new_zeros(*key.shape[:-2], view.absent, key.shape[-1])
        gap[..., -1] = -math.inf
        key = torch.cat([key[..., : view.text.stop, :], gap, key[..., view.text.stop :, :]], dim=-2)
    if chosen == "all" or view.text is None:
        return key, None
    if isinstance(chosen, str):
        window = slice(view.text.start, view.text.stop + view.absent)
        rest = torch.cat([key[..., : window.start, :], key[..., window.stop :, :]], dim=-2)
        return key[..., window, :], rest if rest.shape[-2] else None
    kept, left = [], []
    for picture, places in enumerate(chosen):
        index = torch.tensor([view.text.start + place for place in places], device=key.device)
        other = torch.ones(key.shape[-2], dtype=torch.bool, device=key.device).index_fill(0, index, False)
        kept.append(key[:, picture, :, index])
        left.append(key[:, picture, :, other])
    return torch.stack(kept, dim=1), torch.stack(left, dim=1)


def kept_parts(view: View, chosen: Chosen) -> tuple[Part, ...]:
    """Parts of the keys that `arrange_keys` keeps."""
    if chosen == "all" or view.text is None:
        return view.parts
    if isinstance(chosen, str):
        return tuple(part for part in view.parts if part.segment == "text")
    return (Part("text", (len(chosen[0]),)),)

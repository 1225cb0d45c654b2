"""One call of a pipeline under observation: from live tensors to copies on their way to the writer."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attlas.recorder.clock import Clock
from attlas.recorder.copies import copy_out
from attlas.recorder.geometry import SiteShape, head_labels
from attlas.recorder.models.adapters import adapters_of
from attlas.recorder.models.inventory import Site, Subject
from attlas.recorder.models.scenes import Scene
from attlas.recorder.observe import Sighting
from attlas.recorder.rows import Rows
from attlas.recorder.scribe import Copied
from attlas.recorder.views import Chosen, View, arrange_keys, kept_parts, key_bias, text_places, view_of
from attlas.recorder.vocabulary import key_features
from attlas.schemas.errors import CaptureError, ObservationError

__all__ = ["Geometry", "Take"]


@dataclass(frozen=True)
class Geometry:
    """What the first denoiser call of a run showed."""

    shapes: tuple[SiteShape, ...]
    branches: tuple[str, ...]
    kept: tuple[int, ...]
    image_shape: tuple[int, int]
    frames: int | None


class Take:
    """Follows the denoiser through one call of the pipeline.

    Parameters
    ----------
    subject
        What is observed, and what of it is kept.
    arguments
        The pipeline's arguments.
    pictures
        Pictures in the batch.
    words
        Gives the tokens of a picture's prompt that are kept, of as many as its text has; where keys are words.
    places
        Room for text in the store; None where it is not made yet.
    opened
        Called with the geometry after the first denoiser call; returns the function that takes copies.
    ticked
        Called at the end of each denoiser call with the number of calls of the run.

    Attributes
    ----------
    tokens
        Text tokens of each branch by module path.
    """

    def __init__(
        self,
        subject: Subject,
        arguments: Mapping[str, Any],
        pictures: int,
        words: Callable[[int, int], tuple[int, ...]],
        places: int | None,
        opened: Callable[[Geometry], Callable[[Copied], None]],
        ticked: Callable[[int], None],
    ) -> None:
        self.tokens: dict[tuple[str, str], int] = {}
        self._subject = subject
        self._arguments = arguments
        self._capture = subject.capture
        self._pictures = pictures
        self._words = words
        self._places = places
        self._opened = opened
        self._ticked = ticked
        self._signature = inspect.signature(type(subject.denoiser).forward)
        self._wanted = {(site.path, site.order): site for site in subject.sites}
        self._shapes: dict[tuple[str, int], SiteShape] = {}
        self._chosen_keys: dict[str, Chosen] = {}
        self._seen: set[tuple[str, int]] = set()
        self._early: list[Copied] = []
        self._deliver: Callable[[Copied], None] | None = None
        self._clock: Clock | None = None
        self._rows = Rows(subject.family, subject.capture, pictures, ())
        self._scene: Scene | None = None
        self._kept: tuple[int, ...] = ()
        self._image_shape = (0, 0)
        self._frames: int | None = None
        self._call = -1
        self._pass = 0

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start a denoiser call, with the denoiser's arguments."""
        given = self._signature.bind_partial(None, *args, **kwargs).arguments
        timestep = _number(_timestep(given))
        subject = self._subject
        if self._clock is None:
            passes = () if subject.family.passes is None else subject.family.passes(subject.pipe, self._arguments)
            self._rows = Rows(subject.family, self._capture, self._pictures, passes)
            self._clock = Clock.begin(subject.pipe, timestep, passes=len(passes) or 1)
            self._kept = self._capture.calls(self._clock.total)
        self._call, self._pass = self._clock.locate(timestep)
        if subject.anatomy.scene is not None:
            self._scene = subject.anatomy.scene(subject.pipe, subject.denoiser, {**self._arguments, **given})
            self._image_shape, self._frames = self._scene.shape, self._scene.frames
        else:
            sample = next(iter(given[name] for name in given if name != "self"))
            factor = int(getattr(subject.pipe, "vae_scale_factor", 8))
            self._image_shape = (int(sample.shape[-2]) * factor, int(sample.shape[-1]) * factor)
        self._seen.clear()

    def note(self, sighting: Sighting) -> None:
        """Copy what a kernel call shows, if it is asked for."""
        place = (sighting.path, sighting.order)
        site = self._wanted.get(place)
        if site is None:
            self._check_known(sighting)
            return
        if place in self._seen:
            raise ObservationError(
                f"{site.path} computed twice in denoiser call {self._call}: which of its two passes is meant cannot be "
                "told; leave it out of Capture(layers=...)"
            )
        self._check_kind(site, sighting)
        self._seen.add(place)
        self._rows.see(int(sighting.query.shape[0]), self._call)
        view = self._view(site, sighting)
        bias, mask = self._split_mask(site, sighting, view)
        masked = "queries" if mask is not None else "keys" if bias is not None else ""
        shape = self._shape(site, sighting, view, masked)
        if self._shapes.setdefault(place, shape) != shape:
            raise ObservationError(
                f"{site.path} changed in call {self._call}: grid, heads, channels, keys or mask are not those of call 0"
            )
        if self._call not in self._kept or not self._rows.wanted(self._pass):
            return
        copied = self._copy(site, sighting, view, bias, mask)
        if self._deliver is None:
            self._early.append(copied)
        else:
            self._deliver(copied)

    def _copy(self, site: Site, sighting: Sighting, view: View, bias: Tensor | None, mask: Tensor | None) -> Copied:
        query = self._rows.pick(sighting.query[:, :, view.queries])
        scale: float | None = sighting.scale
        key = self._rows.pick(sighting.key)
        if bias is not None:
            # A mask of the keys is one more channel: 1 in Q, what the mask adds in K.
            query, scale = query.float() * sighting.scale, None
            query = torch.cat([query, query.new_ones(*query.shape[:-1], 1)], dim=-1)
            key = torch.cat([key.float(), bias], dim=-1)
        kept, rest = arrange_keys(key, view, self._keys(site, view))
        # Nothing longer is stored or computed with.
        short = self._capture.encoding == "factors" and self._capture.precision == "exact" and rest is None
        dtype = torch.float16 if short and self._capture.detail == "full" else torch.float32
        return Copied(
            site.label,
            site.kind,
            self._kept.index(self._call),
            self._call,
            copy_out(query, dtype, scale),
            copy_out(kept, dtype),
            mask,
            branch=self._rows.first(self._pass),
            rest=None if rest is None else copy_out(rest),
        )

    def end(self) -> None:
        """Check that every site was seen in the denoiser call that ends, and pass on what the first one held."""
        missing = [self._wanted[place].path for place in self._wanted if place not in self._seen]
        if missing:
            raise ObservationError(
                f"{missing[0]} did not compute in denoiser call {self._call}"
                f"{f', nor did {len(missing) - 1} others' if len(missing) > 1 else ''}; "
                "leave it out of Capture(layers=..., kinds=...)"
            )
        if self._deliver is None:
            shapes = tuple(self._shapes.values())
            geometry = Geometry(shapes, self._rows.branches, self._kept, self._image_shape, self._frames)
            self._deliver = self._opened(geometry)
            while self._early:
                self._deliver(self._early.pop(0))
        if self._clock is not None and self._pass == self._clock.passes - 1:
            self._ticked(self._clock.total)

    def check_finished(self) -> Clock:
        """Return the clock of the whole run, or say that the run ended early."""
        if self._clock is None:
            raise ObservationError(
                f"{type(self._subject.pipe).__name__} never called its {self._subject.family.denoiser}; "
                "nothing was recorded"
            )
        done = self._clock.calls
        if done < self._clock.total:
            raise ObservationError(
                f"the run ended after {done} of {self._clock.total} denoiser calls; it is not complete"
            )
        return self._clock

    def forget(self) -> None:
        """Drop every tensor that is still held."""
        self._early.clear()
        self._deliver = None

    def _check_known(self, sighting: Sighting) -> None:
        known = self._subject.orders[sighting.path]
        if sighting.order < known:
            return
        adapted = bool(adapters_of(sighting.path, self._subject.denoiser.get_submodule(sighting.path)))
        # IP-Adapters come after the text, and nobody who names the text alone minds how many calls they make.
        if not (adapted and self._capture.kinds is not None and "image" not in self._capture.kinds):
            raise ObservationError(
                f"{sighting.path} made {sighting.order + 1} attention calls in one pass; {known} is known of it, "
                "so that what the others look at cannot be told; leave it out of Capture(layers=...)"
            )

    def _check_kind(self, site: Site, sighting: Sighting) -> None:
        """Check that a module whose kind was told by its name looks at what that says."""
        if sighting.own is None or sighting.own == (site.kind == "self"):
            return
        shown, kinds = ("its own hidden states", "self") if sighting.own else ("a context", "text or image")
        raise ObservationError(
            f"{site.path} is taken for {site.kind!r} attention, but its keys are made of {shown}; name it in the "
            f"pipeline's family: register_family(Family(..., kinds=((pattern, {kinds!r}),)))"
        )

    def _view(self, site: Site, sighting: Sighting) -> View:
        """Lay the call out, and note how many tokens its text has in the branches that it computes."""
        places = None
        if self._ragged(site):
            # Laid out like the store, or with room for the first prompt.
            tokens = self._scene.text if site.kind == "joint" and self._scene else int(sighting.key.shape[-2])
            self._places = places = text_places(tokens) if self._places is None else self._places
        view = view_of(site, sighting, self._scene, places)
        if view.text is not None:
            labels = self._rows.computed(self._pass)
            self.tokens |= dict.fromkeys(((site.path, label) for label in labels), view.text.stop - view.text.start)
        return view

    def _ragged(self, site: Site) -> bool:
        return self._subject.family.ragged and site.kind in ("joint", "text")

    def _keys(self, site: Site, view: View) -> Chosen:
        """Which text keys are kept: all, the prompt, or those of some words of each picture's prompt."""
        keys = self._capture.keys
        if isinstance(keys, str) or view.text is None:
            return keys if isinstance(keys, str) else "all"
        if site.path not in self._chosen_keys:
            tokens = view.text.stop - view.text.start
            found = [self._words(picture, tokens) for picture in range(self._pictures)]
            if len({len(places) for places in found}) > 1:
                counts = ", ".join(str(len(places)) for places in found)
                raise CaptureError(
                    f"the words of Capture(keys=...) are {counts} tokens in the prompts of this batch; "
                    "one store holds one number: record these prompts into stores of their own"
                )
            self._chosen_keys[site.path] = found
        return self._chosen_keys[site.path]

    def _shape(self, site: Site, sighting: Sighting, view: View, masked: str) -> SiteShape:
        chosen = self._keys(site, view)
        parts = kept_parts(view, chosen)
        return SiteShape(
            site,
            view.grid,
            head_labels(self._capture, int(sighting.query.shape[1])),
            int(sighting.query.shape[-1]) + (masked == "keys"),
            parts,
            masked,
            features=key_features(self._subject.denoiser.get_submodule(site.path)) if site.kind == "text" else 0,
            partial=sum(part.tokens for part in parts) < sum(part.tokens for part in view.parts),
        )

    def _split_mask(self, site: Site, sighting: Sighting, view: View) -> tuple[Tensor | None, Tensor | None]:
        """Mask as what it adds to each key, (branch, picture, head, key, 1); or, where queries differ, whole."""
        mask, rows, heads = sighting.mask, *sighting.query.shape[:2]
        if mask is None:
            if not self._ragged(site):
                return None, None
            mask = sighting.key.new_zeros(1, 1, 1, sighting.key.shape[-2])
        mask = mask.detach()[(None,) * (4 - mask.ndim)]
        if mask.shape[-2] > 1:
            # Queries of padding may be masked otherwise than the picture's, which alone count.
            mask = mask[..., view.queries, :]
        bias = key_bias(mask)
        if bias is not None:
            return self._rows.pick(bias.expand(rows, heads, -1)[..., None]), None
        if self._capture.keys != "all" or self._ragged(site):
            raise CaptureError(
                f"{site.path} masks keys for some queries and not for others; that can be recorded with keys='all' and "
                "prompts of one length only"
            )
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, float("-inf"))
        own = heads if self._capture.heads is not None else mask.shape[1]
        return None, self._rows.pick(mask.expand(rows, own, *mask.shape[2:])).to("cpu", torch.float32, copy=True)


def _timestep(given: Mapping[str, Any]) -> Any:
    """Find the timestep among the arguments of a denoiser: by name, or the second one of a denoiser of one's own."""
    for name in ("timestep", "timesteps", "t"):
        if name in given:
            return given[name]
    named = [name for name in given if name != "self"]
    if len(named) < 2:
        raise ObservationError(
            f"the denoiser was called with {', '.join(named) or 'nothing'}; a timestep is needed to label the call"
        )
    return given[named[1]]


def _number(value: Any) -> float:
    """Return the timestep, which comes as a number, a scalar tensor, or one entry a row or token.

    Tokens of a given first frame have timestep 0, beside those that are generated.
    """
    if isinstance(value, Tensor):
        return float(value.max())
    return float(value)

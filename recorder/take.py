"""One call of a pipeline under observation: from live tensors to copies on their way to the writer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attlas.recorder.clock import Clock
from attlas.recorder.geometry import SiteShape, check_grid, head_labels
from attlas.recorder.inventory import Site, Subject
from attlas.recorder.observe import Sighting
from attlas.recorder.scribe import Copied
from attlas.schemas.errors import CaptureError, ObservationError

__all__ = ["Geometry", "Take"]


@dataclass(frozen=True)
class Geometry:
    """What the first denoiser call of a run showed."""

    shapes: tuple[SiteShape, ...]
    branches: tuple[str, ...]
    kept: tuple[int, ...]
    image_shape: tuple[int, int]


class Take:
    """Follows the denoiser through one call of the pipeline.

    Parameters
    ----------
    subject
        What is observed, and what of it is kept.
    pictures
        Pictures in the batch.
    opened
        Called with the geometry after the first denoiser call; returns the function that takes copies.
    ticked
        Called at the end of each denoiser call with the number of calls of the run.
    """

    def __init__(
        self,
        subject: Subject,
        pictures: int,
        opened: Callable[[Geometry], Callable[[Copied], None]],
        ticked: Callable[[int], None],
    ) -> None:
        self._subject = subject
        self._capture = subject.capture
        self._pictures = pictures
        self._opened = opened
        self._ticked = ticked
        self._wanted = {(site.path, site.order): site for site in subject.sites}
        self._shapes: dict[tuple[str, int], SiteShape] = {}
        self._seen: set[tuple[str, int]] = set()
        self._early: list[Copied] = []
        self._deliver: Callable[[Copied], None] | None = None
        self._clock: Clock | None = None
        self._branches: tuple[str, ...] = ()
        self._chosen: list[int] = []
        self._kept: tuple[int, ...] = ()
        self._image_shape = (0, 0)
        self._call = -1

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start a denoiser call, with the denoiser's arguments."""
        timestep = _number(args[1] if len(args) > 1 else kwargs["timestep"])
        if self._clock is None:
            self._clock = Clock.begin(self._subject.pipe, timestep)
            self._kept = self._capture.calls(self._clock.total)
            sample = args[0] if args else kwargs["sample"]
            factor = int(getattr(self._subject.pipe, "vae_scale_factor", 8))
            self._image_shape = (int(sample.shape[-2]) * factor, int(sample.shape[-1]) * factor)
        self._call = self._clock.tick(timestep)
        self._seen.clear()

    def note(self, sighting: Sighting) -> None:
        """Copy what a kernel call shows, if it is asked for."""
        place = (sighting.path, sighting.order)
        site = self._wanted.get(place)
        if site is None:
            self._check_known(sighting)
            return
        self._seen.add(place)
        shape = self._shape(site, sighting)
        if self._shapes.setdefault(place, shape) != shape:
            raise ObservationError(
                f"{site.path} changed in call {self._call}: grid, heads, channels, keys or mask are not those of call 0"
            )
        if self._call not in self._kept:
            return
        copied = Copied(
            site.path,
            site.kind,
            self._kept.index(self._call),
            self._call,
            (self._pick(sighting.query).float() * sighting.scale).cpu(),
            self._pick(sighting.key).to("cpu", torch.float32, copy=True),
            self._mask(sighting),
        )
        if self._deliver is None:
            self._early.append(copied)
        else:
            self._deliver(copied)

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
            branches = tuple(self._branches[place] for place in self._chosen)
            self._deliver = self._opened(Geometry(shapes, branches, self._kept, self._image_shape))
            while self._early:
                self._deliver(self._early.pop(0))
        if self._clock is not None:
            self._ticked(self._clock.total)

    def check_finished(self) -> Clock:
        """Return the clock of the whole run, or say that the run ended early."""
        if self._clock is None:
            raise ObservationError(
                f"{type(self._subject.pipe).__name__} never called its {self._subject.family.denoiser}; "
                "nothing was recorded"
            )
        done = len(self._clock.timesteps)
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
        if sighting.order >= known:
            raise ObservationError(
                f"{sighting.path} made {sighting.order + 1} attention calls in one pass; {known} is known of it, "
                "so that what the others look at cannot be told; leave it out of Capture(layers=...)"
            )

    def _shape(self, site: Site, sighting: Sighting) -> SiteShape:
        rows, heads, queries, channels = sighting.query.shape
        self._choose_branches(rows)
        return SiteShape(
            site,
            check_grid(site, sighting.grid, queries),
            head_labels(self._capture, heads),
            channels,
            int(sighting.key.shape[-2]),
            sighting.mask is not None,
        )

    def _choose_branches(self, rows: int) -> None:
        if rows % self._pictures:
            raise CaptureError(
                f"the denoiser got {rows} rows for {self._pictures} pictures; rows of a batch that pictures do not "
                "divide cannot be told apart"
            )
        labels = self._subject.family.labels(rows // self._pictures)
        if self._branches and labels != self._branches:
            raise ObservationError(
                f"the guidance branches changed in call {self._call} from {self._branches} to {labels}"
            )
        if self._branches:
            return
        wanted = labels if self._capture.branches == "all" else self._capture.branches
        absent = [name for name in wanted if name not in labels]
        if absent:
            raise CaptureError(
                f"branch {absent[0]!r} is asked for, but this run has {', '.join(labels)} only; "
                "guidance is off where guidance_scale is 1 or less"
            )
        self._branches = labels
        self._chosen = [place for place, name in enumerate(labels) if name in wanted]

    def _pick(self, tensor: Tensor) -> Tensor:
        """(row, head, ...) as (branch, picture, head, ...), less the branches and heads that are not wanted."""
        tensor = tensor.reshape(len(self._branches), self._pictures, *tensor.shape[1:])
        if len(self._chosen) == 1:
            tensor = tensor[self._chosen[0] :][:1]
        elif len(self._chosen) < len(self._branches):
            tensor = tensor[self._chosen]
        return tensor if self._capture.heads is None else tensor[:, :, list(self._capture.heads)]

    def _mask(self, sighting: Sighting) -> Tensor | None:
        if sighting.mask is None:
            return None
        mask = sighting.mask.detach()
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, float("-inf"))
        mask = mask[(None,) * (4 - mask.ndim)]
        heads = sighting.query.shape[1] if self._capture.heads is not None else mask.shape[1]
        mask = mask.expand(sighting.query.shape[0], heads, *mask.shape[2:])
        return self._pick(mask).to("cpu", torch.float32, copy=True)


def _number(value: Any) -> float:
    """Return the timestep, which comes as a number, a scalar tensor, or one entry a row."""
    if isinstance(value, Tensor):
        return float(value.reshape(-1)[0])
    return float(value)

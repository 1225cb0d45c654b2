"""The shapes of a denoiser's attention without its weights: a run of an empty copy on torch's meta device."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attlas.recorder.models.anatomy import anatomy_of
from attlas.recorder.models.empty_call import empty_call
from attlas.recorder.models.family import Family
from attlas.recorder.models.inventory import Site
from attlas.recorder.models.scenes import Part
from attlas.recorder.observe import Sighting, Watch
from attlas.recorder.views import ROOM, view_of

__all__ = ["Rehearsal", "Rehearsed", "rehearse"]


@dataclass(frozen=True)
class Rehearsed:
    """Geometry of one site.

    ``masked`` is as in `SiteShape`. ``text_known`` is False where ``parts`` have a text whose length is known only when
    the prompt is; ``keys_known`` is False where they have something else instead of an image.
    """

    grid: tuple[int, ...]
    parts: tuple[Part, ...]
    channels: int
    masked: str
    text_known: bool
    keys_known: bool


@dataclass(frozen=True)
class Rehearsal:
    """What one pass of an empty denoiser shows, in order of computation.

    ``sites`` are by path and order; ``image_shape`` is rows and columns of the picture in pixels, ``frames`` its number
    where it is a video.
    """

    sites: Mapping[tuple[str, int], Rehearsed]
    image_shape: tuple[int, int]
    frames: int | None


def rehearse(
    pipe: Any, family: Family, denoiser: nn.Module, sites: Iterable[Site], arguments: Mapping[str, Any] | None = None
) -> Rehearsal | None:
    """Run an empty copy of `denoiser` for a request with these pipeline arguments, by default with none.

    None where it is not known what the denoiser needs, or where it does not run without numbers.
    """
    wanted = {(site.path, site.order): site for site in sites if not site.reason}
    anatomy = anatomy_of(denoiser)
    seen: dict[tuple[str, int], Rehearsed] = {}
    try:
        call = empty_call(pipe, denoiser, arguments or {})
        if call is None:
            return None
        scene = (
            None if anatomy.scene is None else anatomy.scene(pipe, denoiser, {**(arguments or {}), **call.arguments})
        )

        def note(sighting: Sighting) -> None:
            site = wanted.get((sighting.path, sighting.order))
            if site is None:
                return
            ragged = family.ragged and site.kind in ("joint", "text")
            view = view_of(site, sighting, scene, ROOM if ragged else None)
            masked = _masked(sighting, ragged=ragged)
            seen[sighting.path, sighting.order] = Rehearsed(
                view.grid,
                view.parts,
                int(sighting.query.shape[-1]) + (masked == "keys"),
                masked,
                text_known=not ragged,
                keys_known=site.kind != "image",
            )

        twin = _twin(denoiser, call.without)
        with torch.no_grad(), Watch(twin, {path for path, _ in wanted}, note):
            twin(**{name: _on_meta(value) for name, value in call.arguments.items()})
    except (RuntimeError, TypeError, ValueError):
        # The numbers matter to this denoiser, or it or its pipeline is not as the class has it.
        return None
    if scene is not None:
        return Rehearsal(seen, scene.shape, scene.frames)
    factor = int(getattr(pipe, "vae_scale_factor", 8))
    rows, columns = call.arguments["sample"].shape[-2:]
    return Rehearsal(seen, (rows * factor, columns * factor), None)


def _twin(denoiser: nn.Module, without: tuple[str, ...]) -> nn.Module:
    """Return a denoiser of the same configuration that has shapes only."""
    config: Any = denoiser.config
    # An IP-Adapter adds keys of its own, but changes no shape of the others.
    adapter = {"encoder_hid_dim_type": None} if config.get("encoder_hid_dim_type") == "ip_image_proj" else {}
    # What a class says of its future was said when the pipeline was made.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin: nn.Module = type(denoiser).from_config({**config, **adapter})  # type: ignore[attr-defined]
    for name in without:
        setattr(twin, name, nn.ModuleList())
    return twin.to("meta").eval()


def _on_meta(value: Any) -> Any:
    # Lumina 2 reads the lengths of its texts from the mask.
    if isinstance(value, Tensor) and value.dtype != torch.bool:
        return value.to("meta")
    return value


def _masked(sighting: Sighting, *, ragged: bool) -> str:
    """Kind of mask, as far as its shape tells."""
    if sighting.mask is None:
        return "keys" if ragged else ""
    return "keys" if sighting.mask.shape[-2] == 1 else "queries"

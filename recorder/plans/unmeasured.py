"""The layout of a store without a run: shapes from an empty copy of the denoiser, calls from the scheduler."""

import inspect
from typing import Any

import numpy as np

from attlas.recorder.destination import make_store
from attlas.recorder.geometry import SiteShape, build_leaves, head_labels
from attlas.recorder.models.family import effective
from attlas.recorder.models.inventory import Site, Subject
from attlas.recorder.models.rehearsal import Rehearsal, rehearse
from attlas.recorder.requests import Request, accepted_arguments
from attlas.recorder.vocabulary import embed, key_features
from attlas.schemas import Manifest, Store
from attlas.schemas.errors import CaptureError

__all__ = ["empty_store"]

ADVICE = "plan it with a run (measure=True; on the command line without --no-run)"


def empty_store(subject: Subject, manifest: Manifest, request: Request) -> tuple[Store, int]:
    """Lay out a store in memory as `request` would have it; give it and the denoiser calls of a run.

    Raises
    ------
    CaptureError
        If shapes or calls show only in a run.
    """
    pipe, family, capture = subject.pipe, subject.family, subject.capture
    # It may join the sequence as a reference, or say how large the picture becomes.
    pictured = any(request.arguments.get(name) is not None for name in ("image", "image_reference", "video"))
    accepted = accepted_arguments(pipe)
    if "height" not in accepted or (pictured and "joint" in subject.kinds):
        raise CaptureError(f"what {type(pipe).__name__} makes of its input picture shows only in a run; {ADVICE}")
    sized = any(request.arguments.get(name) is not None for name in ("height", "width"))
    if sized and "use_resolution_binning" in accepted and effective(pipe, request.arguments, "use_resolution_binning"):
        raise CaptureError(f"which size {type(pipe).__name__} draws in for the asked one shows only in a run; {ADVICE}")
    if "intermediate_timesteps" in accepted:
        raise CaptureError(f"how many calls {type(pipe).__name__} makes shows only in a run; {ADVICE}")
    rehearsal = rehearse(pipe, family, subject.denoiser, subject.sites, request.arguments)
    if rehearsal is None:
        raise CaptureError(f"the shapes of {type(subject.denoiser).__name__} show only in a run; {ADVICE}")
    steps = _calls(pipe, request)
    kept = capture.calls(steps)
    shapes = [_shape(subject, site, rehearsal) for site in _in_order(subject, rehearsal)]
    reference = None if request.references is None else request.references[0].shape
    made = make_store(
        None,
        manifest,
        build_leaves(pipe, family, shapes, capture, len(kept)),
        _branches(subject, request),
        kept,
        rehearsal.image_shape,
        None if reference is None else (reference[0], reference[1]),
        rehearsal.frames,
        None if capture.vocabulary is None else embed(pipe, tuple(capture.vocabulary)),
        lambda _store: None,
    )
    return made, steps


def _in_order(subject: Subject, rehearsal: Rehearsal) -> list[Site]:
    places = list(rehearsal.sites)
    for site in subject.sites:
        shape = rehearsal.sites.get((site.path, site.order))
        if shape is None or not shape.keys_known:
            raise CaptureError(f"how many keys {site.path} has shows only in a run; {ADVICE}")
        if not shape.text_known:
            raise CaptureError(
                f"how many text tokens {site.path} has depends on the prompt and shows only in a run; {ADVICE}"
            )
    return sorted(subject.sites, key=lambda site: places.index((site.path, site.order)))


def _shape(subject: Subject, site: Site, rehearsal: Rehearsal) -> SiteShape:
    keys = subject.capture.keys
    shape = rehearsal.sites[site.path, site.order]
    text = any(part.segment == "text" for part in shape.parts)
    if text and not isinstance(keys, str):
        raise CaptureError(f"how many tokens the words of Capture(keys=...) are shows only in a run; {ADVICE}")
    parts = shape.parts
    if text and keys == "prompt":
        parts = tuple(part for part in parts if part.segment == "text")
    return SiteShape(
        site,
        shape.grid,
        head_labels(subject.capture, site.heads),
        shape.channels,
        parts,
        shape.masked,
        partial=len(parts) < len(shape.parts),
        features=key_features(subject.denoiser.get_submodule(site.path)) if site.kind == "text" else 0,
    )


def _branches(subject: Subject, request: Request) -> tuple[str, ...]:
    """Guidance branches of the run that are kept: of the most where guidance is on by its scale."""
    family, arguments = subject.family, request.arguments
    if family.passes is not None:
        labels = family.passes(subject.pipe, arguments)
    else:
        # A distilled denoiser gets the scale as an input.
        config: Any = getattr(subject.denoiser, "config", None)
        distilled = getattr(config, "time_cond_proj_dim", None) is not None
        unsaid = "guidance_scale" not in accepted_arguments(subject.pipe)
        guided = unsaid or effective(subject.pipe, arguments, "guidance_scale") > 1
        labels = (min if distilled or not guided else max)(family.branches, key=len)
    wanted = subject.capture.branches
    absent = [name for name in wanted if name not in labels] if wanted != "all" else []
    if absent:
        raise CaptureError(f"branch {absent[0]!r} is asked for, but this run has {', '.join(labels)} only")
    return tuple(name for name in labels if wanted == "all" or name in wanted)


def _calls(pipe: Any, request: Request) -> int:
    """Denoiser calls of a run, from a copy of the scheduler."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    names = accepted_arguments(pipe)
    if any(request.arguments.get(name) is not None for name in ("timesteps", "sigmas")):
        given = request.arguments.get("timesteps") or request.arguments["sigmas"]
        return len(given)
    steps = int(effective(pipe, request.arguments, "num_inference_steps"))
    settings: dict[str, Any] = {}
    if scheduler.config.get("use_dynamic_shifting"):
        # How far it shifts does not change how many there are.
        settings["mu"] = 1.0
    accepted = inspect.signature(scheduler.set_timesteps).parameters
    if "sigmas" in accepted and settings:
        settings["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    scheduler.set_timesteps(steps, **settings)
    total = len(scheduler.timesteps)
    if "strength" in names:
        strength = effective(pipe, request.arguments, "strength")
        total -= int(max(steps - steps * strength, 0)) * int(getattr(scheduler, "order", 1))
    return total

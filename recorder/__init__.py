"""Record the attention of a diffusion pipeline into a store, without changing what it draws.

`import attlas.recorder` is cheap: torch and diffusers are imported when a name is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attlas.recorder.capture import Capture
    from attlas.recorder.jobs import record
    from attlas.recorder.models.families import register_family
    from attlas.recorder.models.family import Family
    from attlas.recorder.models.inventory import Site
    from attlas.recorder.models.listing import SiteList, sites
    from attlas.recorder.pipelines import load_pipeline
    from attlas.recorder.plans.planned import Plan
    from attlas.recorder.plans.planning import plan
    from attlas.recorder.recording import Recorder
    from attlas.schemas.annotations import Annotation

__all__ = [
    "Annotation",
    "Capture",
    "Family",
    "Plan",
    "Recorder",
    "Site",
    "SiteList",
    "load_pipeline",
    "plan",
    "record",
    "register_family",
    "sites",
]

_HOME = {
    "Annotation": "requests",
    "Capture": "capture",
    "Family": "models.family",
    "Plan": "plans.planned",
    "Recorder": "recording",
    "Site": "models.inventory",
    "SiteList": "models.listing",
    "load_pipeline": "pipelines",
    "plan": "plans.planning",
    "record": "jobs",
    "register_family": "models.families",
    "sites": "models.listing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""A toy try-on: a garment from a reference picture, painted onto a figure, with the true correspondence known.

`load` gives the trained pipeline, `requests` what to call it with and the ground truth of what it should look at.
Importing this package imports neither torch nor diffusers; using a name does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attlas.recorder.demo.tryon.inpainting import TryOnPipeline
    from attlas.recorder.demo.tryon.loading import load
    from attlas.recorder.demo.tryon.samples import requests

__all__ = ["TryOnPipeline", "load", "requests"]

_HOMES = {"TryOnPipeline": "inpainting", "load": "loading", "requests": "samples"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}.")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

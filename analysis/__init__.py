"""attlas.analysis: a store becomes lazy maps, metrics and statistics.

Names are imported when they are first used, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attlas.analysis import detection as detection
    from attlas.analysis import diagnostics as diagnostics
    from attlas.analysis import heads as heads
    from attlas.analysis import maps as maps
    from attlas.analysis import metrics as metrics
    from attlas.analysis import overlap as overlap
    from attlas.analysis import recipes as recipes
    from attlas.analysis import scores as scores
    from attlas.analysis import segmentation as segmentation
    from attlas.analysis import sinks as sinks
    from attlas.analysis import speech as speech
    from attlas.analysis import words as words
    from attlas.analysis.aggregation.selection import InertAttentionWarning
    from attlas.analysis.opening import open_trace
    from attlas.analysis.registry import map_function, statistic
    from attlas.analysis.surveys.collect import survey
    from attlas.analysis.trace import Trace

__all__ = [
    "InertAttentionWarning",
    "Trace",
    "detection",
    "diagnostics",
    "heads",
    "map_function",
    "maps",
    "metrics",
    "open_trace",
    "overlap",
    "recipes",
    "scores",
    "segmentation",
    "sinks",
    "speech",
    "statistic",
    "survey",
    "words",
]

_HOMES = {
    "InertAttentionWarning": "attlas.analysis.aggregation.selection",
    "Trace": "attlas.analysis.trace",
    "map_function": "attlas.analysis.registry",
    "statistic": "attlas.analysis.registry",
    "survey": "attlas.analysis.surveys.collect",
    "open_trace": "attlas.analysis.opening",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"attlas.analysis.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

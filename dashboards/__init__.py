"""attlas.dashboards: a store becomes pictures: plot functions for a notebook, a page for the mouse, a report.

Submodules are imported when they are first used, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attlas.dashboards import app, plots, report, serve

__all__ = ["app", "plots", "report", "serve"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"attlas.dashboards.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

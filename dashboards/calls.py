"""A map as a function with its arguments, and as the source that says the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr

from attlas.analysis import Trace
from attlas.dashboards.landing import middle

__all__ = ["ALL_GRIDS", "Call"]

ALL_GRIDS = "all"
"""Name of the choice that takes layers of every grid together."""


@dataclass(frozen=True)
class Call:
    """One map as a function and its arguments, and as the source that says the same.

    ``setup`` are lines before the call; they may define the names in ``source``.
    """

    function: Callable[..., xr.DataArray]
    arguments: Mapping[str, Any]
    source: str
    setup: tuple[str, ...] = ()

    def lazy(self, trace: Trace) -> xr.DataArray:
        """Return the map of the trace's only run, in a video of its middle frame, not computed yet."""
        made = self.function(trace, **self.arguments)
        return made.isel(middle(made))

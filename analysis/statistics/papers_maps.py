"""The papers' maps as registered maps, to be surveyed and drawn by name."""

from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis import maps
from attlas.analysis.registry import map_function
from attlas.analysis.trace import Trace
from attlas.analysis.words import has_word, prompts, text_kind

__all__ = ["daam", "hlam", "llam", "tlam", "ulam"]


@map_function("ulam", meaning="unified-level attribution map (I2AM eq. 7)")
def ulam(trace: Trace, direction: str = "r2g", normalise: bool = False, **options: Any) -> xr.DataArray:
    """All calls, layers and heads summed; ``normalise=True`` brings each map to 0 to 1 before they are averaged."""
    return _shown(maps.ulam(trace, direction, **options), normalise=normalise)


@map_function("tlam", meaning="time-level attribution maps (I2AM eq. 10)")
def tlam(
    trace: Trace, direction: str = "r2g", groups: int | None = 5, normalise: bool = False, **options: Any
) -> xr.DataArray:
    """One map for each group of calls."""
    return _shown(maps.tlam(trace, direction, groups, **options), normalise=normalise)


@map_function("hlam", meaning="head-level attribution maps (I2AM eq. 12)")
def hlam(trace: Trace, direction: str = "r2g", normalise: bool = False, **options: Any) -> xr.DataArray:
    """One map for each head."""
    return _shown(maps.hlam(trace, direction, **options), normalise=normalise)


@map_function("llam", meaning="layer-level attribution maps (I2AM eq. 13)")
def llam(trace: Trace, direction: str = "r2g", normalise: bool = False, **options: Any) -> xr.DataArray:
    """One map for each layer."""
    return _shown(maps.llam(trace, direction, **options), normalise=normalise)


@map_function("daam", meaning="word map (DAAM)")
def daam(trace: Trace, word: str, normalise: bool = False, **options: Any) -> xr.DataArray:
    """Map of one word; a run whose prompt lacks it is NaN, and does not count."""
    if not any(has_word(text, word) for text in prompts(trace)):
        # Runs are taken in blocks: the word may stand in the prompts of others.
        own = maps.aggregate(trace, "g2r", onto="query", kind=text_kind(trace), **options)
        return xr.full_like(own, np.nan)
    return _shown(maps.daam(trace, word, **options), normalise=normalise)


def _shown(made: xr.DataArray, *, normalise: bool) -> xr.DataArray:
    return maps.normalize(made) if normalise else made

"""How well attention to a reference finds its way, a number for each run."""

import xarray as xr

from attlas.analysis.metrics import pck
from attlas.analysis.reference_scores import reference_kind, sram_peaks, true_patches
from attlas.analysis.registry import statistic
from attlas.analysis.trace import Trace

__all__ = ["pck1", "pck2"]


@statistic("pck1", meaning="SRAM maxima within 1 reference patch of the truth")
def pck1(trace: Trace, kind: str | None = None, layers: str | None = None) -> xr.DataArray:
    """Fraction of query patches whose SRAM is largest within one reference patch of the truth, ``(run,)``."""
    return _pck(trace, 1, kind, layers)


@statistic("pck2", meaning="SRAM maxima within 2 reference patches of the truth")
def pck2(trace: Trace, kind: str | None = None, layers: str | None = None) -> xr.DataArray:
    """Fraction of query patches whose SRAM is largest within two reference patches of the truth, ``(run,)``."""
    return _pck(trace, 2, kind, layers)


def _pck(trace: Trace, radius: int, kind: str | None, layers: str | None) -> xr.DataArray:
    kind = kind or reference_kind(trace)
    return pck(sram_peaks(trace, kind, layers), true_patches(trace, kind, layers), radius)

"""How unevenly attention falls on the keys, numbers for each run from the g2r summary."""

import xarray as xr

from attlas.analysis import sinks
from attlas.analysis.registry import statistic
from attlas.analysis.trace import Trace

__all__ = ["key_importance", "sink_ratio", "sink_share"]


@statistic("key_importance", meaning="attention that the most important key receives, mean over queries")
def key_importance(
    trace: Trace, kind: str | None = None, layers: str | None = None, branch: str = "cond"
) -> xr.DataArray:
    """Share of a head's attention that its most important key receives, ``(run, layer, head)``.

    Of the mean over calls; which key it is, `attlas.analysis.sinks.report` tells.
    """
    return sinks.peak(trace, kind=kind, layers=layers, branch=branch)


@statistic("sink_ratio", meaning="attention of the most important key over that of a random key")
def sink_ratio(
    trace: Trace, kind: str | None = None, layers: str | None = None, branch: str = "cond", over: str = "mean"
) -> xr.DataArray:
    """How many times a random key's attention the most important key receives, ``(run, layer, head)``."""
    return sinks.peak_ratio(trace, over=over, kind=kind, layers=layers, branch=branch)


@statistic("sink_share", meaning="share of the attention that lies on sinks")
def sink_share(
    trace: Trace,
    kind: str | None = None,
    layers: str | None = None,
    branch: str = "cond",
    rule: str = "importance",
    times: float = 5.0,
) -> xr.DataArray:
    """Share of a head's attention that lies on its sinks, ``(run, layer, head)``."""
    return sinks.sink_share(trace, sinks.Sinks(rule=rule, times=times), kind=kind, layers=layers, branch=branch)

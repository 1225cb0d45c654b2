"""Order, smoothness and concentration of attention to a reference, numbers for each run and layer."""

from collections.abc import Iterable
from typing import Any

import xarray as xr

from attlas.analysis import diagnostics
from attlas.analysis.aggregation.key_parts import KeyPart
from attlas.analysis.aggregation.selection import pick_parts
from attlas.analysis.registry import statistic
from attlas.analysis.roles import annotation_of, names_by_role
from attlas.analysis.scoring.reference_scores import reference_kind
from attlas.analysis.scoring.upright import upright_places
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["cwg", "dcml", "tv"]

PLACES = ("auto", "patches", "upright")


@statistic("dcml", units="patches", meaning="how far pairs of queries look in the wrong order")
def dcml(
    trace: Trace,
    kind: str | None = None,
    layers: str | None = None,
    keep: str | Iterable[str] = ("layer",),
    source: str = "full",
    places: str = "auto",
) -> xr.DataArray:
    """DCML, mean over pairs: by how many patches two queries of a row or column look in the wrong order.

    Parameters
    ----------
    trace
        Store with attention to a reference; where an annotation has the role ``object``, queries in it count.
    kind, layers, keep, source
        As in `attlas.analysis.diagnostics.dcml`.
    places
        Where a patch lies: ``patches``, its row and column; ``upright``, those of the object turned back (needs the
        demo world's annotations); ``auto``, the latter where it can be had.

    Returns
    -------
    ``(run, *keep)``, float32, lazy; the mean over pairs that count, so that regions of any size compare.
    """
    return _diagnose(diagnostics.dcml, trace, kind, layers, keep, source, places)


@statistic("tv", units="patches^2", meaning="squared step between the centres of neighbouring queries")
def tv(
    trace: Trace,
    kind: str | None = None,
    layers: str | None = None,
    keep: str | Iterable[str] = ("layer",),
    source: str = "full",
    places: str = "auto",
) -> xr.DataArray:
    """TV, mean over neighbours; arguments and dims as in `dcml`."""
    return _diagnose(diagnostics.tv, trace, kind, layers, keep, source, places)


@statistic("cwg", meaning="minus the attention within a patch or so of its own centre; -1 is all of it")
def cwg(
    trace: Trace,
    kind: str | None = None,
    layers: str | None = None,
    keep: str | Iterable[str] = ("layer",),
    source: str = "full",
    places: str = "auto",
) -> xr.DataArray:
    """CWG, mean over queries of the sum over patches, in [-1, 0]; arguments and dims as in `dcml`."""
    return _diagnose(diagnostics.cwg, trace, kind, layers, keep, source, places)


def _diagnose(
    function: Any,
    trace: Trace,
    kind: str | None,
    layers: str | None,
    keep: str | Iterable[str],
    source: str,
    places: str,
) -> xr.DataArray:
    if places not in PLACES:
        raise unknown_name("places", places, PLACES)
    kind = kind or reference_kind(trace)
    segment = "reference" if kind == "joint" else None
    names = names_by_role(trace)
    turned = "correspondence" in names and "uv_lookup" in trace.annotations
    own = None
    if places == "upright" or (places == "auto" and turned):
        own = upright_places(trace, _grid(trace, kind, layers, segment))
    made: xr.DataArray = function(
        trace,
        annotation_of(trace, "object") if "object" in names else None,
        kind=kind,
        layers=layers,
        keep=keep,
        source=source,
        segment=segment,
        coordinates=own,
        reduction="mean",
    )
    return made


def _grid(trace: Trace, kind: str, layers: str | None, segment: str | None) -> tuple[int, int]:
    """Rows and columns of the reference's patches, which must be the same in all chosen layers."""
    grids = {KeyPart(segment).grid(part.leaf) for part in pick_parts(trace, kind, layers, None)}
    (grid, *others) = grids
    if others or grid is None or len(grid) != 2:
        shown = ", ".join(sorted("x".join(str(size) for size in own or ()) or "none" for own in grids))
        raise InvalidValueError(f"upright places need one grid of reference patches; chosen layers have: {shown}")
    return grid[0], grid[1]

"""Attention sinks: keys that many queries look at whatever they show, and maps without them.

`key_importance` is the mean attention that each key receives, `peak_ratio` how far its largest value stands out, and
`report` what the keys are that stand out and how much attention lies on them. All read the ``g2r`` summary only. Maps
and scores leave sinks out by ``sinks=``, the name of a rule or `Sinks`.
"""

from collections.abc import Iterable, Sequence
from functools import reduce as fold
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.aggregation.selection import Heads, Part, pick_calls, pick_kind, pick_parts
from attlas.analysis.blockwise.attention import run_coords
from attlas.analysis.sink_report import SinkReport, report
from attlas.analysis.sink_rule import RULES, TYPICAL, Sinks, importance, kept_keys, typical
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["RULES", "SinkReport", "Sinks", "key_importance", "peak", "peak_ratio", "report", "sink_share"]

KEEP = ("t", "layer", "head")
LABELS = ("key_segment", "key_y", "key_x", "key_frame", "key_picture", "token", "token_segment")


def key_importance(
    trace: Trace,
    *,
    kind: str | None = None,
    keep: str | Iterable[str] = KEEP,
    branch: str = "cond",
    layers: str | Sequence[str] | None = None,
    heads: Heads = None,
    steps: int | slice | Iterable[int] | None = None,
) -> xr.DataArray:
    """Mean attention that each key receives: the mean over queries of the softmax over keys.

    Parameters
    ----------
    trace
        From `open_trace`.
    kind
        ``text``, ``image``, ``self`` or ``joint``; by default ``image``, else the only kind there is.
    keep
        Axes to keep, any of ``t``, ``layer``, ``head``; over the others the mean is taken, each (t, layer, head)
        weighing as its head does.
    branch
        Guidance branch.
    layers, heads, steps
        As in `aggregate`.

    Returns
    -------
    ``(run, *keep, key)``, float32, unit 1, lazy. The keys of a softmax share 1 among them; where the store holds a
    part of the keys (``attrs["partial"]``), less. Coordinates say what keys are: ``key_segment``, ``key_y``,
    ``key_x``, ``key_frame`` of patches, ``token`` and ``token_segment`` ``(run, key)`` of a text. NaN for a run
    without data, and for a head that a layer lacks.

    Raises
    ------
    UnknownNameError
        For an unknown name of any kind.
    InvalidValueError
        If the chosen layers differ in their keys, or in their heads where heads are kept and layers are not.

    Notes
    -----
    Reads the ``g2r`` summary only, a share of a store that is the smaller the more queries there are.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> made = key_importance(open_trace(simulate_store(runs=1, kinds=("text",))), keep="layer")
    >>> made.dims, made["token"].values[0, :2].tolist(), float(made.sum("key").mean().compute().round(5))
    (('run', 'layer', 'key'), ['<|startoftext|>', 'a'], 1.0)
    """
    axes, parts, calls = _asked(trace, kind, keep, branch, layers, heads, steps)
    made = _shared(trace, branch, axes, parts, calls)
    own = trace.dataset(parts[0].name).coords
    coords = {name: own[name].reset_coords(drop=True) for name in LABELS if name in own}
    coords = {name: one.sel(branch=branch, drop=True) if "branch" in one.dims else one for name, one in coords.items()}
    made = made.assign_coords({"key": np.arange(parts[0].leaf.keys), **coords})
    return _labelled(trace, made, "mean attention that a key receives", branch, axes, parts, calls)


def peak(
    trace: Trace,
    *,
    kind: str | None = None,
    keep: str | Iterable[str] = ("layer", "head"),
    branch: str = "cond",
    layers: str | Sequence[str] | None = None,
    heads: Heads = None,
    steps: int | slice | Iterable[int] | None = None,
) -> xr.DataArray:
    """Attention that the most important key receives: the largest `key_importance`, in [0, 1].

    Parameters as in `key_importance`, errors and dims as in `peak_ratio`.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> peak(open_trace(simulate_store(runs=1, kinds=("text",))), keep="layer").dims
    ('run', 'layer')
    """
    asked = _asked(trace, kind, keep, branch, layers, heads, steps)
    made = _side_by_side([own.max("key", skipna=False) for own in _comparable(trace, branch, *asked)])
    return _labelled(trace, made, "attention of the most important key", branch, *asked)


def peak_ratio(
    trace: Trace,
    *,
    over: str = "mean",
    kind: str | None = None,
    keep: str | Iterable[str] = ("layer", "head"),
    branch: str = "cond",
    layers: str | Sequence[str] | None = None,
    heads: Heads = None,
    steps: int | slice | Iterable[int] | None = None,
) -> xr.DataArray:
    """How many times the attention of a random key the most important key receives.

    The largest `key_importance` (of the mean over the axes that are not kept) over that of a key drawn at random: the
    mean over keys, which is 1 / number of keys, or their median, which the sink itself does not move.

    Parameters
    ----------
    over
        ``mean`` or ``median``.
    trace, kind, keep, branch, layers, heads, steps
        As in `key_importance`; layers may differ in their keys where ``layer`` is kept.

    Returns
    -------
    ``(run, *keep)``, float32, unit 1, lazy; 1 where all keys receive the same, at most the number of keys for
    ``mean``. A key that gets no attention at all (masked, or absent from the run) is no key that could be drawn. Where
    the store holds a part of the keys (``attrs["partial"]``) the peak and the random key are among those: a sink
    that is not kept is not seen. NaN for a run without data, and for a head that a layer lacks.

    Raises
    ------
    UnknownNameError
        For an unknown name of any kind.
    InvalidValueError
        As in `key_importance`.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> made = peak_ratio(open_trace(simulate_store(runs=1, kinds=("text",))))
    >>> made.dims, bool((made >= 1).all())
    (('run', 'layer', 'head'), True)
    """
    if over not in TYPICAL:
        raise unknown_name("typical key", over, TYPICAL)
    asked = _asked(trace, kind, keep, branch, layers, heads, steps)
    means = _comparable(trace, branch, *asked)
    made = _side_by_side([own.max("key", skipna=False) / typical(own, over) for own in means])
    what = f"largest key importance over that of a random key ({over})"
    return _labelled(trace, made, what, branch, *asked).assign_attrs(over=over)


def sink_share(
    trace: Trace,
    sinks: str | Sinks = "importance",
    *,
    kind: str | None = None,
    keep: str | Iterable[str] = ("layer", "head"),
    branch: str = "cond",
    layers: str | Sequence[str] | None = None,
    heads: Heads = None,
    steps: int | slice | Iterable[int] | None = None,
) -> xr.DataArray:
    """Share of the attention that lies on sinks, in [0, 1].

    `sinks` is a rule or its name (see `Sinks`); all else is as in `peak_ratio`, and so is the result.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> share = sink_share(open_trace(simulate_store(runs=1, kinds=("text",))), "special")
    >>> share.dims, 0 < float(share.mean()) < 1
    (('run', 'layer', 'head'), True)
    """
    rule = Sinks(rule=sinks) if isinstance(sinks, str) else sinks
    axes, parts, calls = _asked(trace, kind, keep, branch, layers, heads, steps)
    shares = []
    for part in parts:
        kept = kept_keys(trace, part, (branch,), rule).isel(branch=0, drop=True)
        kept = kept if "head" in kept.coords else kept.isel(head=0)
        own = _values(trace, part, branch, calls)
        shares.append(_mean((own * (1 - kept)).sum("key", skipna=False), part, axes))
    what = f"share of attention on {rule}".partition(";")[0]
    return _labelled(trace, _joined(shares, axes), what, branch, axes, parts, calls)


def _asked(
    trace: Trace, kind: Any, keep: str | Iterable[str], branch: str, layers: Any, heads: Heads, steps: Any
) -> tuple[tuple[str, ...], list[Part], list[int] | None]:
    """Check what is asked: axes in the order of the result, leaves, calls."""
    names = (keep,) if isinstance(keep, str) else tuple(keep)
    for name in names:
        if name not in KEEP:
            raise unknown_name("axis to keep", name, KEEP)
    if branch not in trace.branches:
        raise unknown_name("branch", branch, trace.branches, where=trace.where)
    parts = pick_parts(trace, pick_kind(trace, kind), layers, heads)
    return tuple(name for name in KEEP if name in names), parts, pick_calls(trace, steps)


def _shared(
    trace: Trace, branch: str, axes: tuple[str, ...], parts: list[Part], calls: list[int] | None
) -> xr.DataArray:
    """Give the importance over leaves that have the same keys."""
    for part in parts[1:]:
        if _keys(part) != _keys(parts[0]):
            shown = ", ".join(f"{own.name} ({own.leaf.keys} keys)" for own in parts)
            raise InvalidValueError(f"layers differ in their keys: {shown}; choose layers= of one of them")
    return _joined([_mean(_values(trace, part, branch, calls), part, axes) for part in parts], axes)


def _comparable(
    trace: Trace, branch: str, axes: tuple[str, ...], parts: list[Part], calls: list[int] | None
) -> list[xr.DataArray]:
    """Give the importance leaf by leaf where layers are kept, so that keys may differ; else of all."""
    if "layer" not in axes:
        return [_shared(trace, branch, axes, parts, calls)]
    return [_mean(_values(trace, part, branch, calls), part, axes)[0] for part in parts]


def _values(trace: Trace, part: Part, branch: str, calls: list[int] | None) -> xr.DataArray:
    own = importance(trace, part, (branch,)).isel(branch=0, drop=True).reset_coords(drop=True)
    return own if calls is None else own.isel(t=calls)


def _mean(values: xr.DataArray, part: Part, axes: tuple[str, ...]) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean over the axes that are not kept, heads by weight; and the weight of the whole."""
    gone = [dim for dim in ("layer", "head") if dim not in axes]
    total = part.weights.sum(gone)
    made = values if "t" in axes else values.mean("t", skipna=False)
    return (made * part.weights).sum(gone, skipna=False) / total.where(total > 0), total


def _joined(means: list[tuple[xr.DataArray, xr.DataArray]], axes: tuple[str, ...]) -> xr.DataArray:
    """Leaves side by side where layers are kept, else their mean by weight."""
    if "layer" in axes or len(means) == 1:
        return _side_by_side([own for own, _ in means])
    counts = sorted({own.sizes["head"] for own, _ in means}) if "head" in axes else []
    if len(counts) > 1:
        raise InvalidValueError(f"layers have {counts} heads; choose layers= of one head count or keep layer too")
    whole = fold(lambda one, other: one + other, (total for _, total in means))
    parts = ((own * total).where(total > 0, 0) for own, total in means)
    made: xr.DataArray = fold(lambda one, other: one + other, parts) / whole.where(whole > 0)
    return made


def _side_by_side(means: list[xr.DataArray]) -> xr.DataArray:
    if len(means) == 1:
        return means[0]
    return xr.concat(means, "layer", coords="minimal", compat="override", join="outer", combine_attrs="drop")


def _keys(part: Part) -> tuple[Any, ...]:
    leaf = part.leaf
    return (leaf.keys, leaf.key_segments, leaf.key_y, leaf.key_x, leaf.key_frame, leaf.key_picture)


def _labelled(
    trace: Trace,
    made: xr.DataArray,
    what: str,
    branch: str,
    axes: tuple[str, ...],
    parts: list[Part],
    calls: list[int] | None,
) -> xr.DataArray:
    """Bring the result to its order of dims, with the labels of runs and calls, and how it was made."""
    place = slice(None) if calls is None else calls
    clock = ("t", "step", "timestep", "sigma") if "t" in axes else ()
    labels = {name: trace.runs[name].isel(t=place).reset_coords(drop=True) for name in clock}
    made = made.assign_coords({**run_coords(trace), **labels}).transpose("run", *axes, ...)
    made.attrs = {
        "units": "1",
        "long_name": what,
        "kind": parts[0].leaf.kind,
        "branch": branch,
        "layers": ", ".join(path for part in parts for path in part.labels),
        "source": "g2r",
        "partial": any(part.leaf.partial for part in parts),
    }
    return made.rename(None)

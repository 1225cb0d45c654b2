"""The one operator behind all maps: choose, average over one token axis, sum over t, layers and heads, resample.

The order is that of I2AM section 4: the attention is averaged over the axis that the map does not live on,
brought to one grid, and summed over the axes that are not kept (eq. 4 and 7). Both averaging and resampling are
linear, so the sums may be taken first wherever that is cheaper; with ``clamp`` the order matters, and has a name.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.aggregation.combine import combine
from attlas.analysis.aggregation.each_token import each_token_term
from attlas.analysis.aggregation.key_parts import part_of
from attlas.analysis.aggregation.labels import map_labels
from attlas.analysis.aggregation.resample import check_rule
from attlas.analysis.aggregation.selection import (
    Heads,
    Part,
    check_direction,
    pick_branches,
    pick_calls,
    pick_kind,
    pick_parts,
    warn_inert,
)
from attlas.analysis.aggregation.sink_terms import term_without_sinks
from attlas.analysis.aggregation.spatial import ORDERS, Plan, axes, target_grid
from attlas.analysis.aggregation.terms import Question, leaf_term
from attlas.analysis.sink_rule import Sinks, sinks_of
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["KEEP", "aggregate"]

KEEP = ("branch", "grid", "t", "layer", "head")
REDUCE = ("sum", "mean", "layer_mean")
ONTO = {"g2r": "key", "r2g": "query"}


def aggregate(
    trace: Trace,
    direction: str,
    keep: str | Iterable[str] = (),
    *,
    onto: str | None = None,
    kind: str | None = None,
    branch: str | None = "cond",
    layers: str | Sequence[str] | None = None,
    heads: Heads = None,
    steps: int | slice | Iterable[int] | None = None,
    calls: slice | Iterable[int] | None = None,
    keys: Any = None,
    queries: Any = None,
    segment: str | None = None,
    picture: int | None = None,
    grid: str | tuple[int, int] | None = None,
    resample: str = "bicubic",
    conserve: str = "intensity",
    clamp: bool = False,
    order: str | None = None,
    reduce: str = "sum",
    source: str = "auto",
    sinks: str | Sinks | None = None,
) -> xr.DataArray:
    """Attribution map: attention averaged over one token axis and summed over t, layers and heads.

    Parameters
    ----------
    trace
        From `open_trace`.
    direction
        ``g2r`` (softmax over keys, the model's own) or ``r2g`` (softmax over queries of the same logits).
    keep
        Axes to keep, any of ``branch``, ``t``, ``layer``, ``head``, and ``grid``: layers of one query grid together
        (I2AM Fig. 20).
    onto
        Axis that the map lives on, ``key`` or ``query``; the other is averaged. By default I2AM's: keys for
        ``g2r``, queries for ``r2g``. A word map (DAAM) is ``g2r`` onto ``query``.
    kind
        ``text``, ``image``, ``self`` or ``joint``; by default ``image``, else the only kind there is.
    branch
        Guidance branch; or the difference of two, such as ``cond-uncond``, which has both signs; None needs ``branch``
        in `keep`.
    layers
        Layer patterns: a path, part of one, a shell pattern, or a leaf's query grid such as ``"16x16"``.
    heads
        Head numbers, ``(layer, head)`` pairs, or weights ``(layer, head)``.
    steps
        Sampler steps (not calls: all calls of a step belong to it), as a number, slice or numbers.
    calls
        Denoiser calls by their place on t, as a slice or numbers; instead of `steps`.
    keys, queries
        What is looked at: a key segment such as ``"reference"``; or a mask, per run if it has a run dim, along the
        axis, or of rows and columns on one of the grids or of the picture's size (then cells count by the part that
        is covered; in a video it holds for every frame, unless it has frames before the rows); or a mapping from leaf
        to mask. Along the averaged axis it weighs the mean; along ``onto`` it sets the rest to 0.
    segment, picture
        Part of the keys that the map, or a mask of rows and columns, lies on, where keys are of several: ``text``,
        ``generated`` or ``reference``, and which reference picture, from 0. A segment given as `keys` is the part too;
        a part given without `keys` is what is looked at.
    grid
        Rows and columns of the map; by default the finest among the chosen `layers`, whatever `heads` says.
    resample, conserve, clamp
        As in `resample`, for layers on another grid.
    order
        Where `resample` and `clamp` stand among the sums. ``last``: after all sums over the layers of a leaf (the
        default without `clamp`). ``heads``: after the sum over t, on each layer and head by itself (the default with
        `clamp`; DAAM's released code). ``tokens``: before the mean over the axis that the map does not live on too, on
        each token's own map (I2AM's released code; as the paper describes it, I2AM section 4.2). Without `clamp` all
        three give the same map; ``last`` is the cheapest, and ``tokens`` reads the attention itself.
    reduce
        ``sum`` (I2AM eq. 4); ``mean``, in which every (t, layer, head) weighs as its head does; ``layer_mean``, in
        which every (t, layer) weighs alike, however many heads it has.
    source
        ``auto`` reads a summary where that suffices; ``summary`` and ``full`` insist.
    sinks
        Keys that draw attention whatever they show are left out: by the rule ``importance`` or ``special``, or as a
        `Sinks` says. None keeps them.

    Returns
    -------
    ``(run, *keep, query_y, query_x)`` or ``(run, *keep, key_y, key_x)``, or ``(run, *keep, key)`` where keys
    are tokens; float32, unit 1, lazy. Of a video ``query_frame`` or ``key_frame`` comes before the rows: each frame is
    resampled by itself. Keys that are no patches (CLS, tokens) are in the softmax but not on the map, and so are
    keys of other parts; those that a store with a part of its keys does not hold (``attrs["partial"]``) are too.
    Attributes say how it was made. A run without anything chosen is NaN; a head that a layer (or a grid) lacks is
    NaN. Kept layers carry their ``grid`` as a coordinate.

    Raises
    ------
    UnknownNameError
        For an unknown name of any kind.
    InvalidValueError
        For a mask of another size or an empty one, where heads are kept apart but differ in number, and where the
        part of the keys that the map lies on is not chosen.
    NotRecordedError
        If the store lacks what this needs; the message says what to record.

    Warns
    -----
    InertAttentionWarning
        If a chosen leaf has one key only; ``attrs["inert"]`` is True then.

    Notes
    -----
    ``sum`` without ``clamp`` keeps ULAM = sum of TLAM = sum of HLAM = sum of LLAM. Float16 is cast to
    float32 before any sum. Memory: a few shards, whatever the number of runs.

    References
    ----------
    I2AM (Park et al. 2025), eq. 4, 6, 7 and 10-14; DAAM (Tang et al. 2022), eq. 5-7.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> trace = open_trace(simulate_store(runs=1, kinds=("image",)))
    >>> m = aggregate(trace, "r2g", ("layer",))
    >>> m.dims, float(m.sum().compute().round(3))  # 3 calls x 2 layers x 2 heads, each summing to 1
    (('run', 'layer', 'query_y', 'query_x'), 12.0)
    """
    check_direction(direction)
    check_rule(resample, conserve)
    keep = _kept(keep, branch)
    onto = ONTO[direction] if onto is None else onto
    order = order or ("heads" if clamp else "last")
    named = (("axis", onto, ("key", "query")), ("reduce", reduce, REDUCE), ("order", order, ORDERS))
    for what, got, accepted in named:
        if got not in accepted:
            raise unknown_name(what, got, accepted)
    kind = pick_kind(trace, kind)
    branches, difference = pick_branches(trace, branch)
    parts = pick_parts(trace, kind, layers, heads)
    inert = warn_inert([part.leaf for part in parts])
    places = pick_calls(trace, steps, calls)
    key_part = part_of((part.leaf for part in parts), keys, segment, picture)
    left_out = sinks_of(sinks)
    if left_out is not None and order == "tokens":
        raise InvalidValueError("order='tokens' takes all keys; leave sinks out with another order")
    question = Question(direction, onto, branches, places, keys, key_part, queries, "t" in keep, source)
    # The map's grid does not depend on the heads, so that maps of different heads compare.
    listed = parts if heads is None else pick_parts(trace, kind, layers, None)
    target = target_grid(listed, onto, grid, key_part)
    count = trace.calls if places is None else len(places)
    made, totals, sources = [], [], []
    for part in parts:
        weighed = _per_layer(part) if reduce == "layer_mean" and "head" not in keep else part
        plan = Plan(weighed, keep, onto, key_part, target, resample, conserve, clamp, order)
        if order == "tokens":
            term, used = each_token_term(trace, part, question, plan)
        elif left_out is None:
            term, used = leaf_term(trace, part, question)
        else:
            term, used = term_without_sinks(trace, part, question, left_out)
        made.append(plan.apply(term))
        if reduce != "sum":
            totals.append(plan.total(count))
        sources.append(used)
    result = combine(made, parts, keep)
    if reduce != "sum":
        result = result / combine(totals, parts, keep)
    if difference is not None:
        one, other = (result.isel(branch=branches.index(name)) for name in difference)
        result = one - other
    elif branch is not None:
        result = result.isel(branch=0)
    dims = ("run", *(dim for dim in KEEP if dim in keep), *(("key",) if target is None else axes(onto, target)))
    coords = map_labels(trace, dims, parts, target, question)
    attrs = {
        "units": "1",
        "long_name": f"{direction} attribution of {kind} attention",
        "direction": direction,
        "onto": onto,
        "kind": kind,
        "branch": branch or "all",
        "layers": _joined(path for part in parts for path in part.labels),
        "heads": "all" if heads is None else _joined(_chosen_heads(parts)),
        "steps": f"calls {_joined(map(str, places or ()))}"
        if calls is not None
        else str("all" if steps is None else steps),
        # `keys` itself would be reached as an attribute and make xarray take the map for a dict.
        "chosen_keys": _said(key_part.segment if keys is None else keys),
        "chosen_queries": _said(queries),
        "reduce": reduce,
        "resample": resample,
        "conserve": conserve,
        "clamp": clamp,
        "order": order,
        "normalise": "none",
        "source": _joined(dict.fromkeys(sources)),
        "inert": inert,
        "sinks": "kept" if left_out is None else f"left out: {left_out}",
        "partial": any(part.leaf.partial for part in parts),
    }
    if key_part.segment is not None:
        attrs["segment"] = key_part.segment
    if picture is not None:
        attrs["picture"] = picture
    if target is not None and len(target) == 3:
        attrs["frames"] = target[0]
    return xr.DataArray(result.transpose(*dims).data, coords, dims, attrs=attrs).rename(None)


def _per_layer(part: Part) -> Part:
    """Give the heads of each layer weights that sum to 1."""
    totals = part.values.sum(1, keepdims=True)
    if (totals == 0).any():
        raise InvalidValueError("reduce='layer_mean': the head weights of a layer sum to 0, so that it has no mean")
    return replace(part, values=part.values / totals)


def _kept(keep: str | Iterable[str], branch: str | None) -> tuple[str, ...]:
    names = (keep,) if isinstance(keep, str) else tuple(keep)
    for name in names:
        if name not in KEEP:
            raise unknown_name("axis to keep", name, KEEP)
    if ("branch" in names) != (branch is None):
        raise InvalidValueError("branch=None and 'branch' in keep go together: name one branch, or keep them apart")
    if {"grid", "layer"} <= set(names):
        raise InvalidValueError("a kept layer tells its grid (its coordinate): keep one of grid and layer")
    return names


def _chosen_heads(parts: list[Part]) -> list[str]:
    return [
        f"{path}:{head}={weight:g}" if weight != 1 else f"{path}:{head}"
        for part in parts
        for path, row in zip(part.labels, part.values.tolist(), strict=True)
        for head, weight in zip(part.head_labels, row, strict=True)
        if weight != 0
    ]


def _joined(names: Iterable[str]) -> str:
    return ", ".join(names)


def _said(wanted: Any) -> str:
    """Words for a selection in the attributes."""
    if wanted is None:
        return "all"
    if isinstance(wanted, str):
        return wanted
    if isinstance(wanted, Mapping):
        wanted = next(iter(wanted.values()), None)
    name = getattr(wanted, "name", None)
    return str(name) if name else f"mask of {'x'.join(str(size) for size in np.shape(wanted))}"

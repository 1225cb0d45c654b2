"""A leaf's share of a map whose tokens are resampled each by itself before their mean is taken (I2AM's release)."""

import warnings
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.selection import InertAttentionWarning, Part
from attlas.analysis.aggregation.spatial import Plan, axes, to_grid
from attlas.analysis.aggregation.terms import SOURCES, Question
from attlas.analysis.aggregation.weights import axis_weights
from attlas.analysis.blockwise.attention import attention
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, NotRecordedError, unknown_name

__all__ = ["each_token_term"]


def each_token_term(trace: Trace, part: Part, question: Question, plan: Plan) -> tuple[xr.Variable, str]:
    """Lay out each averaged token's own map, resample (and clamp) it, and only then take the mean over the tokens.

    Lazy, ``(run, branch[, t], layer, head, *grid)`` in float32, summed over t where t is not kept; and the array that
    it was read from. A block holds one head's tokens on the map's grid at a time.

    Raises
    ------
    NotRecordedError
        If the attention of single tokens is needed and not there, or not to be read.
    """
    if question.source not in SOURCES:
        raise unknown_name("source", question.source, SOURCES)
    if plan.target is None or plan.cells is None:
        raise InvalidValueError("order 'tokens' is of maps with rows and columns; this one lies on tokens")
    values, source = _whole(trace, part, question)
    chosen = {"query": question.queries, "key": question.keys}

    def weights(axis: str) -> xr.Variable:
        own = axis_weights(trace, part.name, axis, chosen[axis], question.branches, question.key_part)
        shape = (len(trace.rows), len(question.branches), values.sizes[axis])
        own = da.ones(shape, np.float32, chunks=(1, -1, -1)) if own is None else own
        return xr.Variable(("run", "branch", axis), own)

    names = axes(question.onto, plan.target)
    lay = partial(to_grid, cells=plan.cells, target=plan.target, **plan.options)
    made: xr.Variable = xr.apply_ufunc(
        _mean_of_maps,
        values.chunk({"query": -1, "key": -1}),
        weights(question.averaged),
        weights(question.onto),
        kwargs={"lay": lay, "onto": question.onto},
        input_core_dims=[["query", "key"], [question.averaged], [question.onto]],
        output_core_dims=[list(names)],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": dict(zip(names, plan.target, strict=True))},
    )
    return made, source


def _whole(trace: Trace, part: Part, question: Question) -> tuple[xr.Variable, str]:
    """Attention of the chosen layers, heads and calls, summed over t unless t is kept, and where it was read."""
    summed = question.direction == "g2r" and not question.time and question.calls is None
    if summed and question.source != "full" and trace.holds(part.name, "attention_mean"):
        branch = question.branches[0] if len(question.branches) == 1 else None
        stored = trace.array(part.name, "attention_mean", branch).isel(part.place)
        return stored.astype(np.float32) * np.float32(trace.calls), "attention_mean"
    if question.source == "summary":
        raise NotRecordedError(
            f"{trace.where}: the summaries of leaf {part.name} do not tell each token's own map, which order='tokens' "
            "resamples; take source='auto', or another order"
        )
    leaf = trace.leaves[part.name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InertAttentionWarning)  # the map has told already
        full = attention(trace, leaf.kind, question.direction, part.name.partition("/")[2])
    full = full.isel(part.place).sel(branch=list(question.branches))
    full = full if question.calls is None else full.isel(t=question.calls)
    return (full if question.time else full.sum("t", skipna=False)).variable, "full"


def _mean_of_maps(
    values: NDArray[np.float32], averaged: NDArray[np.float32], kept: NDArray[np.float32], *, lay: Any, onto: str
) -> NDArray[np.float32]:
    """Weighted mean over one axis of ``(..., query, key)`` of what is made of each row or column by `lay`."""
    rows = values if onto == "key" else np.swapaxes(values, -1, -2)
    lead = rows.shape[:-2]
    with np.errstate(invalid="ignore"):  # nothing chosen in this run: NaN is what is meant
        share = averaged / averaged.sum(-1, keepdims=True)
    share = np.broadcast_to(share, (*lead, share.shape[-1]))
    kept = np.broadcast_to(kept, (*lead, kept.shape[-1]))
    made: Any = None
    for place in np.ndindex(lead):
        own = np.tensordot(share[place], lay(rows[place] * kept[place]), 1)
        if made is None:
            made = np.empty((*lead, *own.shape), np.float32)
        made[place] = own
    return np.asarray(made)

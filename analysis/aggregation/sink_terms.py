"""A leaf's share of a map with its sinks left out."""

import warnings
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.key_parts import KeyPart
from attlas.analysis.aggregation.selection import InertAttentionWarning, Part
from attlas.analysis.aggregation.terms import Question, leaf_term
from attlas.analysis.aggregation.weights import axis_weights
from attlas.analysis.blockwise.attention import attention
from attlas.analysis.sink_rule import Sinks, importance, kept_keys
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, NotRecordedError

__all__ = ["term_without_sinks"]

DIMS = ("run", "branch", "t", "layer", "head", "query", "key")


def term_without_sinks(trace: Trace, part: Part, question: Question, sinks: Sinks) -> tuple[xr.Variable, str]:
    """`leaf_term` of the attention that is left when the sinks are taken out, and the array it was read from.

    Onto keys with their mass set to 0 (or rescaled), that is the term times a mask, from whatever `leaf_term` reads;
    else the full arrays are needed. Lazy, float32.

    Raises
    ------
    InvalidValueError
        If the mass is to be rescaled where the summary cannot tell it.
    NotRecordedError
        If the full arrays are needed and not there, or not to be read.
    """
    kept = kept_keys(trace, part, question.branches, sinks)
    if question.onto == "key" and (sinks.mass != "renormalise" or question.direction == "r2g"):
        if sinks.mass == "rescale":
            _check_rescale(question)
        term, source = leaf_term(trace, part, question)
        term = term * (kept if sinks.by == "head" else _of_layer(kept)).variable
        if sinks.mass == "rescale" and question.direction == "g2r":
            term = term / _left(trace, part, question, kept)
        return term, source
    if sinks.mass == "rescale":
        _check_rescale(question)
    return _from_attention(trace, part, question, sinks, kept)


def _of_layer(kept: xr.DataArray) -> xr.DataArray:
    """Drop the head, along which sinks of a layer are the same."""
    return kept.isel(head=0).reset_coords(drop=True)


def _left(trace: Trace, part: Part, question: Question, kept: xr.DataArray) -> xr.Variable:
    """Mass of the mean over queries that is not on sinks, ``(run, branch, t, layer, head)``; NaN where it is 0."""
    own = importance(trace, part, question.branches)
    own = own if question.calls is None else own.isel(t=question.calls)
    kept = kept if "head" in kept.coords else _of_layer(kept)
    left = (own * kept).sum("key", skipna=False)
    if trace.leaves[part.name].partial:
        left = left + (1 - own.sum("key", skipna=False))  # what keys that are not kept got is no sink's
    return left.where(left > 0).variable


def _check_rescale(question: Question) -> None:
    """Refuse a mass that the mean over all queries does not tell."""
    if (question.direction, question.onto) != ("g2r", "key") or question.queries is not None:
        what = f"{question.direction} onto {question.onto}" + (
            " of chosen queries" if question.queries is not None else ""
        )
        raise InvalidValueError(
            f"mass of sinks 'rescale' is of g2r onto keys, averaged over all queries, which the summary tells; got "
            f"{what}: take 'zero', or 'renormalise', which reads the full arrays"
        )


def _from_attention(
    trace: Trace, part: Part, question: Question, sinks: Sinks, kept: xr.DataArray
) -> tuple[xr.Variable, str]:
    """Mean over the averaged axis, a block of the attention at a time; and the array that it was read from."""
    asked = (question.direction, sinks.mass, question.time, question.calls)
    brief = asked == ("g2r", "zero", False, None) and question.source != "full"
    if brief and trace.holds(part.name, "attention_mean"):
        # What is set to 0 is the same in every call, so that the mean over calls tells.
        branch = question.branches[0] if len(question.branches) == 1 else None
        stored = trace.arrays(part.name, ["attention_mean"], branch)["attention_mean"].drop_vars("t", errors="ignore")
        values = stored.isel(part.place).sel(branch=list(question.branches)).expand_dims(t=1, axis=2)
        made = _means(trace, part, question, sinks, kept, values).isel(t=0)
        return made * np.float32(trace.calls), "attention_mean"
    if question.source == "summary" or not _has_full(trace, part.name):
        told = "as asked" if question.source == "summary" else "which is all that the store keeps"
        raise NotRecordedError(
            f"{trace.where}: leaf {part.name}: leaving sinks out here needs each query's attention, and the summaries "
            f"({told}) do not tell it; record with Capture(detail='full'), or take sinks with mass 'zero' onto keys"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InertAttentionWarning)  # the map has told already
        full = attention(trace, part.leaf.kind, question.direction, part.name.partition("/")[2])
    full = full.isel(part.place).sel(branch=list(question.branches))
    full = full if question.calls is None else full.isel(t=question.calls)
    return _means(trace, part, question, sinks, kept, full), "full"


def _means(
    trace: Trace, part: Part, question: Question, sinks: Sinks, kept: xr.DataArray, values: xr.DataArray
) -> xr.Variable:
    """Weighted means of `values`, which have all seven dims."""
    chosen = {"query": question.queries, "key": question.keys}

    def weights(axis: str) -> da.Array:
        key_part = question.key_part if axis == "key" else KeyPart()
        own = axis_weights(trace, part.name, axis, chosen[axis], question.branches, key_part)
        shape = (len(trace.rows), len(question.branches), values.sizes[axis])
        return da.ones(shape, np.float32, chunks=(1, -1, -1)) if own is None else own

    chunks = values.variable.chunks or ()
    mask = kept.variable.transpose("run", "branch", "layer", "head", "key").data
    if mask.shape[3] != values.sizes["head"]:
        mask = da.repeat(mask, values.sizes["head"], 3)
    pairs: list[Any] = [values.variable.data, DIMS]
    pairs += [mask.rechunk((chunks[0], chunks[1], chunks[3], chunks[4], -1)), ("run", "branch", "layer", "head", "key")]
    for axis in ("query", "key"):
        pairs += [weights(axis).rechunk((chunks[0], chunks[1], -1)), ("run", "branch", axis)]
    data = da.blockwise(
        _block,
        (*DIMS[:5], question.onto),
        *pairs,
        direction=question.direction,
        onto=question.onto,
        again=sinks.mass == "renormalise",
        partial=part.leaf.partial,
        concatenate=True,
        align_arrays=False,
        dtype=np.float32,
        meta=np.empty((0,) * 6, np.float32),
    )
    return xr.Variable((*DIMS[:5], question.onto), data)


def _block(
    values: NDArray[Any],
    kept: NDArray[np.float32],
    queries: NDArray[np.float32],
    keys: NDArray[np.float32],
    *,
    direction: str,
    onto: str,
    again: bool,
    partial: bool,
) -> NDArray[np.float32]:
    """Weighted mean of a block of attention without its sinks; `again` takes the softmax over the other keys."""
    kept = kept[:, :, None, :, :, None, :]
    keys = keys[:, :, None, None, None, None, :]
    queries = queries[:, :, None, None, None, :]
    with np.errstate(invalid="ignore", divide="ignore"):  # nothing chosen, or nothing left: NaN is what is meant
        left = values.astype(np.float32, copy=False) * kept
        if again and direction == "g2r":
            rest = left.sum(-1, keepdims=True)
            left = left / (rest + (1 - values.sum(-1, keepdims=True)) if partial else rest)
        if onto == "key":
            made = np.einsum("...qk,...q->...k", left, queries / queries.sum(-1, keepdims=True))
            return np.asarray(made * keys[..., 0, :], dtype=np.float32)
        total = (keys * kept if again else keys).sum(-1)
        chosen = np.einsum("...qk,...k->...q", left, keys[..., 0, :])
        return np.asarray(chosen / total * queries, dtype=np.float32)


def _has_full(trace: Trace, leaf: str) -> bool:
    return trace.holds(leaf, "log_attention") or trace.holds(leaf, "query_vectors")

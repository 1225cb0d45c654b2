"""Blocks of attention from stored arrays: what is read together, and what a block function gets."""

from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attlas.analysis import kernels
from attlas.analysis.trace import Trace
from attlas.schemas.errors import NotRecordedError

__all__ = ["DIMS", "Inputs", "attention_block", "mean_block", "summaries_block", "used_places"]

DIMS = ("run", "branch", "t", "layer", "head", "query", "key")


class Inputs:
    """Stored arrays from which a leaf's logits come, cut to the wanted branches, calls, layers and heads."""

    def __init__(
        self,
        trace: Trace,
        leaf: str,
        direction: str,
        *,
        branches: Sequence[str],
        calls: list[int] | None = None,
        place: dict[str, list[int]] | None = None,
    ) -> None:
        dense = trace.holds(leaf, "log_attention")
        if not dense and not trace.holds(leaf, "query_vectors"):
            raise NotRecordedError(
                f"{trace.where}: leaf {leaf} holds summaries only, and this needs its attention; "
                'record with Capture(detail="full")'
            )
        names = ["log_attention"] if dense else ["query_vectors", "key_vectors"]
        if dense and direction == "r2g":
            if not trace.holds(leaf, "logsumexp"):
                raise NotRecordedError(
                    f"{trace.where}: leaf {leaf} has log_attention without logsumexp; the softmax over queries needs "
                    'the logits, which attention alone does not tell: record with Capture(detail="full")'
                )
            names.append("logsumexp")
        dataset = trace.arrays(leaf, names, branches[0] if len(branches) == 1 else None)
        self.dataset = dataset.isel({**(place or {}), **({} if calls is None else {"t": calls})})
        self.names = names
        # Keys that are not kept took part in the softmax: what is kept of a row does not sum to 1.
        self.normalised = trace.leaves[leaf].partial and direction == "g2r"
        self.device = trace.device
        self.chunks = self.dataset[names[0]].variable.chunks or ()

    def blockwise(
        self,
        function: Callable[..., NDArray[np.float32]],
        dims: tuple[str, ...],
        shape: tuple[int, ...],
        chunks: tuple[tuple[int, ...], ...] | None,
        *,
        weights: da.Array | None = None,
        **options: Any,
    ) -> da.Array:
        """Apply `function` to aligned blocks; core dims (query, key, channel) are one chunk each."""
        lead = self.chunks[:5] if chunks is None else chunks[:5]
        pairs: list[Any] = []
        for name in self.names:
            variable = self.dataset[name].variable
            wanted = tuple(
                lead[DIMS.index(str(dim))] if dim in DIMS[:5] else variable.sizes[dim] for dim in variable.dims
            )
            pairs += [variable.data.rechunk(wanted), tuple(str(dim) for dim in variable.dims)]
        if weights is not None:
            pairs += [weights.rechunk((lead[0], lead[1], weights.shape[2])), ("run", "branch", "averaged")]
        return da.blockwise(
            function,
            dims,
            *pairs,
            dims=pairs[1::2],
            device=self.device,
            **options,
            new_axes={dims[-1]: shape[-1]} if dims[-1] == "both" else None,
            concatenate=True,
            align_arrays=False,
            dtype=np.float32,
            meta=np.empty((0,) * len(dims), np.float32),
        )


def attention_block(
    *arrays: NDArray[Any], dims: Any, device: str, direction: str, normalised: bool
) -> NDArray[np.float32]:
    """Softmax of a block of logits."""
    stack = _Stack(arrays, dims, device)
    return stack.collect(
        lambda place: kernels.attention(stack.logits(place), direction, normalised=normalised), stack.matrix
    )


def mean_block(
    *arrays: NDArray[Any], dims: Any, device: str, direction: str, onto: str, normalised: bool
) -> NDArray[np.float32]:
    """Mean over one token axis of a block, weighted where the last array holds weights."""
    weights = arrays[-1] if dims[-1][-1] == "averaged" else None
    if weights is not None:
        arrays, own_dims = arrays[:-1], dims[:-1]
        averaged = "query" if onto == "key" else "key"
        if (direction, onto) in (("g2r", "key"), ("r2g", "query")):
            # The softmax runs along the other axis, so that what has no weight need not be computed at all.
            used = used_places(weights)
            arrays = tuple(_take(array, own, averaged, used) for array, own in zip(arrays, own_dims, strict=True))
            weights = weights[..., used]
    stack = _Stack(arrays, dims[: len(arrays)], device)
    share = None if weights is None else stack.expand(weights, dims[-1])
    size = stack.matrix[1 if onto == "key" else 0]

    def mean(place: slice) -> Tensor:
        own = None if share is None else share[place]
        shape = (place.stop - place.start, *stack.matrix)
        axis = 0 if direction == "g2r" else 1
        return kernels.tiled_mean(
            lambda tile: stack.logits(place, (axis, tile)), shape, direction, onto, own, device, normalised=normalised
        )

    return stack.collect(mean, (size,))


def summaries_block(*arrays: NDArray[Any], dims: Any, device: str, partial: bool) -> NDArray[np.float32]:
    """Both summaries of a block, g2r then r2g along the last axis."""
    stack = _Stack(arrays, dims, device)
    queries, keys = stack.matrix

    def both(place: slice) -> Tensor:
        logits = stack.logits(place)
        if not partial:
            return torch.cat(kernels.direction_means(logits), -1)
        stored = stack.stacks[0][place].to(logits)
        g2r = kernels.direction_mean(stored, "g2r", "key", normalised=True)
        return torch.cat([g2r, kernels.direction_mean(logits, "r2g", "query")], -1)

    return stack.collect(both, (keys + queries,))


def used_places(weights: NDArray[np.float32]) -> NDArray[np.int64]:
    """Places along the last axis that have a weight anywhere (or a NaN); at least one."""
    used = np.flatnonzero((weights != 0).any(tuple(range(weights.ndim - 1))))
    return used if used.size else np.zeros(1, np.int64)


def _take(array: NDArray[Any], dims: tuple[str, ...], axis: str, places: NDArray[np.int64]) -> NDArray[Any]:
    return array if axis not in dims else np.take(array, places, dims.index(axis))


class _Stack:
    """Input blocks as flat stacks of matrices, read a cacheful at a time."""

    def __init__(self, arrays: Sequence[NDArray[Any]], dims: Sequence[tuple[str, ...]], device: str) -> None:
        self.dense = dims[0][-1] == "key"
        self.lead = arrays[0].shape[:5]
        self.device = device
        self.stacks = [self.expand(array, own) for array, own in zip(arrays, dims, strict=True)]
        queries = arrays[0].shape[5]
        self.matrix = (queries, arrays[0].shape[6] if self.dense else arrays[1].shape[-2])

    def expand(self, array: NDArray[Any], dims: tuple[str, ...]) -> Tensor:
        """Put the five leading dims of a block into one, repeating it where it lacks one (K without t; weights)."""
        rest = [size for dim, size in zip(dims, array.shape, strict=True) if dim not in DIMS[:5]]
        shape = [array.shape[dims.index(dim)] if dim in dims else 1 for dim in DIMS[:5]]
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"])).reshape(*shape, *rest)
        return tensor.expand(*self.lead, *rest).reshape(-1, *rest)

    def logits(self, place: slice, tile: tuple[int, slice] | None = None) -> Tensor:
        """Logits of some matrices, or of a tile of their queries (axis 0) or keys (1).

        Those of g2r from log_attention are shifted row by row, which its softmax does not feel.
        """
        parts = [stack[place] for stack in self.stacks]
        if tile is not None:
            axis, cut = tile
            if self.dense:
                parts[0] = parts[0][:, cut] if axis == 0 else parts[0][:, :, cut]
                parts[1:] = [part[:, cut] if axis == 0 else part for part in parts[1:]]
            else:
                parts[axis] = parts[axis][:, cut]
        parts = [part.to(self.device) for part in parts]
        if not self.dense:
            return kernels.logits_from_factors(parts[0], parts[1])
        if len(parts) == 1:
            return parts[0].to(torch.float32, copy=True)
        return kernels.logits_from_log_attention(parts[0], parts[1])

    def collect(self, function: Callable[[slice], Tensor], rest: tuple[int, ...]) -> NDArray[np.float32]:
        """Results of all matrices, in the block's shape."""
        count = int(np.prod(self.lead))
        made = np.empty((count, *rest), np.float32)
        with torch.inference_mode():
            for place in kernels.blocks(count, *self.matrix):
                made[place] = function(place).cpu().numpy()
        return made.reshape(*self.lead, *rest)

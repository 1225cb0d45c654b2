"""Blocks of attention from stored arrays: what is read together, and what a block function gets."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import dask.array as da
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attlas.analysis.blockwise import kernels
from attlas.analysis.blockwise.fused import Ask, several_means, share_of
from attlas.analysis.blockwise.matrices import Factors, LogAttention, Matrices
from attlas.analysis.blockwise.room import room_of
from attlas.analysis.trace import Trace
from attlas.schemas.errors import NotRecordedError

__all__ = ["DIMS", "Inputs", "attention_block", "means_block", "used_places"]

DIMS = ("run", "branch", "t", "layer", "head", "query", "key")
WEIGHTS = ("run", "branch", "averaged")


class Inputs:
    """Stored arrays from which a leaf's logits come, cut to the wanted branches, calls, layers and heads."""

    def __init__(
        self,
        trace: Trace,
        leaf: str,
        directions: Collection[str],
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
        if dense and "r2g" in directions:
            # Attention alone does not tell the logits.
            names.append("logsumexp")
        chosen = {**(place or {}), **({} if calls is None else {"t": calls})}
        branch = branches[0] if len(branches) == 1 else None
        self.stored = [trace.array(leaf, name, branch).isel(chosen, missing_dims="ignore") for name in names]
        # Keys that are not kept took part in the softmax: what is kept of a row does not sum to 1.
        self.normalised = trace.leaves[leaf].partial
        self.device = trace.device
        self.sizes = {**self.stored[0].sizes, "query": trace.leaves[leaf].queries, "key": trace.leaves[leaf].keys}
        self.chunks = self.stored[0].chunks or ()

    def blockwise(
        self,
        function: Callable[..., NDArray[np.float32]],
        dims: tuple[str, ...],
        shape: tuple[int, ...],
        chunks: tuple[tuple[int, ...], ...] | None,
        *,
        weights: Sequence[da.Array] = (),
        **options: Any,
    ) -> da.Array:
        """Apply `function` to aligned blocks; core dims (query, key, channel) are one chunk each."""
        lead = self.chunks[:5] if chunks is None else chunks[:5]
        pairs: list[Any] = []
        for variable in self.stored:
            wanted = tuple(
                lead[DIMS.index(str(dim))] if dim in DIMS[:5] else variable.sizes[dim] for dim in variable.dims
            )
            pairs += [variable.data.rechunk(wanted), tuple(str(dim) for dim in variable.dims)]
        for number, own in enumerate(weights):
            pairs += [own.rechunk((lead[0], lead[1], own.shape[2])), (*WEIGHTS[:2], f"{WEIGHTS[2]}{number}")]
        return da.blockwise(
            function,
            dims,
            *pairs,
            dims=pairs[1::2],
            device=self.device,
            **options,
            new_axes={dims[-1]: shape[-1]} if dims[-1] == "means" else None,
            # Dask's own concatenation copies even a single chunk, and turns it.
            concatenate=None,
            align_arrays=False,
            dtype=np.float32,
            meta=np.empty((0,) * len(dims), np.float32),
        )


def attention_block(*arrays: Any, dims: Any, device: str, direction: str, normalised: bool) -> NDArray[np.float32]:
    """Softmax of a block of logits."""
    stack = _Stack([_only(array) for array in arrays], dims, device)

    def softmax(place: slice) -> Tensor:
        logits = stack.matrices(place, normalised).logits(0, slice(None))
        return kernels.attention(logits, direction, normalised=normalised and direction == "g2r")

    return stack.collect(softmax, stack.matrix)


def means_block(
    *arrays: Any, dims: Any, device: str, asks: tuple[tuple[str, str, int | None], ...], normalised: bool
) -> NDArray[np.float32]:
    """Means of a block, side by side along the last axis.

    Every ask is a direction, the axis it is for, and the place of its weights behind the stored arrays, or None.
    """
    stored = sum(not own[-1].startswith(WEIGHTS[-1]) for own in dims)
    blocks = [_only(array) for array in arrays]
    weights = blocks[stored:]
    blocks = blocks[:stored]
    cut = _cut_axis(asks)
    if cut is not None:
        # The softmax runs along the other axis, so that what has no weight need not be computed at all.
        used = used_places(np.concatenate([own.reshape(-1, own.shape[-1]) for own in weights]))
        blocks = [_take(block, own, cut, used) for block, own in zip(blocks, dims[:stored], strict=True)]
        weights = [own[..., used] for own in weights]
    stack = _Stack(blocks, dims[:stored], device)
    shares = [
        None if place is None else share_of(stack.expand(weights[place], WEIGHTS).to(device)) for _, _, place in asks
    ]
    queries, keys = stack.matrix

    def means(place: slice) -> Tensor:
        wanted = [
            Ask(direction, onto, None if share is None else share[place])
            for (direction, onto, _), share in zip(asks, shares, strict=True)
        ]
        return torch.cat(several_means(stack.matrices(place, normalised), wanted), -1)

    return stack.collect(means, (sum(keys if onto == "key" else queries for _, onto, _ in asks),))


def _only(nested: Any) -> NDArray[Any]:
    """Give the one chunk along the dims that are read whole, out of dask's lists of chunks."""
    while isinstance(nested, list):
        (nested,) = nested
    block: NDArray[Any] = nested
    return block


def _cut_axis(asks: tuple[tuple[str, str, int | None], ...]) -> str | None:
    """Axis along which only what has a weight matters, or None."""
    for kind, axis in ((("g2r", "key"), "query"), (("r2g", "query"), "key")):
        if all((direction, onto) == kind and place is not None for direction, onto, place in asks):
            return axis
    return None


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
        self.room = room_of(device)
        self.stacks = [self.expand(array, own).to(device) for array, own in zip(arrays, dims, strict=True)]
        queries = arrays[0].shape[5]
        self.matrix = (queries, arrays[0].shape[6] if self.dense else arrays[1].shape[-2])

    def expand(self, array: NDArray[Any], dims: tuple[str, ...]) -> Tensor:
        """Put the five leading dims of a block into one, repeating it where it lacks one (K without t; weights).

        The other dims keep their order in memory, which is that of the store: to turn it costs as much as to read it.
        """
        lead = [place for place, dim in enumerate(dims) if dim in DIMS[:5]]
        rest = sorted(set(range(array.ndim)) - set(lead), key=lambda place: -array.strides[place])
        stored = torch.from_numpy(array if array.flags.writeable else array.copy(order="K")).permute(*lead, *rest)
        missing = [slice(None) if dim in dims else None for dim in DIMS[:5]]
        sizes = [array.shape[place] for place in rest]
        flat = stored[(*missing, ...)].expand(*self.lead, *sizes).reshape(-1, *sizes)
        return flat.permute(0, *(1 + rest.index(place) for place in sorted(rest)))

    def matrices(self, place: slice, normalised: bool) -> Matrices:
        """Give some matrices of the stack."""
        parts = [stack[place] for stack in self.stacks]
        if not self.dense:
            return Factors(parts[0], parts[1], self.room)
        return LogAttention(parts[0], parts[1] if len(parts) > 1 else None, normalised, self.room)

    def collect(self, function: Callable[[slice], Tensor], rest: tuple[int, ...]) -> NDArray[np.float32]:
        """Results of all matrices, in the block's shape; they leave the device once, all together."""
        count = int(np.prod(self.lead))
        made = torch.empty((count, *rest), dtype=torch.float32, device=self.device)
        with torch.inference_mode():
            for place in kernels.blocks(count, *self.matrix, self.device):
                made[place] = function(place)
        return made.cpu().numpy().reshape(*self.lead, *rest)

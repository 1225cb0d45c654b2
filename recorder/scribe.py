"""The writer's side of a recording: encodes the Q and K of each call and puts the arrays into shards."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attlas.recorder.encode import Encoded, encode
from attlas.recorder.shards import ShardBuffers
from attlas.schemas import Leaf, Store, round_factors
from attlas.schemas.errors import ObservationError

__all__ = ["Copied", "Scribe"]


@dataclass(frozen=True)
class Copied:
    """One kernel call in the recorder's own memory: float32 on the CPU, branch and picture apart.

    ``query`` (branch, picture, head, query, channel) with the scale folded in, ``key`` alike; ``mask`` None, or
    additive and broadcasting to (branch, picture, head, query, key). ``t`` counts kept calls, ``call`` all.
    ``branch`` is the place in the store of the first of the branches. ``rest`` are keys that took part in the softmax
    and are not kept.
    """

    path: str
    kind: str
    t: int
    call: int
    query: Tensor
    key: Tensor
    mask: Tensor | None
    branch: int = 0
    rest: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Memory of the tensors."""
        return sum(4 * tensor.numel() for tensor in (self.query, self.key, self.mask) if tensor is not None)


class Scribe:
    """Encodes and stores the calls of a batch of pictures.

    Parameters
    ----------
    store
        Open store with the leaves of these calls.
    rows
        Row of each picture of the batch; None leaves a picture out.
    """

    def __init__(self, store: Store, rows: Sequence[int | None]) -> None:
        self._buffers = ShardBuffers(store)
        self._rows = tuple(rows)
        self._calls = store.calls
        self._precision = str(store.manifest.capture.get("precision", "exact"))
        self._places = {
            (leaf.kind, path): (name, leaf, layer)
            for name, leaf in store.leaves.items()
            for layer, path in enumerate(leaf.layers)
        }
        self._variables = {name: {v.name for v in leaf.variables()} for name, leaf in store.leaves.items()}
        self._keys: dict[tuple[str, str], Tensor] = {}
        self._totals: dict[tuple[str, str], tuple[Tensor, int]] = {}

    def write(self, copied: Copied) -> None:
        """Encode one call and put it where it belongs."""
        name, leaf, layer = self._places[copied.kind, copied.path]
        query, key = copied.query, copied.key
        if leaf.encoding in ("factors", "both"):
            if not leaf.keys_vary:
                self._check_constant(copied)
            rounded_query, rounded_key = self._rounded(query, key, leaf)
            self._put(name, "query_vectors", copied.t, layer, rounded_query)
            if leaf.keys_vary or copied.t == 0:
                self._put(name, "key_vectors", copied.t, layer, rounded_key)
            if leaf.encoding == "factors":
                # The summary is of the numbers that are stored, so that both give the same maps.
                query, key = rounded_query.float(), rounded_key.float()
        encoded = self._encode(copied, leaf, query, key)
        split = query.shape[:3]
        for variable in ("log_attention", "logsumexp", "g2r", "r2g"):
            values = getattr(encoded, variable)
            if variable in self._variables[name]:
                self._put(name, variable, copied.t, layer, values.reshape(*split, *values.shape[1:]))
        if leaf.has_mean:
            self._put_mean(name, layer, copied, split)

    def finish(self) -> None:
        """Check that every shard was written."""
        if self._buffers.unfinished:
            raise ObservationError(f"the run ended with incomplete arrays: {', '.join(self._buffers.unfinished)}")

    def _encode(self, copied: Copied, leaf: Leaf, query: Tensor, key: Tensor) -> Encoded:
        mask = copied.mask
        if mask is not None:
            mask = mask.expand(*query.shape[:3], *mask.shape[3:]).flatten(0, 2)
        total = None
        if leaf.has_mean:
            total = self._total(copied, (query.shape[:3].numel(), leaf.queries, leaf.keys))
        encoded = encode(
            query.flatten(0, 2), key.flatten(0, 2), mask, dense=leaf.encoding in ("dense", "both"), total=total
        )
        if not bool(torch.isfinite(encoded.logsumexp).all()):
            raise ObservationError(
                f"the attention of {copied.path} is not finite in call {copied.call}: the model computed NaN or "
                "overflowed (in float16, record a float32 copy of the model; encoding='dense' keeps larger logits)"
            )
        return encoded

    def _rounded(self, query: Tensor, key: Tensor, leaf: Leaf) -> tuple[Tensor, Tensor]:
        """Q and K in float16, on the grid of the store's precision."""
        rounded = round_factors(query.numpy(), key.numpy(), self._precision, keys_vary=leaf.keys_vary)
        return torch.from_numpy(rounded[0]).half(), torch.from_numpy(rounded[1]).half()

    def _total(self, copied: Copied, shape: tuple[int, int, int]) -> Tensor:
        """Sum of the attention over the calls so far."""
        total, count = self._totals.get((copied.kind, copied.path), (None, 0))
        if total is None:
            total = torch.zeros(shape)
        self._totals[copied.kind, copied.path] = (total, count + 1)
        return total

    def _put_mean(self, name: str, layer: int, copied: Copied, split: torch.Size) -> None:
        total, count = self._totals[copied.kind, copied.path]
        if count == self._calls:
            self._put(name, "attention_mean", 0, layer, (total / count).reshape(*split, *total.shape[1:]))
            del self._totals[copied.kind, copied.path]

    def _check_constant(self, copied: Copied) -> None:
        """Check bit for bit that K is what it was at the first call."""
        first = self._keys.setdefault((copied.kind, copied.path), copied.key)
        if not torch.equal(first, copied.key):
            raise ObservationError(
                f"the keys of {copied.path} changed at call {copied.call}; the factors encoding stores them once a "
                "run: record with Capture(encoding='dense')"
            )

    def _put(self, name: str, variable: str, t: int, layer: int, values: Tensor) -> None:
        for picture, row in enumerate(self._rows):
            if row is not None:
                self._buffers.put(name, variable, row, values[:, picture].numpy(), t=t, layer=layer)

"""The writer's side of a recording: encodes the Q and K of each call and puts the arrays into shards."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attlas.recorder.copies import Held
from attlas.recorder.encode import encode
from attlas.recorder.shards import ShardBuffers
from attlas.schemas import Leaf, Store, round_factors
from attlas.schemas.errors import ObservationError

__all__ = ["Copied", "Scribe"]

MEANS = ("attention_mean", "attention_mean_r2g")
"""Arrays whose sums over t are held until the run's last call: of the softmax over keys, and over queries."""


@dataclass(frozen=True)
class Copied:
    """One kernel call in the recorder's own memory, branch and picture apart.

    ``query`` (branch, picture, head, query, channel) with the scale folded in, ``key`` alike; ``mask`` None, or
    additive and broadcasting to (branch, picture, head, query, key). ``t`` counts kept calls, ``call`` all.
    ``branch`` is the place in the store of the first of the branches. ``rest`` are keys that took part in the softmax
    and are not kept. Tensors are on the CPU.
    """

    path: str
    kind: str
    t: int
    call: int
    query: Tensor | Held
    key: Tensor | Held
    mask: Tensor | None
    branch: int = 0
    rest: Tensor | Held | None = None

    @property
    def bytes(self) -> int:
        """Memory of the tensors."""
        held = (self.query, self.key, self.mask, self.rest)
        return sum(each.bytes if isinstance(each, Held) else each.nbytes for each in held if each is not None)


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
        self._store = store
        self._buffers = ShardBuffers(store)
        self._rows = tuple(rows)
        self._calls = store.calls
        self._precision = str(store.manifest.capture.get("precision", "exact"))
        self._places = {
            (leaf.kind, path): (name, leaf, layer)
            for name, leaf in store.leaves.items()
            for layer, path in enumerate(leaf.layers)
        }
        self._variables = {name: {v.name: v for v in leaf.variables()} for name, leaf in store.leaves.items()}
        self._keys: dict[tuple[str, str, int], Tensor] = {}
        self._totals: dict[tuple[str, str, int, int], tuple[Tensor, int]] = {}
        self._computed: dict[tuple[str, int], NDArray[np.bool_]] = {
            (name, row): np.zeros((len(store.branches), store.calls, len(leaf.layers)), bool)
            for name, leaf in store.leaves.items()
            for row in self._rows
            if row is not None
        }

    def write(self, copied: Copied) -> None:
        """Encode one call and put it where it belongs."""
        name, leaf, layer = self._places[copied.kind, copied.path]
        query, key = _arrived(copied.query), _arrived(copied.key)
        rest = None if copied.rest is None else _arrived(copied.rest)
        factors = None
        if leaf.encoding in ("factors", "both"):
            if not leaf.keys_vary:
                self._check_constant(copied, key)
            factors = self._rounded(query, key, leaf)
            if leaf.encoding == "factors":
                # The summary is of the numbers that are stored, so that both give the same maps.
                query, key = factors
        for number in range(len(query)):
            for picture, row in enumerate(self._rows):
                if row is None:
                    continue
                place = _Place(name, layer, row, copied.branch + number, copied.t)
                self._computed[name, row][place.branch, place.t, layer] = True
                if factors is not None:
                    self._put(place, "query_vectors", factors[0][number, picture])
                    if leaf.keys_vary or copied.t == 0:
                        self._put(place, "key_vectors", factors[1][number, picture])
                self._encode(
                    copied,
                    leaf,
                    place,
                    query[number, picture],
                    key[number, picture],
                    None if copied.mask is None else _broadcast(copied.mask, number, picture),
                    None if rest is None else rest[number, picture],
                )

    def finish(self) -> None:
        """Check that every shard was written, and write what computed."""
        if self._buffers.unfinished:
            raise ObservationError(f"the run ended with incomplete arrays: {', '.join(self._buffers.unfinished)}")
        for (name, row), computed in self._computed.items():
            self._store.write(name, "computed", row, computed)

    def _encode(
        self,
        copied: Copied,
        leaf: Leaf,
        place: "_Place",
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        rest: Tensor | None,
    ) -> None:
        """Encode one branch of one picture: dims (head, token, channel)."""
        totals, count = None, 0
        at = (copied.kind, copied.path, place.branch, place.row)
        if leaf.has_mean:
            totals, count = self._totals.pop(at, (None, 0))
            totals = torch.zeros(2, leaf.heads, leaf.queries, leaf.keys) if totals is None else totals
        with ExitStack() as stack:
            dense: bool | Tensor = False
            if "log_attention" in self._variables[place.leaf]:
                dense = torch.from_numpy(stack.enter_context(self._buffers.place(**place.of("log_attention"))))
            sums = None if totals is None else (totals[0], totals[1])
            encoded = encode(query, key, mask, dense=dense, totals=sums, rest=rest)
            if not bool(torch.isfinite(encoded.logsumexp).all()):
                raise ObservationError(
                    f"the attention of {copied.path} is not finite in call {copied.call}: the model computed NaN or "
                    "overflowed (in float16, record a float32 copy of the model; encoding='dense' keeps larger logits)"
                )
        for variable in ("logsumexp", "g2r", "r2g"):
            if variable in self._variables[place.leaf]:
                self._put(place, variable, getattr(encoded, variable))
        if totals is not None and count + 1 == self._calls:
            for variable, total in zip(MEANS, totals, strict=True):
                scale = self._variables[place.leaf][variable].scale
                self._put(place, variable, total.div_(self._calls * scale).half())
        elif totals is not None:
            self._totals[at] = (totals, count + 1)

    def _rounded(self, query: Tensor, key: Tensor, leaf: Leaf) -> tuple[Tensor, Tensor]:
        """Q and K in float16, on the grid of the store's precision."""
        if self._precision != "exact":
            arrays = round_factors(
                query.float().numpy(),
                key.float().numpy(),
                self._precision,
                keys_vary=leaf.keys_vary,
                masked=leaf.masked,
            )
            query, key = torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])
        return query.half(), key.half()

    def _check_constant(self, copied: Copied, key: Tensor) -> None:
        """Check bit for bit that K is what it was at the first call."""
        first = self._keys.setdefault((copied.kind, copied.path, copied.branch), key)
        if not torch.equal(first, key):
            raise ObservationError(
                f"the keys of {copied.path} changed at call {copied.call}; the factors encoding stores them once a "
                "run: record with Capture(encoding='dense')"
            )

    def _put(self, place: "_Place", variable: str, values: Tensor) -> None:
        self._buffers.put(**place.of(variable), values=values.numpy())


@dataclass(frozen=True)
class _Place:
    """Where one branch of one picture of a call goes."""

    leaf: str
    layer: int
    row: int
    branch: int
    t: int

    def of(self, variable: str) -> dict[str, Any]:
        """Arguments for `ShardBuffers`."""
        t = 0 if variable in MEANS else self.t
        return {**asdict(self), "variable": variable, "t": t}


def _arrived(tensor: Tensor | Held) -> Tensor:
    return tensor.tensor if isinstance(tensor, Held) else tensor


def _broadcast(mask: Tensor, branch: int, picture: int) -> Tensor:
    """Mask of one branch and picture, (head or 1, query or 1, key)."""
    return mask[min(branch, mask.shape[0] - 1), min(picture, mask.shape[1] - 1)]

"""Shapes, chunks, shards and bytes of a leaf: pure arithmetic, no input or output.

One shard holds one run, a block of t and one layer, all branches and heads, and is written once. Only summaries
and logsumexp put all layers in a shard, where that stays small, so that a run does not become many tiny files.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from attlas.schemas.errors import InvalidValueError, unknown_name
from attlas.schemas.variables import KINDS, LEAF_VARIABLES, Variable

__all__ = ["LEAF_BYTES", "MEAN_LIMIT", "SHARD_BYTES", "ArrayLayout", "Leaf", "array_layout", "leaf_names"]

SHARD_BYTES = 4 * 2**20
"""Raw bytes that a shard aims at: the recorder holds about one per layer in memory."""

LEAF_BYTES = 24 * 2**20
"""Raw bytes that the open shards of one array of a leaf aim at, all layers together."""

CHUNK_BYTES = 4 * 2**20

MEAN_LIMIT = 2**19
"""Most query x key elements for which a summary keeps `attention_mean` (64x64 queries x 77 keys fit)."""


@dataclass(frozen=True)
class Leaf:
    """Geometry of one leaf group: attention modules that share kind, query grid, heads and keys.

    ``query_grid`` is rows and columns, after frames for a video. ``key_segments``, ``key_y``, ``key_x``, ``key_frame``
    (videos) and ``key_picture`` label keys that are the same in every run; for ``text`` they are empty, and for
    ``joint`` they say where the text, the generated picture and its references lie. ``encoding`` is ``dense``,
    ``factors``, ``both`` or ``none`` (detail ``summary``). ``masked`` says that the last channel of the factors is the
    mask of the keys: 1 in Q, what is added to the logits in K. ``partial`` says that more keys took part in the
    softmax than are kept, so that rows sum to less than 1. ``features`` is the length of the embeddings that W_k
    projects to keys, where the leaf holds W_k; 0 where it does not.
    """

    kind: str
    query_grid: tuple[int, ...]
    heads: int
    channels: int
    layers: tuple[str, ...]
    keys: int
    key_segments: tuple[str, ...] = ()
    key_y: tuple[int, ...] = ()
    key_x: tuple[int, ...] = ()
    encoding: str = "none"
    keys_vary: bool = False
    head_labels: tuple[int, ...] = ()
    key_frame: tuple[int, ...] = ()
    key_picture: tuple[int, ...] = ()
    masked: bool = False
    partial: bool = False
    features: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("kind", self.kind, KINDS)
        accepted = ("dense", "factors", "both", "none")
        if self.encoding not in accepted:
            raise unknown_name("encoding of a leaf", self.encoding, accepted)
        if len(self.query_grid) not in (2, 3):
            raise InvalidValueError(
                f"leaf {self.kind!r} has the query grid {self.query_grid}; rows and columns are needed, "
                "or frames, rows and columns"
            )
        if self.partial and self.encoding in ("factors", "both"):
            raise InvalidValueError(
                f"leaf {self.kind!r} keeps a part of its keys; factors need them all for the softmax, dense does not"
            )
        sizes = {
            "heads": self.heads,
            "channels": self.channels,
            "keys": self.keys,
            "layers": len(self.layers),
        }
        for name, size in {
            **sizes,
            "query rows": self.query_grid[-2],
            "query columns": self.query_grid[-1],
            "query frames": self.query_grid[0],
        }.items():
            if size < 1:
                raise InvalidValueError(f"leaf {self.kind!r} has {name} = {size}; at least 1 is needed")
        if not self.key_picture and self.kind != "text":
            # One reference is the rule.
            pictures = tuple(0 if segment == "reference" else -1 for segment in self.key_segments)
            object.__setattr__(self, "key_picture", pictures)
        for name in ("key_segments", "key_y", "key_x", "key_picture"):
            if len(getattr(self, name)) != (0 if self.kind == "text" else self.keys):
                raise InvalidValueError(
                    f"leaf {self.kind!r} has {len(getattr(self, name))} {name} for {self.keys} keys; "
                    "patch keys need one each, text keys none"
                )
        if len(self.key_frame) not in (0, len(self.key_y)):
            raise InvalidValueError(f"leaf {self.kind!r} has {len(self.key_frame)} key_frame for {self.keys} keys")

    @property
    def queries(self) -> int:
        """Number of query tokens."""
        return math.prod(self.query_grid)

    @property
    def grid(self) -> str:
        """The query grid as rows x columns, such as ``64x64``; frames come first where there are any."""
        return "x".join(str(size) for size in self.query_grid)

    @property
    def key_grid(self) -> tuple[int, int] | None:
        """Rows and columns of the patch keys, or None where keys are no patches."""
        return self.segment_grid(None)

    def segment_grid(self, segment: str | None) -> tuple[int, int] | None:
        """Rows and columns of the patch keys of one segment (None: of all), or None where there are none."""
        places = [
            (y, x)
            for y, x, own in zip(self.key_y, self.key_x, self.key_segments, strict=True)
            if y >= 0 and segment in (None, own)
        ]
        if not places:
            return None
        return max(y for y, _ in places) + 1, max(x for _, x in places) + 1

    @cached_property
    def key_parts(self) -> tuple[str, ...]:
        """Segments of the keys that are patches, in order, each once."""
        return tuple(dict.fromkeys(own for own, y in zip(self.key_segments, self.key_y, strict=True) if y >= 0))

    @property
    def has_tokens(self) -> bool:
        """Whether keys are tokens of a text, labelled run by run."""
        return self.kind == "text" or "text" in self.key_segments

    @property
    def has_mean(self) -> bool:
        """Whether a summary of this leaf keeps the time mean of the attention."""
        return self.queries * self.keys <= MEAN_LIMIT and self.kind in ("text", "image", "joint")

    def sizes(self, *, runs: int, branches: int, calls: int) -> dict[str, int]:
        """Length of every dimension of the leaf's arrays."""
        return {
            "run": runs,
            "branch": branches,
            "t": calls,
            "layer": len(self.layers),
            "head": self.heads,
            "query": self.queries,
            "key": self.keys,
            "channel": self.channels,
            "feature": self.features,
            "head_channel": self.heads * (self.channels - self.masked),
        }

    def variables(self) -> tuple[Variable, ...]:
        """Registry entries of the arrays that this leaf has, in registry order."""
        groups = {"always", "summary"}
        if self.kind != "text":
            groups.add("patches")
        if self.has_tokens:
            groups.add("tokens")
        if len(self.query_grid) == 3:
            groups.add("query frames")
        if self.key_frame:
            groups.add("key frames")
        if self.encoding != "none":
            groups |= {"full"} | ({"dense", "factors"} if self.encoding == "both" else {self.encoding})
        if self.has_mean:
            groups.add("mean")
        if self.features:
            groups.add("projection")
        return tuple(self._fitted(v) for v in LEAF_VARIABLES.values() if v.group in groups)

    def _fitted(self, variable: Variable) -> Variable:
        if variable.name == "key_vectors" and not self.keys_vary:
            return replace(variable, dims=tuple(dim for dim in variable.dims if dim != "t"))
        return variable

    def variable(self, name: str) -> Variable:
        """Registry entry of the array `name` of this leaf; `UnknownNameError` if the leaf has none."""
        found = {v.name: v for v in self.variables()}
        if name not in found:
            raise unknown_name("variable", name, found, where=f"leaf {self.kind}/{self.grid}")
        return found[name]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the leaf group's attributes (labels stay in arrays)."""
        values = asdict(self)
        for name in ("layers", "key_segments", "key_y", "key_x", "key_frame", "key_picture", "head_labels"):
            del values[name]
        return {**values, "query_grid": list(self.query_grid)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], labels: Mapping[str, Any]) -> "Leaf":
        """Rebuild a leaf from its group's attributes and its label arrays."""
        return cls(**{**values, "query_grid": tuple(values["query_grid"])}, **labels)


@dataclass(frozen=True)
class ArrayLayout:
    """Shape, inner chunk and shard of one array, all in the order of ``dims``."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    dtype: str

    @property
    def t_block(self) -> int:
        """Calls in a shard (1 where the array has no t)."""
        return self.shard[self.dims.index("t")] if "t" in self.dims else 1

    @property
    def layer_block(self) -> int:
        """Layers in a shard (1 where the array has no layer)."""
        return self.shard[self.dims.index("layer")] if "layer" in self.dims else 1

    @property
    def shard_bytes(self) -> int:
        """Raw bytes of one whole shard."""
        return math.prod(self.shard) * np.dtype(self.dtype).itemsize


def array_layout(variable: Variable, sizes: Mapping[str, int]) -> ArrayLayout:
    """Layout of one attention array of a leaf.

    The shard grows over t, and for the small arrays over layers, up to `SHARD_BYTES` (to twice as much where the leaf
    has few layers); its inner chunks keep branches apart and never split queries or keys, which are read whole.
    """
    dims = variable.dims
    itemsize = np.dtype(variable.dtype).itemsize
    shard = {dim: sizes[dim] for dim in dims} | {"run": 1, "layer": 1}
    if "t" in shard:
        shard["t"] = 1
    one = math.prod(shard[dim] for dim in dims) * itemsize
    room = max(1, _shard_bytes(sizes["layer"]) // one)
    if "t" in shard:
        shard["t"] = _even_block(sizes["t"], room)
        room //= shard["t"]
    small = variable.group in ("summary", "mean", "full")
    if small and ("t" not in shard or shard["t"] == sizes["t"]):
        shard["layer"] = sizes["layer"] if room >= sizes["layer"] else 1
    chunk = dict(shard) | {"branch": 1, "layer": 1}
    if "t" in chunk:
        per_call = math.prod(chunk[dim] for dim in dims if dim != "t") * itemsize
        chunk["t"] = _divisor(shard["t"], max(1, CHUNK_BYTES // per_call))
    shape = tuple(sizes[dim] for dim in dims)
    return ArrayLayout(dims, shape, tuple(chunk[d] for d in dims), tuple(shard[d] for d in dims), variable.dtype)


def _shard_bytes(layers: int) -> int:
    """Bytes of a shard: a leaf of few layers has larger ones, which compress better, for the same memory in all."""
    return min(2 * SHARD_BYTES, max(SHARD_BYTES, LEAF_BYTES // layers))


def _even_block(total: int, room: int) -> int:
    """Smallest block that needs no more blocks than `room` does, so that the last block is not a crumb."""
    if room >= total:
        return total
    return math.ceil(total / math.ceil(total / room))


def _divisor(total: int, limit: int) -> int:
    """Largest divisor of `total` that is at most `limit` (a shard must be a whole number of chunks)."""
    return max(d for d in range(1, total + 1) if total % d == 0 and d <= limit)


def leaf_names(leaves: tuple[Leaf, ...]) -> tuple[str, ...]:
    """Group path of each leaf: ``kind/grid``, with heads and keys appended where that is not unique.

    Examples
    --------
    >>> leaf = Leaf("text", (8, 8), 5, 4, ("a",), 77)
    >>> leaf_names((leaf,))
    ('text/8x8',)
    >>> leaf_names((leaf, replace(leaf, heads=10)))
    ('text/8x8-h5', 'text/8x8-h10')
    """
    names = []
    for leaf in leaves:
        twins = [other for other in leaves if (other.kind, other.query_grid) == (leaf.kind, leaf.query_grid)]
        name = f"{leaf.kind}/{leaf.grid}"
        if len({other.heads for other in twins}) > 1:
            name += f"-h{leaf.heads}"
        if len({other.keys for other in twins}) > 1:
            name += f"-k{leaf.keys}"
        if len({(other.heads, other.keys) for other in twins}) < len(twins):
            name += f"-c{leaf.channels}"
        names.append(name)
    return tuple(names)

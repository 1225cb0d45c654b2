"""Geometry of a leaf: what its attention modules share, and which arrays it has."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from attlas.schemas.errors import InvalidValueError, unknown_name
from attlas.schemas.variables import KINDS, LEAF_VARIABLES, Variable

__all__ = ["Leaf", "leaf_names"]

MEAN_LIMIT = 2**20
"""Bytes of one layer and head up to which joint sequences and videos keep `attention_mean`.

Text and image attention of pictures keeps it always, and self-attention never. Its sums take, in the recorder, four
times the bytes of all layers and heads.
"""


@dataclass(frozen=True)
class Leaf:
    """Geometry of one leaf group: attention modules that share kind, query grid, heads and keys.

    ``query_grid`` is rows and columns, after frames for a video. ``key_segments``, ``key_y``, ``key_x``, ``key_frame``
    (videos) and ``key_picture`` label keys that are the same in every run; for ``text`` they are empty, and for
    ``joint`` they say where the text, the generated picture and its references lie. ``encoding`` is ``dense``,
    ``factors``, ``both`` or ``none`` (detail ``summary``). ``masked`` says that the last channel of the factors is the
    mask of the keys: 1 in Q, what is added to the logits in K. ``partial`` says that more keys took part in the
    softmax than are kept, so that rows sum to less than 1. ``features`` is the length of the embeddings that W_k
    projects to keys, where the leaf holds W_k; 0 where it does not. ``value_channels`` are the channels of V in a
    head, where the leaf holds V; 0 where it does not. ``output_features`` is the length of what W_o makes of V, alike.
    ``separate_branches`` says that guidance branches come in passes of their own, so that each has shards of its own.
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
    value_channels: int = 0
    output_features: int = 0
    separate_branches: bool = False

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
        if self.output_features and not self.value_channels:
            raise InvalidValueError(f"leaf {self.kind!r} holds W_o without V; give value_channels too")
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
        """Whether the leaf keeps the time means of the attention, in both directions."""
        always = self.kind in ("text", "image") and len(self.query_grid) == 2
        return always or (self.kind != "self" and 2 * self.queries * self.keys <= MEAN_LIMIT)

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
            "value_channel": self.value_channels,
            "value_head_channel": self.heads * self.value_channels,
            "output_feature": self.output_features,
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
        present = {
            "mean": self.has_mean,
            "projection": self.features,
            "values": self.value_channels,
            "output projection": self.output_features,
        }
        groups |= {group for group, own in present.items() if own}
        return tuple(self._fitted(v) for v in LEAF_VARIABLES.values() if v.group in groups)

    def _fitted(self, variable: Variable) -> Variable:
        dims, scale = variable.dims, variable.scale
        if variable.name in ("key_vectors", "value_vectors") and not self.keys_vary:
            dims = tuple(dim for dim in dims if dim != "t")
        if variable.name == "attention_mean_r2g":
            # A key's softmax over thousands of queries has numbers that float16 has few digits for. A power of two
            # rounds nothing, and 1 divided by this one is finite.
            scale = 2.0 ** -min(15, int(math.log2(self.queries)))
        return replace(variable, dims=dims, scale=scale, apart=self.separate_branches)

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

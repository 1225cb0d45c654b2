"""What a map is made of: kind, layers, heads, calls, keys and queries, from the user's words to arrays."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import permutations
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.trace import Trace
from attlas.schemas import DIRECTIONS, KINDS, Leaf
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = [
    "Heads",
    "InertAttentionWarning",
    "Part",
    "check_direction",
    "head_labels",
    "pick_branches",
    "pick_calls",
    "pick_kind",
    "pick_parts",
    "warn_inert",
]

Heads = Sequence[int] | Iterable[tuple[str, int]] | xr.DataArray | None
"""Heads by label, ``(layer, head)`` pairs, or weights with dims ``(layer, head)``; None is all."""


class InertAttentionWarning(UserWarning):
    """Softmax over one key is 1 whatever the logits are: W_q and W_k never act on the picture."""


@dataclass(frozen=True)
class Part:
    """The chosen layers and heads of one leaf, with the weight of each head."""

    name: str
    leaf: Leaf
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    values: NDArray[np.float32]

    @property
    def weights(self) -> xr.DataArray:
        """Weight of each chosen head, ``(layer, head)``."""
        return xr.DataArray(self.values, {"layer": self.labels, "head": self.head_labels}, ("layer", "head"))

    @property
    def place(self) -> dict[str, list[int]]:
        """Where the part lies in the leaf's arrays; axes that are taken whole are left out."""
        taken = {"layer": (self.layers, len(self.leaf.layers)), "head": (self.heads, self.leaf.heads)}
        return {dim: list(places) for dim, (places, size) in taken.items() if len(places) < size}

    @property
    def head_labels(self) -> list[int]:
        """Numbers of the chosen heads."""
        labels = head_labels(self.leaf)
        return [labels[index] for index in self.heads]

    @property
    def labels(self) -> list[str]:
        """Paths of the chosen layers."""
        return [self.leaf.layers[index] for index in self.layers]


def check_direction(direction: str) -> None:
    """Refuse another direction than g2r and r2g."""
    if direction not in DIRECTIONS:
        raise unknown_name("direction", direction, DIRECTIONS)


def pick_kind(trace: Trace, kind: str | None) -> str:
    """`kind` if the store has it; for None ``image``, else the only kind."""
    if kind is None:
        if "image" in trace.kinds:
            return "image"
        if len(trace.kinds) == 1:
            return trace.kinds[0]
        raise InvalidValueError(f"{trace.where} holds several kinds, {_list(trace.kinds)}; choose one by kind=")
    if kind not in trace.kinds:
        accepted = trace.kinds if kind in KINDS else dict.fromkeys((*trace.kinds, *KINDS))
        raise unknown_name("kind", kind, accepted, where=trace.where)
    return kind


def pick_parts(trace: Trace, kind: str, layers: str | Sequence[str] | None, heads: Heads) -> list[Part]:
    """Chosen layers and heads by leaf; a layer without a chosen head, and a head chosen in no layer, is left out.

    A layer pattern is a layer's path, a part of one, a shell pattern (``up_blocks.*``), or the query grid of a
    leaf (``16x16``).
    """
    leaves = {name: leaf for name, leaf in trace.leaves.items() if leaf.kind == kind}
    patterns = [layers] if isinstance(layers, str) else None if layers is None else list(layers)
    paths = [path for leaf in leaves.values() for path in leaf.layers]
    for pattern in patterns or ():
        if not any(_matches(pattern, path, leaf) for leaf in leaves.values() for path in leaf.layers):
            grids = dict.fromkeys(leaf.grid for leaf in leaves.values())
            raise unknown_name("layer pattern", pattern, [*grids, *paths], where=f"{trace.where}, kind {kind!r}")
    if patterns is not None and not patterns:
        raise InvalidValueError("layers is empty; None means all layers")
    chosen = _head_weights(heads, leaves, paths)
    parts = []
    for name, leaf in leaves.items():
        wanted = [
            index
            for index, path in enumerate(leaf.layers)
            if patterns is None or any(_matches(pattern, path, leaf) for pattern in patterns)
        ]
        weights = chosen(leaf)
        wanted = [index for index in wanted if weights[index].any()]
        if wanted:
            used = np.flatnonzero(weights[wanted].any(0)).tolist()
            parts.append(Part(name, leaf, tuple(wanted), tuple(used), weights[np.ix_(wanted, used)]))
    if not parts:
        raise InvalidValueError("layers and heads together select nothing")
    return parts


def _head_weights(heads: Heads, leaves: Mapping[str, Leaf], paths: list[str]) -> Any:
    """Return the function from a leaf to its weights (layer, head), float32."""
    if heads is None:
        return lambda leaf: np.ones((len(leaf.layers), leaf.heads), np.float32)
    if isinstance(heads, xr.DataArray):
        if set(heads.dims) != {"layer", "head"}:
            raise InvalidValueError(f"head weights need dims (layer, head); got {tuple(heads.dims)}")
        pairs = {
            (str(path), int(head)): float(heads.sel(layer=path, head=head))
            for path in heads["layer"].values
            for head in heads["head"].values
        }
        pairs = {pair: 0.0 if np.isnan(weight) else weight for pair, weight in pairs.items()}
    else:
        listed = list(heads)
        if not listed:
            raise InvalidValueError("heads is empty; None means all heads")
        if all(isinstance(item, (int, np.integer)) for item in listed):
            return _numbered_heads([int(item) for item in listed], leaves)
        pairs = {(str(path), int(head)): 1.0 for path, head in listed}
    _check_pairs(pairs, leaves, paths)
    return lambda leaf: _weights(leaf, lambda path, head: pairs.get((path, head), 0.0))


def _numbered_heads(numbers: list[int], leaves: Mapping[str, Leaf]) -> Any:
    known = sorted({head for leaf in leaves.values() for head in head_labels(leaf)})
    for number in numbers:
        if number not in known:
            raise unknown_name("head", str(number), [str(head) for head in known])
    return lambda leaf: _weights(leaf, lambda _path, head: float(head in numbers))


def _check_pairs(pairs: Mapping[tuple[str, int], float], leaves: Mapping[str, Leaf], paths: list[str]) -> None:
    known = {(path, head) for leaf in leaves.values() for path in leaf.layers for head in head_labels(leaf)}
    for path, head in pairs:
        if path not in paths:
            raise unknown_name("layer", path, paths)
        if (path, head) not in known and pairs[(path, head)] != 0:
            numbers = [str(number) for layer, number in sorted(known) if layer == path]
            raise unknown_name("head", str(head), numbers, where=f"layer {path}")


def _weights(leaf: Leaf, weight: Any) -> NDArray[np.float32]:
    return np.array([[weight(path, head) for head in head_labels(leaf)] for path in leaf.layers], dtype=np.float32)


def head_labels(leaf: Leaf) -> tuple[int, ...]:
    """Numbers of the heads that a leaf keeps."""
    return leaf.head_labels or tuple(range(leaf.heads))


def _matches(pattern: str, path: str, leaf: Leaf) -> bool:
    return pattern in (path, leaf.grid) or pattern in path or fnmatchcase(path, pattern)


def pick_branches(trace: Trace, branch: str | None) -> tuple[tuple[str, ...], tuple[str, str] | None]:
    """Branches to read, and for a difference such as ``cond-uncond`` its two; None is all branches."""
    differences = {f"{one}-{other}": (one, other) for one, other in permutations(trace.branches, 2)}
    if branch is None:
        return trace.branches, None
    if branch in trace.branches:
        return (branch,), None
    if branch in differences:
        return trace.branches, differences[branch]
    raise unknown_name("branch", branch, [*trace.branches, *differences], where=trace.where)


def pick_calls(
    trace: Trace, steps: int | slice | Iterable[int] | None, calls: slice | Iterable[int] | None = None
) -> list[int] | None:
    """Places on t of the chosen `calls`, or of the calls of the chosen sampler `steps` (all of a step's); None is all.

    Raises
    ------
    UnknownNameError
        If a step or call is not there.
    InvalidValueError
        If nothing is selected, both are given, or runs differ in their steps.
    """
    if calls is not None:
        if steps is not None:
            raise InvalidValueError("steps and calls both choose along t; give one of them")
        return _places(trace.calls, calls)
    if steps is None:
        return None
    known = trace.runs["step"].values
    if len(known) and bool((known != known[:1]).any()):
        raise InvalidValueError("runs differ in their steps; take a trace of runs that agree (trace.sel) first")
    first = known[0] if len(known) else np.arange(trace.calls)
    if isinstance(steps, slice):
        high = int(first.max()) + 1
        wanted = set(range(high)[steps])
    else:
        wanted = {int(steps)} if isinstance(steps, (int, np.integer)) else {int(step) for step in steps}
        for step in wanted - set(first.tolist()):
            raise unknown_name("step", str(step), [str(value) for value in dict.fromkeys(first.tolist())])
    places = [place for place, step in enumerate(first.tolist()) if step in wanted]
    if not places:
        raise InvalidValueError(f"steps {steps!r} select no call")
    return places


def _places(count: int, calls: slice | Iterable[int]) -> list[int]:
    places = list(range(count)[calls]) if isinstance(calls, slice) else sorted({int(call) for call in calls})
    for place in places:
        if not 0 <= place < count:
            raise unknown_name("call", str(place), [str(own) for own in range(count)])
    if not places:
        raise InvalidValueError(f"calls {calls!r} select nothing of {count} calls")
    return places


def warn_inert(leaves: Iterable[Leaf]) -> bool:
    """Whether any leaf has one key only; warns if so."""
    inert = [leaf for leaf in leaves if leaf.keys == 1 and not leaf.partial]
    if inert:
        warnings.warn(
            f"{inert[0].kind}/{inert[0].grid} has one key: its attention is 1 everywhere, W_q and W_k never act, "
            "and an r2g map shows logits of weights that the model does not use; do not read it as an explanation",
            InertAttentionWarning,
            stacklevel=4,
        )
    return bool(inert)


def _list(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)

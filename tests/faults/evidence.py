"""What readers find in a store: a digest of every array of every complete run, by its label."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from attlas.analysis import open_trace

__all__ = ["Found", "differences", "digest", "read_plain", "read_with_attlas", "variables"]

Choose = Callable[[list[str]], list[str]]

MOMENTS = ("created", "finished")
"""Variables and attributes that say when something was done."""


@dataclass
class Found:
    """Everything that a reader gets out of a store.

    Attributes
    ----------
    runs
        By the label of each complete run, by array: a digest of dtype, shape and every value.
    shared
        By array: the same of what belongs to no run.
    held
        By label: what the run says that it has beside its attention, where the reader shows that.
    """

    runs: dict[str, dict[str, str]] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    held: dict[str, list[str]] = field(default_factory=dict)


def _all(labels: list[str]) -> list[str]:
    return labels


def read_plain(path: Path, *, shared: bool = True, choose: Choose = _all) -> Found:
    """Read with xarray's own zarr engine, as who has no attlas does; a warning is an error.

    Without `shared` only what belongs to complete runs is read, and of those only what `choose` picks by label.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_datatree(path, engine="zarr", chunks=None) as tree:
            return _found(tree, shared, choose)


def read_with_attlas(path: Path, *, shared: bool = True, choose: Choose = _all) -> Found:
    """Read as attlas itself does: complete runs only; see `read_plain`."""
    with dask.config.set(scheduler="synchronous"):
        return _found(open_trace(path).tree, shared, choose)


def _found(tree: xr.DataTree, shared: bool, choose: Choose) -> Found:
    complete = np.flatnonzero(tree["complete"].values)
    rows = {str(label): int(row) for label, row in zip(tree["run"].values[complete], complete, strict=True)}
    labels = choose(list(rows))
    found = Found({label: {} for label in labels})
    if shared:
        found.shared["rows"] = str(tree["complete"].size)
    elif not labels:
        return found
    if "holds" in tree:
        found.held = {label: json.loads(str(tree["holds"].values[rows[label]])) for label in labels}
    for name, variable in variables(tree):
        if variable.dims[:1] != ("run",):
            if shared:
                found.shared[name] = digest(variable.values)
            continue
        for label in labels:
            found.runs[label][name] = digest(variable[rows[label]].values)
    return found


def variables(tree: xr.DataTree) -> Iterator[tuple[str, xr.Variable]]:
    """Every array of a tree by its path, once; coordinates that a node has from its parents are the parents'."""
    for node in tree.subtree:
        for name, variable in node.to_dataset(inherit=False).variables.items():
            if str(name) not in MOMENTS:
                yield f"{node.path}/{name}".lstrip("/"), variable


def digest(values: Any) -> str:
    """Short text that differs where dtype, shape or any bit does."""
    array = np.asarray(values)
    if array.dtype.kind in "OTU":
        content = repr([str(text) for text in array.ravel()]).encode()
        return f"text {array.shape} {hashlib.sha256(content).hexdigest()[:16]}"
    return f"{array.dtype} {array.shape} {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]}"


def differences(found: Found, expected: Found, held: Mapping[str, list[str]] | None = None) -> list[str]:
    """Say where `found` differs from what an undisturbed store has, an array and a run a line.

    With `held` only the runs that are found are compared, and an annotation that a run does not hold may be missing:
    its array is made for the first run that holds it.
    """
    whole = held is None
    lines = []
    if whole:
        lines += [f"run {label!r} is missing" for label in expected.runs.keys() - found.runs.keys()]
        lines += _compare("", found.shared, expected.shared)
    for label, arrays in found.runs.items():
        if label not in expected.runs:
            lines.append(f"run {label!r} is none that was asked for")
        else:
            lines += _compare(f" of run {label!r}", arrays, _needed(arrays, expected.runs[label], held, label))
    return lines


def _needed(
    arrays: Mapping[str, str], expected: Mapping[str, str], held: Mapping[str, list[str]] | None, label: str
) -> Mapping[str, str]:
    """Arrays that a run must have, which are all that it has, and those that it says it has."""
    if held is None:
        return expected
    return {
        name: value
        for name, value in expected.items()
        if name in arrays or not name.startswith("annotations/") or name in held[label]
    }


def _compare(where: str, found: Mapping[str, str], expected: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            yield f"{name}{where}: {found.get(name, 'missing')}; undisturbed {expected.get(name, 'missing')}"

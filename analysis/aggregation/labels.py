"""Labels of a map: of what is kept, of the runs, and of the tokens that it lies on."""

from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.aggregation.combine import grids, heads_of
from attlas.analysis.aggregation.selection import Part
from attlas.analysis.aggregation.terms import Question
from attlas.analysis.blockwise.attention import run_coords
from attlas.analysis.trace import Trace

__all__ = ["map_labels"]


def map_labels(
    trace: Trace, dims: tuple[str, ...], parts: list[Part], target: tuple[int, ...] | None, question: Question
) -> dict[str, Any]:
    """Coordinates of a map with these dims."""
    coords: dict[str, Any] = {}
    if "branch" in dims:
        coords["branch"] = list(question.branches)
    elif len(question.branches) == 1:
        coords["branch"] = question.branches[0]
    if "layer" in dims:
        attrs = trace.label(parts[0].name, "layer").attrs
        coords["layer"] = ("layer", [path for part in parts for path in part.labels], attrs)
        coords["grid"] = ("layer", [part.leaf.grid for part in parts for _ in part.labels])
    if "grid" in dims:
        coords["grid"] = grids(parts)
    if "head" in dims:
        stored = trace.label(parts[0].name, "head")
        coords["head"] = ("head", np.asarray(heads_of(parts), stored.dtype), stored.attrs)
    coords |= run_coords(trace)
    if "t" in dims:
        place = slice(None) if question.calls is None else question.calls
        coords |= {name: trace.runs.variables[name].isel(t=place) for name in ("t", "step", "timestep", "sigma")}
    if "key" in dims:
        coords |= _key_labels(trace, parts[0], question, dims)
    elif target is not None:
        coords |= {dim: np.arange(size) for dim, size in zip(dims[-len(target) :], target, strict=True)}
    return coords


def _key_labels(trace: Trace, part: Part, question: Question, dims: tuple[str, ...]) -> dict[str, xr.Variable]:
    """Labels of the keys that a map lies on."""
    whole = trace.dataset(part.name)
    labels = {str(name): whole.variables[name] for name in whole.coords if "key" in whole.variables[name].dims}
    if "branch" not in dims:
        by_branch = [name for name, own in labels.items() if "branch" in own.dims]
        for name in by_branch:
            if len(question.branches) == 1:
                labels[name] = trace.array(part.name, name, question.branches[0]).isel(branch=0)
            else:
                # The difference of two branches lies on places of the key axis, whose tokens differ.
                del labels[name]
    places = question.key_part.places(part.leaf)
    if len(places) < part.leaf.keys:
        labels = {name: own.isel(key=places) for name, own in labels.items()}
    return labels

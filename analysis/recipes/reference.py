"""What the recipes of reference images share: the kind of attention, the runs, the pictures, layers by their names."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.resample import spatial_dims
from attlas.analysis.selection import pick_parts
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError

__all__ = ["bar", "first_runs", "layer_names", "layers_of", "planes", "reference_options"]

Item = TypeVar("Item")


def reference_options(trace: Trace) -> dict[str, Any]:
    """Arguments that make maps of the attention to the reference: its own kind, or its part of a joint sequence."""
    if "image" in trace.kinds:
        return {"kind": "image"}
    return {"kind": "joint", "segment": "reference"}


def first_runs(trace: Trace, samples: int | list[str]) -> Trace:
    """Trace of the first `samples` runs, or of the runs named in a list."""
    if isinstance(samples, list):
        return trace.sel(samples)
    if samples < 1:
        raise InvalidValueError(f"samples = {samples}; at least 1 is needed")
    return trace.isel(range(min(samples, len(trace.run_ids))))


def layers_of(trace: Trace, layers: str | list[str] | None = None) -> list[str]:
    """Paths of the chosen reference layers in the order of the network: down, middle, up."""
    parts = pick_parts(trace, reference_options(trace)["kind"], layers, None)
    return sorted((path for part in parts for path in part.labels), key=_network_order)


def _network_order(path: str) -> tuple[int, str]:
    stages = ("down", "mid", "up")
    return next((place for place, stage in enumerate(stages) if path.startswith(stage)), len(stages)), path


def layer_names(trace: Trace, paths: Iterable[str]) -> dict[str, str]:
    """Short name and query grid of each layer, for labels: ``up 2.1`` and ``16x16`` on two lines."""
    grids = {path: leaf.grid for leaf in trace.leaves.values() for path in leaf.layers}
    return {path: f"{_short(path)}\n{grids[path]}" for path in paths}


def _short(path: str) -> str:
    parts = path.split(".")
    numbers = [part for part in parts[1:] if part.isdigit()]
    stage = parts[0].removesuffix("_blocks").removesuffix("_block").removeprefix("transformer_")
    # The number within a transformer block is the same everywhere in networks of depth 1.
    return " ".join([stage, ".".join(numbers[:2])]).strip() if stage != "mid" else "mid"


def planes(values: xr.DataArray) -> Iterator[NDArray[np.float32]]:
    """Each map of `values` as plain rows and columns, in order of its leading dims."""
    y, x = spatial_dims(values)
    laid = values.transpose(..., y, x).values
    return iter(laid.reshape(-1, *laid.shape[-2:]))


def bar(items: Iterable[Item], what: str, progress: bool, unit: str = "run") -> Iterable[Item]:
    """`items` under a progress bar with rate and remaining time."""
    from tqdm import tqdm

    made: Iterable[Item] = tqdm(items, what, unit=unit, disable=not progress, leave=False)
    return made

"""What the recipes of reference images share: the kind of attention, runs, layers by their names, scores of maps."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.resample import spatial_dims
from attlas.analysis.aggregation.selection import pick_parts
from attlas.analysis.metrics import imacs
from attlas.analysis.papers.i2am import transform
from attlas.analysis.scoring.score_table import Score, score_of
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError

__all__ = [
    "LAMBDA",
    "TAU",
    "area_of",
    "bar",
    "chosen_layers",
    "correlation",
    "first_runs",
    "imacs_of",
    "layer_names",
    "layers_of",
    "mean_of",
    "planes",
    "reference_options",
    "soft_map",
    "well_spread",
]

Item = TypeVar("Item")
TAU, LAMBDA = 0.4, 3.0
"""The paper's threshold delta and penalty factor lambda."""


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


def chosen_layers(trace: Trace, layers: str | list[str]) -> list[str]:
    """Paths for ``decoder`` (the paper's choice: the way up of a U-Net), ``all``, or a layer pattern.

    A network without a way up is taken whole.
    """
    if layers not in ("decoder", "all"):
        return layers_of(trace, layers)
    whole = layers_of(trace)
    up = [path for path in whole if path.startswith("up")]
    return up if layers == "decoder" and up else whole


def _network_order(path: str) -> tuple[int, str]:
    stages = ("down", "mid", "up")
    return next((place for place, stage in enumerate(stages) if path.startswith(stage)), len(stages)), path


def layer_names(trace: Trace, paths: Iterable[str]) -> list[str]:
    """Short names of layers with their query grid, on two lines."""
    grids = {path: leaf.grid for leaf in trace.leaves.values() for path in leaf.layers}
    return [f"{_short(path)}\n{grids[path]}" for path in paths]


def _short(path: str) -> str:
    stage, *rest = path.split(".")
    stage = stage.removesuffix("_blocks").removesuffix("_block")
    # The number within a transformer block is the same everywhere in networks of depth 1.
    return stage if stage == "mid" else f"{stage} {'.'.join([part for part in rest if part.isdigit()][:2])}".strip()


def planes(values: xr.DataArray) -> Iterator[NDArray[np.float32]]:
    """Each map of `values` as plain rows and columns, in order of its leading dims."""
    y, x = spatial_dims(values)
    laid = values.transpose(..., y, x).values
    return iter(laid.reshape(-1, *laid.shape[-2:]))


def soft_map(values: xr.DataArray, mask: xr.DataArray, *, tau: float = TAU) -> xr.DataArray:
    """Make maps as the paper shows and scores them: on the mask's grid (bicubic), min-max normalised, below `tau` 0."""
    y, x = spatial_dims(mask)
    return transform(values, (mask.sizes[y], mask.sizes[x]), tau)


def imacs_of(values: xr.DataArray, mask: xr.DataArray, *, penalty: float = LAMBDA) -> xr.DataArray:
    """IMACS of raw maps by the paper's rules; in memory."""
    return imacs(soft_map(values, mask), mask, penalty=penalty).compute()


def area_of(values: xr.DataArray) -> NDArray[np.float64]:
    """Share of the picture that maps ``(run, row, column)`` cover: exp of the entropy over the number of cells.

    Examples
    --------
    >>> area_of(xr.DataArray([[[1.0, 1.0], [0.0, 0.0]]], dims=("run", "y", "x"))).round(3).tolist()
    [0.5]
    """
    flat = values.values.reshape(len(values), -1).astype(np.float64)
    share = flat / flat.sum(1, keepdims=True)
    entropy = -np.where(share > 0, share * np.log(np.where(share > 0, share, 1)), 0).sum(1)
    return np.asarray(np.exp(entropy) / flat.shape[1])


def mean_of(values: xr.DataArray | NDArray[Any] | Sequence[float]) -> Score:
    """Mean over runs with half its 95 % interval; NaN does not count."""
    return score_of("", np.ravel(np.asarray(values, np.float64)), "")


def well_spread(inside: NDArray[np.bool_], count: int) -> list[tuple[int, int]]:
    """Cells of `inside` far from each other: the most central first, then always the farthest from those taken.

    Examples
    --------
    >>> well_spread(np.ones((3, 3), bool), 2)
    [(1, 1), (0, 0)]
    """
    cells = np.argwhere(inside).astype(float)
    if not len(cells):
        return []
    taken = [int(((cells - cells.mean(0)) ** 2).sum(1).argmin())]
    while len(taken) < min(count, len(cells)):
        nearest = ((cells[:, None] - cells[taken]) ** 2).sum(-1).min(1)
        taken.append(int(nearest.argmax()))
    return [(int(cells[place][0]), int(cells[place][1])) for place in taken]


def correlation(one: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    """Pearson correlation of the cells of two maps in memory; dims without the spatial ones, NaN for a constant map.

    Examples
    --------
    >>> ramp = xr.DataArray([[0.0, 1.0], [2.0, 3.0]], dims=("y", "x"))
    >>> round(float(correlation(ramp, 5 - 2 * ramp)), 6)
    -1.0
    """
    dims = spatial_dims(one)
    return xr.corr(one.astype(np.float64), other.astype(np.float64), dims)


def bar(items: Iterable[Item], what: str, progress: bool, unit: str = "run") -> Iterable[Item]:
    """`items` under a progress bar with rate and remaining time."""
    from tqdm import tqdm

    made: Iterable[Item] = tqdm(items, what, unit=unit, disable=not progress, leave=False)
    return made

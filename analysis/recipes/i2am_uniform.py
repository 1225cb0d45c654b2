"""I2AM Fig. 16: in DAAM's softmax direction a map of the whole reference is uniform."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.aggregate import aggregate
from attlas.analysis.normalise import normalize
from attlas.analysis.recipes.figures import Panel, sheet
from attlas.analysis.recipes.recipe import Need, RecipeResult, Table, recipe
from attlas.analysis.recipes.reference import bar, first_runs, planes, reference_options
from attlas.analysis.recipes.settings import settings_of
from attlas.analysis.trace import Trace

__all__ = ["fig16"]

COLUMNS = ("map", "keys nk", "expected in each cell", "mean", "max - min", "largest relative error")


@recipe(
    "i2am-fig16",
    title="In DAAM's softmax direction the map of a whole reference is uniform",
    paper="I2AM Fig. 16",
    stores=(Need("tryon", full=True),),
    comparable=True,
)
def fig16(traces: Sequence[Trace], *, progress: bool = True, samples: int = 3) -> RecipeResult:
    """Mean over all keys of the G2R attention on the query grid: 1/nk in every cell, for any model.

    Rows of the softmax sum to 1, so their mean over nk keys is 1/nk whatever the weights are. What is left is rounding,
    which resizing adds to and min-max normalisation blows up to the whole range (Fig. 16a). With one key the map is 1
    everywhere (Fig. 16b), and R2G still makes a picture of logits that do not act.
    """
    trace = first_runs(traces[0], samples)
    options = reference_options(trace)
    kind = options["kind"]
    grids = dict.fromkeys(leaf.grid for leaf in trace.leaves.values() if leaf.kind == kind)
    rows = []
    for grid in bar(grids, "i2am-fig16", progress, "grid"):
        own = _daam_direction(trace, kind, layers=grid, reduce="mean")
        keys = _keys(trace, kind, grid)
        rows.append(_row(f"mean of layers {grid}, own grid", own, keys, 1 / keys))
    whole = _daam_direction(trace, kind)
    keys = _keys(trace, kind)
    count = sum(len(leaf.layers) * leaf.heads for leaf in trace.leaves.values() if leaf.kind == kind)
    scaled = normalize(whole)
    turned = aggregate(trace, "r2g", **options).compute()
    one, one_turned = _one_key(trace, kind)
    rows += [
        _row("sum of all layers, bicubic to the finest grid", whole, keys, trace.calls * count / keys),
        _row("the same, min-max normalised (Fig. 16a)", scaled),
        _row("one key only (Fig. 16b)", one, 1, 1.0),
        _row("R2G of the same attention, for scale", turned),
    ]
    maps = {
        "DAAM direction\n0 to twice its mean": whole,
        "the same,\nmin-max": scaled,
        "R2G of the\nsame attention": turned,
        "one key, DAAM\ndirection, 0 to 2": one,
        "one key (CLS),\nR2G": one_turned,
    }
    notes = [
        "Comparable with any model: uniformity is arithmetic, not learnt. The paper shows StableVITON, with no number.",
        (
            "Rows of G2R sum to 1, so the mean over nk keys is 1/nk. The spread is rounding in float32; min-max "
            "normalisation divides by that spread plus 1e-8 and makes a full-range picture of it."
        ),
        (
            "With one key the softmax is 1 whatever the weights are: W_q and W_k get no gradient and never act on the "
            "picture. R2G over one key (Paint-by-Example, DCI-VTON) shows logits of such weights; it explains nothing."
        ),
        "Hence 'DAAM' equals 'Overall' in the paper's Table 1: a uniform map has the whole picture as its box.",
    ]
    return RecipeResult(
        [Table("mean over all keys of the G2R attention, on the grid of the queries", COLUMNS, rows)],
        {"the DAAM direction beside R2G": _draw(trace, maps)},
        notes,
        settings_of([trace], whole, onto="query", normalise="none, then minmax", threshold="none", invert="no"),
    )


def _daam_direction(trace: Trace, kind: str, **chosen: Any) -> xr.DataArray:
    """Mean over all keys, CLS included, on the query grid."""
    return aggregate(trace, "g2r", onto="query", source="full", kind=kind, **chosen).compute()


def _keys(trace: Trace, kind: str, grid: str | None = None) -> int:
    """Count the keys of the leaves, which all have as many."""
    return next(leaf.keys for leaf in trace.leaves.values() if leaf.kind == kind and grid in (None, leaf.grid))


def _row(name: str, made: xr.DataArray, keys: int | None = None, expected: float | None = None) -> tuple[Any, ...]:
    values = made.values.astype(np.float64)
    spread = float(np.ptp(values.reshape(len(values), -1), axis=1).max())
    off = None if expected is None else float(abs(values / expected - 1).max())
    return name, keys, expected, float(values.mean()), spread, off


def _one_key(trace: Trace, kind: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Both directions over the first key alone, as a model of one CLS key has them, on the finest grid.

    The logits of that key differ from its log attention by a constant of each query, so they are taken from Q and K
    where the store has them, else from log attention and logsumexp.
    """
    name, leaf = next((name, leaf) for name, leaf in trace.leaves.items() if leaf.kind == kind)
    logits = _logits_of_first_key(trace, name)
    heat = np.exp(logits - logits.max(-1, keepdims=True))
    turned = (heat / heat.sum(-1, keepdims=True)).mean((1, 2, 3))
    alone = np.exp(logits - logits).mean((1, 2, 3))  # softmax over one key
    dims = ("run", "query_y", "query_x")
    shape = (len(trace.run_ids), *leaf.query_grid[-2:])
    return xr.DataArray(alone.reshape(shape), dims=dims), xr.DataArray(turned.reshape(shape), dims=dims)


def _logits_of_first_key(trace: Trace, name: str) -> NDArray[np.float32]:
    """``(run, t, layer, head, query)`` of the conditioned branch."""
    branch = "cond" if "cond" in trace.branches else trace.branches[0]
    if trace.holds(name, "query_vectors"):
        held = trace.arrays(name, ["query_vectors", "key_vectors"], branch).isel(branch=0)
        key = held["key_vectors"].isel(key=0).astype(np.float32)
        made = (held["query_vectors"].astype(np.float32) * key).sum("channel")
    else:
        held = trace.arrays(name, ["log_attention", "logsumexp"], branch).isel(branch=0)
        made = held["log_attention"].isel(key=0).astype(np.float32) + held["logsumexp"].astype(np.float32)
    return np.asarray(made.transpose("run", "t", "layer", "head", "query").values)


def _draw(trace: Trace, maps: dict[str, xr.DataArray]) -> Any:
    pictures = trace.images.compute().values
    uniform = {name for name in maps if "DAAM" in name}  # a constant has no range of its own
    rows = []
    columns = {name: list(planes(values)) for name, values in maps.items()}
    for place in range(len(trace.run_ids)):
        row = [Panel(pictures[place])]
        for name, own in columns.items():
            level = float(own[place].mean())
            row.append(Panel(values=own[place], limits=(0, 2 * level) if name in uniform else None))
        rows.append(row)
    labels = ["generated", *columns]
    return sheet(
        rows,
        row_labels=list(trace.run_ids),
        column_labels=labels,
        bar="attention, on the scale that each column names (1)",
    )

"""I2AM Fig. 20: two axes at once, time and heads for each resolution of layers."""

from collections.abc import Sequence
from typing import Any

import xarray as xr

from attlas.analysis.maps import hlam, tlam
from attlas.analysis.recipes.figures import Panel, sheet
from attlas.analysis.recipes.i2am_flow import between
from attlas.analysis.recipes.recipe import RecipeResult, Table, recipe
from attlas.analysis.recipes.reference import (
    bar,
    chosen_layers,
    correlation,
    mean_of,
    planes,
    reference_options,
)
from attlas.analysis.recipes.settings import settings_of
from attlas.analysis.trace import Trace

__all__ = ["fig20"]

WHOLE = "all"


@recipe(
    "i2am-fig20",
    title="TLAM and HLAM (R2G) for each resolution of layers",
    paper="I2AM Fig. 20",
    stores=("tryon",),
    comparable=False,
)
def fig20(
    traces: Sequence[Trace], *, progress: bool = True, sample: str | None = None, groups: int = 5, layers: str = "all"
) -> RecipeResult:
    """Show TLAM and HLAM by resolution, and what each resolution contributes to the map of all layers."""
    (trace,) = traces
    groups = min(groups, trace.calls)
    options = reference_options(trace)
    chosen = chosen_layers(trace, layers)
    grids = _grids(trace, chosen)
    over_time, heads = {}, {}
    for name, paths in bar({**grids, WHOLE: chosen}.items(), "i2am-fig20", progress, "resolution"):
        finest = next(iter(grids))
        over_time[name] = tlam(trace, "r2g", groups, layers=paths, grid=finest, **options).compute()
        heads[name] = hlam(trace, "r2g", layers=paths, grid=finest, **options).compute()
    total = float(over_time[WHOLE].sum())
    coarse = [name for name in over_time if name != WHOLE]
    rows: list[tuple[Any, ...]] = []
    for name, values in over_time.items():
        rows.append(
            (
                name,
                len(grids.get(name, chosen)),
                mean_of(_steady(values)),
                mean_of(correlation(values, over_time[WHOLE]).mean("t_group")),
                mean_of(between(heads[name], "head")),
                None if name == WHOLE or len(grids) == 1 else mean_of(_same_head(heads, name, coarse)),
                float(values.sum()) / total,
                None if name == WHOLE else _by_mass(grids, name),
            )
        )
    shown = trace.sel(sample) if sample is not None else trace.isel([0])
    place = trace.run_ids.index(shown.run_ids[0])
    columns = (
        "resolution",
        "layers",
        "TLAM, first and last",
        "TLAM and that of all",
        "HLAM, two heads",
        "HLAM, same head elsewhere",
        "share of the ULAM",
        "share by mass",
    )
    notes = [
        "Not comparable: the paper shows StableVITON (16, 32, 64) without numbers; correlations are ours.",
        "The paper says: TLAM keeps its pattern at every resolution, and the same head sees other things elsewhere.",
        (
            "Each R2G map sums to 1 over its own grid, so that a coarser grid has higher values; enlarged as the paper "
            "does (intensity), a layer of half the rows and columns weighs 4 times as much. Share by mass: 1/c^2 each."
        ),
    ]
    return RecipeResult(
        [Table("correlations of maps, mean over runs; shares of the map of all layers", columns, rows)],
        {
            "TLAM (R2G) by resolution": _draw(shown, {name: own.isel(run=place) for name, own in over_time.items()}),
            "HLAM (R2G) by resolution": _draw(shown, {name: own.isel(run=place) for name, own in heads.items()}),
        },
        notes,
        settings_of([trace], over_time[WHOLE], layers=f"{layers}, {len(chosen)} layers", groups=groups,
                    normalise="minmax", threshold="none", invert="no"),
    )  # fmt: skip


def _grids(trace: Trace, paths: list[str]) -> dict[str, list[str]]:
    """Chosen layers by query grid, finest first."""
    kind = reference_options(trace)["kind"]
    made: dict[str, list[str]] = {}
    for leaf in trace.leaves.values():
        own = [path for path in leaf.layers if leaf.kind == kind and path in paths]
        if own:
            made.setdefault(leaf.grid, []).extend(own)
    return made


def _steady(values: xr.DataArray) -> xr.DataArray:
    return correlation(values.isel(t_group=0, drop=True), values.isel(t_group=-1, drop=True))


def _same_head(heads: dict[str, xr.DataArray], name: str, names: list[str]) -> xr.DataArray:
    """Mean correlation of a head's map with that of the head of the same number at other resolutions."""
    made = [correlation(heads[name], heads[other]).mean("head") for other in names if other != name]
    return xr.concat(made, "other").mean("other")


def _by_mass(grids: dict[str, list[str]], name: str) -> float:
    """Share of a resolution where every layer's map keeps its sum."""
    return len(grids[name]) / sum(len(paths) for paths in grids.values())


def _draw(trace: Trace, maps: dict[str, xr.DataArray]) -> Any:
    picture = trace.images.values[0]
    rows, labels = [], []
    first = next(iter(maps.values()))
    if "t_group" in first.dims:
        bounds = zip(first["t_start"].values.tolist(), first["t_stop"].values.tolist(), strict=True)
        columns = [f"calls\n{start} to {stop - 1}" for start, stop in bounds]
    else:
        columns = [f"head {head}" for head in first["head"].values]
    for name, values in maps.items():
        rows.append([Panel(picture), *(Panel(picture, own, smooth=True) for own in planes(values))])
        labels.append("all layers" if name == WHOLE else f"layers {name}")
    return sheet(rows, row_labels=labels, column_labels=[trace.run_ids[0], *columns])

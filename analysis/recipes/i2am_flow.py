"""I2AM Fig. 6, 7 and 8: maps over time and heads in both directions, the maps of everything, and SRAM."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.maps import hlam, tlam, ulam
from attlas.analysis.metrics import iou, pck
from attlas.analysis.recipes.figures import Panel, sheet
from attlas.analysis.recipes.i2am_layers import LEGEND, sram_row, targets
from attlas.analysis.recipes.recipe import Need, RecipeResult, Table, recipe
from attlas.analysis.recipes.reference import (
    bar,
    chosen_layers,
    correlation,
    first_runs,
    imacs_of,
    layer_names,
    layers_of,
    mean_of,
    planes,
    reference_options,
    soft_map,
    well_spread,
)
from attlas.analysis.recipes.settings import labels_of, settings_of
from attlas.analysis.roles import annotation_of
from attlas.analysis.scoring.reference_scores import sram_peaks
from attlas.analysis.trace import Trace

__all__ = ["PAPER_IMACS", "fig6", "fig7", "fig8"]

PAPER_IMACS = {
    "DCI-VTON": (0.0785, None),
    "StableVITON": (0.3083, 0.3388),
    "Custom": (0.0833, 0.0403),
    "Refined custom": (0.2215, 0.0948),
}
"""IMACS_g and IMACS_r of the paper's Table 2, VITON-HD, delta 0.4, lambda 3."""
MASKS = ("object", "reference_object")
WIDE = 0.6
RULES = {"normalise": "minmax", "threshold": "minmax 0.4 soft", "penalty": 3, "invert": "no"}
SHOWN = {"normalise": "minmax", "threshold": "none", "invert": "no"}


@recipe(
    "i2am-fig6",
    title="R2G maps over time and heads, and the maps of everything (M_g, M_r) with IMACS",
    paper="I2AM Fig. 6 and 15",
    stores=(Need("tryon", roles=MASKS, full=True),),
    optional=(Need("tryon-random", roles=MASKS, full=True), Need("tryon-refined", roles=MASKS, full=True)),
    comparable=False,
)
def fig6(
    traces: Sequence[Trace], *, progress: bool = True, samples: int = 3, groups: int = 5, layers: str = "decoder"
) -> RecipeResult:
    """Show TLAM and HLAM (R2G), ULAM in both directions with IMACS, and the mean IMACS of each store.

    There are at most as many time groups as calls.
    """
    groups = min(groups, traces[0].calls)
    rows: list[tuple[Any, ...]] = []
    for label, trace in bar(list(zip(labels_of(traces), traces, strict=True)), "i2am-fig6", progress, "store"):
        for part in (False, True):
            made = _ulams(trace, part, layers)
            over = [mean_of(imacs_of(made[name], mask)) for name, mask in zip("gr", _masks(trace), strict=True)]
            overlap = mean_of(iou(soft_map(made["g"], _masks(trace)[0]), _masks(trace)[0]).compute())
            rows.append((label, "object" if part else "all (the paper)", *over, overlap))
    rows += [(f"paper: {name}", "all", *numbers, None) for name, numbers in PAPER_IMACS.items()]
    columns = ("model", "patches averaged over", "IMACS_g", "IMACS_r", "IoU_g")
    shown = first_runs(traces[0], samples)
    time = _over_time_and_heads(shown, groups, layers, (("r2g", False), ("r2g", True)))
    notes = [
        "The paper's rows are VITON-HD at 512x384 with its models: same score, other models and data, not comparable.",
        (
            "'Object': R2G averaged over the object's patches of the reference, G2R over those of the picture. Over "
            "all patches R2G also shows where the reference's background goes, which here is outside the object."
        ),
        (
            "IMACS_r does not tell a trained model from a random one; IMACS_g over the object's patches and SRAM "
            "(i2am-fig9) do."
        ),
    ]
    return RecipeResult(
        [Table("IMACS, mean over runs", columns, rows)],
        {
            "TLAM and HLAM, R2G: over all reference patches, and over the object's": time,
            "ULAM with IMACS of each run": _ulam_sheet(shown, layers),
        },
        notes,
        _settings(traces, layers, direction="r2g (M_g), g2r (M_r)", groups=groups, **RULES),
    )


@recipe(
    "i2am-fig7",
    title="Generation flow: G2R and R2G over time and heads, and SRAM with the true correspondence",
    paper="I2AM Fig. 7 and 12",
    stores=(Need("tryon", roles=(*MASKS, "correspondence"), full=True),),
    comparable=False,
)
def fig7(
    traces: Sequence[Trace],
    *,
    progress: bool = True,
    samples: int = 3,
    groups: int = 5,
    layers: str = "decoder",
) -> RecipeResult:
    """Show what is taken (G2R), where it goes (R2G), and for single patches from where: SRAM beside the truth."""
    (trace,) = traces
    groups = min(groups, trace.calls)
    shown = first_runs(trace, samples)
    paths = layers_of(trace)
    kind = reference_options(trace)["kind"]
    rows: list[tuple[Any, ...]] = []
    for path, name in zip(bar(paths, "i2am-fig7", progress, "layer"), layer_names(trace, paths), strict=True):
        found, true = sram_peaks(trace, kind, path), targets(trace, path)
        rows.append((name.replace("\n", ", "), *(mean_of(pck(found, true, radius)) for radius in (1, 2))))
    best = max(rows, key=lambda row: row[1].value)[0]
    directions = (("g2r", False), ("g2r", True), ("r2g", False), ("r2g", True))
    notes = [
        "Not comparable: the paper shows StableVITON and gives no numbers; its SRAM is of layer 5 of 9.",
        f"The layer that finds the true place most often here is {best}; it plays the part of the paper's layer 5.",
        LEGEND,
    ]
    return RecipeResult(
        [Table("SRAM maximum within 1 and 2 patches of the truth, mean over runs", ("layer", "PCK@1", "PCK@2"), rows)],
        {
            "G2R on the reference and R2G on the picture, over time and heads": _over_time_and_heads(
                shown.isel([0]), groups, layers, directions
            ),
            "SRAM of one patch a run, layer by layer": _sram_sheet(shown, paths),
        },
        notes,
        _settings(
            traces, layers, direction="g2r and r2g; SRAM g2r", groups=groups, SRAM="each layer by itself", **SHOWN
        ),
    )


@recipe(
    "i2am-fig8",
    title="TLAM and HLAM in both directions, and how much they differ over time and between heads",
    paper="I2AM Fig. 8",
    stores=(Need("tryon"),),
    optional=(Need("tryon-random"),),
    comparable=False,
)
def fig8(
    traces: Sequence[Trace], *, progress: bool = True, samples: int = 2, groups: int = 5, layers: str = "decoder"
) -> RecipeResult:
    """Show TLAM and HLAM of both directions; the table puts numbers on "stable over time, diverse between heads"."""
    groups = min(groups, *(trace.calls for trace in traces))
    rows: list[tuple[Any, ...]] = []
    for label, trace in bar(list(zip(labels_of(traces), traces, strict=True)), "i2am-fig8", progress, "store"):
        options = {"layers": chosen_layers(trace, layers), **reference_options(trace)}
        for direction in ("g2r", "r2g"):
            over_time = tlam(trace, direction, groups, **options).compute()
            heads = hlam(trace, direction, **options).compute()
            first, last = over_time.isel(t_group=0), over_time.isel(t_group=-1)
            rows.append(
                (
                    label,
                    direction,
                    mean_of(_neighbours(over_time)),
                    mean_of(correlation(first, last)),
                    mean_of(between(heads, "head")),
                )
            )
    columns = ("store", "direction", "TLAM, next group", "TLAM, first and last", "HLAM, two heads")
    shown = first_runs(traces[0], samples)
    notes = [
        "Not comparable: the paper shows super-resolution (PASD), without numbers. Correlations are ours.",
        "Stable over time: TLAMs of different groups correlate. Diverse heads: HLAMs of different heads do not.",
    ]
    return RecipeResult(
        [Table("correlation of maps, mean over runs", columns, rows)],
        {
            "TLAM and HLAM in both directions": _over_time_and_heads(
                shown, groups, layers, (("g2r", False), ("r2g", False))
            )
        },
        notes,
        _settings(traces, layers, direction="g2r and r2g", groups=groups, **SHOWN),
    )


def between(values: xr.DataArray, dim: str) -> xr.DataArray:
    """Mean correlation of two different maps along `dim`, per run."""
    count = values.sizes[dim]
    pairs = [(one, other) for one in range(count) for other in range(one + 1, count)]
    made = [
        correlation(values.isel({dim: one}, drop=True), values.isel({dim: other}, drop=True)) for one, other in pairs
    ]
    return xr.concat(made, "pair").mean("pair")


def _neighbours(values: xr.DataArray) -> xr.DataArray:
    """Mean correlation of each time group with the next, per run."""
    count = values.sizes["t_group"]
    one, other = (values.isel(t_group=place).drop_vars("t_group") for place in (range(count - 1), range(1, count)))
    return correlation(one, other).mean("t_group")


def _bounds(values: xr.DataArray) -> list[tuple[int, int]]:
    """First call of each time group, and the first after it."""
    return list(zip(values["t_start"].values.tolist(), values["t_stop"].values.tolist(), strict=True))


def _masks(trace: Trace) -> tuple[xr.DataArray, xr.DataArray]:
    return annotation_of(trace, "object"), annotation_of(trace, "reference_object")


def _limited(trace: Trace, direction: str, part: bool) -> dict[str, Any]:
    """Arguments that average over the object's patches only, on the side that the map does not lie on."""
    if not part:
        return {}
    mask, reference = _masks(trace)
    return {"keys": reference} if direction == "r2g" else {"queries": mask}


def _ulams(trace: Trace, part: bool, layers: str) -> dict[str, xr.DataArray]:
    options = {"layers": chosen_layers(trace, layers), **reference_options(trace)}
    return {
        name: ulam(trace, direction, **_limited(trace, direction, part), **options).compute()
        for name, direction in (("g", "r2g"), ("r", "g2r"))
    }


def _settings(traces: Sequence[Trace], layers: str, **rules: Any) -> dict[str, Any]:
    """Tell of maps over the chosen layers, summed as eq. 7."""
    paths = chosen_layers(traces[0], layers)
    made = ulam(traces[0], "r2g", layers=paths, **reference_options(traces[0]))
    return settings_of(
        traces, made, onto="the side of each direction", layers=f"{layers}, {len(paths)} layers", **rules
    )


def _over_time_and_heads(trace: Trace, groups: int, layers: str, chosen: Sequence[tuple[str, bool]]) -> Any:
    """Rows of each run: a direction, over all patches or the object's; columns: TLAM groups, then heads."""
    options = {"layers": chosen_layers(trace, layers), **reference_options(trace)}
    pictures = {"r2g": trace.images.values, "g2r": trace.reference.values}
    rows: list[list[Panel]] = [[] for _ in range(len(trace.run_ids) * len(chosen))]
    labels = [""] * len(rows)
    columns: list[str] = []
    for place, (direction, part) in enumerate(chosen):
        limited = _limited(trace, direction, part)
        over_time = tlam(trace, direction, groups, **limited, **options).compute()
        heads = hlam(trace, direction, **limited, **options).compute()
        steps = [f"calls\n{a} to {b - 1}" for a, b in _bounds(over_time)]
        columns = ["picture", *steps, *(f"head\n{head}" for head in heads["head"].values)]
        for run, name in enumerate(trace.run_ids):
            picture = pictures[direction][run]
            values = [*planes(over_time.isel(run=run)), *planes(heads.isel(run=run))]
            row = run * len(chosen) + place
            rows[row] = [Panel(picture), *(Panel(picture, own, smooth=True) for own in values)]
            start = f"{name}\n" if place == 0 else ""
            labels[row] = f"{start}{direction.upper()}{', object' if part else ''}"
    return sheet(rows, row_labels=labels, column_labels=columns, cell=WIDE)


def _ulam_sheet(trace: Trace, layers: str) -> Any:
    masks = _masks(trace)
    columns: list[tuple[str, list[Panel]]] = [
        ("generated", [Panel(picture) for picture in trace.images.values]),
        ("reference", [Panel(picture) for picture in trace.reference.values]),
    ]
    for part in (False, True):
        made = _ulams(trace, part, layers)
        words = "object" if part else "all"
        for name, mask, pictures in zip("gr", masks, (trace.images.values, trace.reference.values), strict=True):
            soft = planes(soft_map(made[name], mask).compute())
            scores = imacs_of(made[name], mask).values
            panels = [
                Panel(picture, values, caption=f"IMACS$_{name}$ {score:.2f}", limits=(0, 1))
                for picture, values, score in zip(pictures, soft, scores, strict=True)
            ]
            columns.append((f"$M_{name}$\nover {words}", panels))
    rows = [list(row) for row in zip(*(panels for _, panels in columns), strict=True)]
    return sheet(
        rows,
        row_labels=list(trace.run_ids),
        column_labels=[name for name, _ in columns],
        bar="attention, min-max normalised, below 0.4 set to 0 (1)",
    )


def _sram_sheet(trace: Trace, paths: list[str]) -> Any:
    """One patch a run, each at another place of the object."""
    rows, labels = [], []
    finest = layers_of(trace, max((leaf for leaf in trace.leaves.values()), key=lambda leaf: leaf.queries).grid)[0]
    for place, run in enumerate(trace.run_ids):
        one = trace.isel([place])
        given = ~np.isnan(targets(one, finest).values[0]).any(-1)
        patch = well_spread(given, place + 1)[-1]
        rows.append(sram_row(one, paths, patch))
        labels.append(f"{run}\npatch {patch[0]}, {patch[1]}")
    return sheet(rows, row_labels=labels, column_labels=["picture", *layer_names(trace, paths)], cell=0.8)

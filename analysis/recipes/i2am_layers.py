"""I2AM Fig. 2 and 9: what each layer contributes, and where each layer looks for the same place."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.aggregation.aggregate import aggregate
from attlas.analysis.maps import llam, sram
from attlas.analysis.metrics import pck, peak
from attlas.analysis.recipes.figures import BLUE, RED, Line, Mark, Panel, axes_grid, curves, drawing, sheet
from attlas.analysis.recipes.recipe import Need, RecipeResult, Table, recipe
from attlas.analysis.recipes.reference import (
    area_of,
    bar,
    first_runs,
    imacs_of,
    layer_names,
    layers_of,
    mean_of,
    planes,
    reference_options,
    well_spread,
)
from attlas.analysis.recipes.settings import labels_of, settings_of
from attlas.analysis.roles import annotation_of
from attlas.analysis.scoring.reference_scores import sram_peaks, true_patches
from attlas.analysis.scoring.score_table import Score
from attlas.analysis.trace import Trace
from attlas.schemas import Leaf

__all__ = ["fig2", "fig9", "sram_row", "targets"]

KNOWN = ("correspondence", "object", "reference_object")
RULES: dict[str, Any] = {"resample": "none", "normalise": "minmax", "threshold": "none", "invert": "no"}
LEGEND = "red frame: the generated patch; blue cross: its true place in the reference; red circle: the map's maximum"


@recipe(
    "i2am-fig2",
    title="Layer-level maps (LLAM) and SRAM, layer by layer",
    paper="I2AM Fig. 2",
    stores=(Need("tryon", roles=KNOWN, full=True),),
    comparable=False,
)
def fig2(traces: Sequence[Trace], *, progress: bool = True, samples: int = 2) -> RecipeResult:
    """Show LLAM (R2G) on the generated picture and SRAM of one patch on the reference, for every layer.

    The table scores each layer over all runs: how much of the picture its map covers (the paper: from coarse to fine),
    IMACS_g over all reference patches and over the object's, and how often the SRAM finds the true patch.
    """
    (trace,) = traces
    paths = layers_of(trace)
    mask, reference = annotation_of(trace, "object"), annotation_of(trace, "reference_object")
    options = reference_options(trace)
    whole = llam(trace, "r2g", **options).compute()
    part = llam(trace, "r2g", keys=reference, **options).compute()
    rows = []
    for path, name in zip(bar(paths, "i2am-fig2", progress, "layer"), layer_names(trace, paths), strict=True):
        rows.append(
            (
                name.replace("\n", ", "),
                mean_of(area_of(whole.sel(layer=path))),
                mean_of(imacs_of(whole.sel(layer=path), mask)),
                mean_of(imacs_of(part.sel(layer=path), mask)),
                mean_of(_pck(trace, path, 1)),
            )
        )
    columns = ("layer", "area of LLAM", "IMACS_g", "IMACS_g, object's keys", "SRAM PCK@1")
    shown = first_runs(trace, samples)
    notes = [
        "Not comparable: the paper shows StableVITON, DCI-VTON and PASD and gives no numbers for this figure.",
        "Area: exp(entropy) of the LLAM as a share of the picture, 1 if uniform; coarse to fine would be falling.",
        "IMACS_g over all reference patches also counts where the reference's background goes.",
        LEGEND,
    ]
    rules = {"direction": "r2g (LLAM), g2r (SRAM)", "normalise": "minmax", "threshold": "IMACS: minmax 0.4 soft"}
    return RecipeResult(
        [Table("each layer, mean over runs", columns, rows)],
        {"LLAM (R2G) on the generated picture, SRAM of the framed patch on the reference": _llam_sheet(shown, paths)},
        notes,
        settings_of([trace], whole, **rules, penalty=3, invert="no"),
    )


@recipe(
    "i2am-fig9",
    title="SRAM at corresponding positions, layer by layer",
    paper="I2AM Fig. 9",
    stores=(Need("tryon", roles=("correspondence",)),),
    optional=(Need("tryon-random", roles=("correspondence",)),),
    comparable=False,
)
def fig9(
    traces: Sequence[Trace], *, progress: bool = True, sample: str | None = None, patches: int = 4
) -> RecipeResult:
    """Show the SRAM of several patches in every layer, and score each layer's maximum against the true place."""
    trace = traces[0]
    paths = layers_of(trace)
    names = [name.replace("\n", ", ") for name in layer_names(trace, paths)]
    rows: list[tuple[Any, ...]] = []
    lines = {}
    for label, own in zip(labels_of(traces), traces, strict=True):
        scores = []
        for path, name in zip(bar(paths, "i2am-fig9", progress, "layer"), names, strict=True):
            near, wide, far = _pck(own, path, 1), _pck(own, path, 2), _distance(own, path)
            scores.append(mean_of(near))
            rows.append((label, name, scores[-1], mean_of(wide), mean_of(far)))
        lines[label] = _line(names, scores)
    shown = trace.sel(sample) if sample is not None else trace.isel([0])
    with drawing():
        figure, axes = axes_grid(1, cell=(4.6, 2.3))
        curves(axes[0][0], lines, x="layer, in the order of the network", y="SRAM PCK@1 (share of patches)")
        axes[0][0].set_ylim(0, 1)
        axes[0][0].set_xticks(range(len(names)), layer_names(trace, paths))
    columns = ("store", "layer", "PCK@1", "PCK@2", "distance, patches")
    notes = [
        "Not comparable: the paper shows PASD (super-resolution: the true place is the same place), with no number.",
        (
            "The paper says that lower layers align positions and higher ones drift. Here the reference is turned, "
            "mirrored, scaled and shifted, so that the same place is wrong; layers are held against the true place."
        ),
        "PCK@r: share of the object's patches whose SRAM maximum lies within r reference patches of the truth.",
        LEGEND,
    ]
    return RecipeResult(
        [Table("SRAM against the true place, mean over runs", columns, rows)],
        {
            "SRAM of several patches over layers": _sram_sheet(shown, paths, patches),
            "PCK@1 by layer, mean and 95 % interval": figure,
        },
        notes,
        settings_of(traces, direction="g2r", layers="each by itself", branch="cond", **RULES),
    )


def targets(trace: Trace, path: str) -> xr.DataArray:
    """Find the true reference patch of each patch of the layer's query grid, ``(run, y, x, coordinate)``, in memory."""
    return true_patches(trace, reference_options(trace)["kind"], path)


def sram_row(trace: Trace, paths: Sequence[str], patch: tuple[int, int]) -> list[Panel]:
    """Panels of one run: the generated picture with `patch` framed, then its SRAM in each layer on the reference.

    The patch is one of the finest query grid; coarser layers show the cell that holds it, whose truth may differ.
    """
    options = reference_options(trace)
    if "segment" in options:
        options["keys"] = options.pop("segment")
    finest = max((_leaf(trace, path) for path in paths), key=lambda leaf: leaf.queries)
    made = sram(trace, patch, **options).compute()
    picture, reference = trace.images.values[0], trace.reference.values[0]
    truth = targets(trace, finest.layers[0]).isel(run=0).values[patch]
    rows, columns = finest.query_grid
    frame = (patch[0] / rows, patch[1] / columns, (patch[0] + 1) / rows, (patch[1] + 1) / columns)
    panels = [Panel(picture, marks=[Mark(frame)])]
    for path in paths:
        values = made.sel(layer=path).isel(run=0)
        size = np.asarray(values.shape)
        spots = [Mark(_place(peak(values).values, size), RED, "o")]
        if not np.isnan(truth).any():
            spots.append(Mark(_place(truth, size), BLUE, "x"))
        panels.append(Panel(reference, values.values, marks=spots))
    return panels


def _place(patch: Any, size: Any) -> tuple[float, ...]:
    """Centre of a patch as a fraction of the picture."""
    return tuple(((np.asarray(patch) + 0.5) / size).tolist())


def _llam_sheet(trace: Trace, paths: list[str]) -> Any:
    rows, labels = [], []
    made = aggregate(trace, "r2g", "layer", **reference_options(trace)).compute()
    finest = max((_leaf(trace, path) for path in paths), key=lambda leaf: leaf.queries)
    for place, run in enumerate(trace.run_ids):
        one = trace.isel([place])
        picture = one.images.values[0]
        own = [values for path in paths for values in planes(made.sel(layer=path).isel(run=place))]
        rows.append([Panel(picture), *(Panel(picture, values, smooth=True) for values in own)])
        given = ~np.isnan(targets(one, finest.layers[0]).values[0]).any(-1)
        rows.append(sram_row(one, paths, well_spread(given, 1)[0]))
        labels += [f"{run}\nLLAM, R2G", "SRAM"]
    return sheet(rows, row_labels=labels, column_labels=["picture", *layer_names(trace, paths)], cell=0.8)


def _sram_sheet(trace: Trace, paths: list[str], count: int) -> Any:
    finest = max((_leaf(trace, path) for path in paths), key=lambda leaf: leaf.queries)
    given = ~np.isnan(targets(trace, finest.layers[0]).values[0]).any(-1)
    spots = well_spread(given, count)
    rows = [sram_row(trace, paths, spot) for spot in spots]
    labels = [f"patch {row}, {column}" for row, column in spots]
    return sheet(rows, row_labels=labels, column_labels=["picture", *layer_names(trace, paths)], cell=0.8)


def _leaf(trace: Trace, path: str) -> Leaf:
    kind = reference_options(trace)["kind"]
    return next(leaf for leaf in trace.leaves.values() if leaf.kind == kind and path in leaf.layers)


def _pck(trace: Trace, path: str, radius: float) -> xr.DataArray:
    return pck(sram_peaks(trace, reference_options(trace)["kind"], path), targets(trace, path), radius)


def _distance(trace: Trace, path: str) -> xr.DataArray:
    """Mean distance of the maxima from the truth, in reference patches, per run."""
    offset = sram_peaks(trace, reference_options(trace)["kind"], path) - targets(trace, path)
    return ((offset**2).sum("coordinate", skipna=False) ** 0.5).mean(("y", "x"))


def _line(names: list[str], scores: list[Score]) -> Line:
    middle = [score.value for score in scores]
    spread = [0.0 if np.isnan(score.ci95) else score.ci95 for score in scores]
    low, high = (np.add(middle, np.multiply(sign, spread)).tolist() for sign in (-1, 1))
    return Line(range(len(names)), middle, low, high)

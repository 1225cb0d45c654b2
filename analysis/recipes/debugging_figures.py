"""Pictures of a model before and after: maps of the same runs in two rows, and changes as bars."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from attlas.analysis.maps import sram, ulam
from attlas.analysis.recipes.figures import BLUE, COLOURS, RED, Mark, Panel, axes_grid, drawing, sheet
from attlas.analysis.recipes.reference import first_runs, imacs_of, planes, reference_options, soft_map, well_spread
from attlas.analysis.roles import annotation_of
from attlas.analysis.scoring.reference_scores import true_patches
from attlas.analysis.scoring.score_table import Score
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["before_and_after", "change_bars"]


def before_and_after(models: Mapping[str, Trace], layers: str, layer: str, samples: int) -> "Figure":
    """Two rows a run, base above refined; `layers` are those of the maps, `layer` that of the SRAM."""
    shown = {name: first_runs(models[name], samples) for name in ("base", "refined")}
    runs = shown["base"].run_ids
    truth = true_patches(shown["base"], reference_options(shown["base"])["kind"], layer)
    places = [_place(truth.sel(run=run)) for run in runs]
    drawn = {name: _rows(trace, layers, layer, places, truth) for name, trace in shown.items()}
    rows = [row for pair in zip(drawn["base"], drawn["refined"], strict=True) for row in pair]
    return sheet(
        rows,
        row_labels=[f"{run}\n{name}" for run in runs for name in ("before", "after")],
        column_labels=(
            "reference",
            "true picture",
            "generated",
            "SRAM of the\nmarked patch",
            "$M_g$ (R2G)",
            "$M_r$ (G2R)",
        ),
        bar="attention, min-max normalised (1)",
    )


def _place(truth: xr.DataArray) -> tuple[int, int]:
    """Row and column of a query with a truth, off the object's middle, where any model looks about right."""
    inside = truth.notnull().all("coordinate").values
    spread = well_spread(inside, 2)
    if not spread:
        raise InvalidValueError(f"run {truth['run'].item()!r} has no patch of which the true place is known")
    return spread[-1]


def _rows(
    trace: Trace, layers: str, layer: str, places: Sequence[tuple[int, int]], truth: xr.DataArray
) -> list[list[Panel]]:
    options = reference_options(trace)
    masks = [annotation_of(trace, role).compute() for role in ("object", "reference_object")]
    maps = [
        ulam(trace, "r2g", layers=layers, keys=masks[1], **options).compute(),
        ulam(trace, "g2r", layers=layers, queries=masks[0], **options).compute(),
    ]
    soft = [list(planes(soft_map(values, mask).compute())) for values, mask in zip(maps, masks, strict=True)]
    scores = [imacs_of(values, mask).values for values, mask in zip(maps, masks, strict=True)]
    pictures, references = trace.images.values, trace.reference.values
    targets = annotation_of(trace, "target").values
    size = truth.sizes["y"], truth.sizes["x"]
    if "segment" in options:
        options["keys"] = options.pop("segment")
    rows = []
    for run, (y, x) in enumerate(places):
        (looks,) = planes(sram(trace.isel([run]), (y, x), layers=layer, keep=(), **options).compute())
        true = Mark(tuple(((truth.values[run, y, x] + 0.5) / looks.shape).tolist()), BLUE, "x")
        frame = Mark((y / size[0], x / size[1], (y + 1) / size[0], (x + 1) / size[1]), RED)
        cloth, worn = masks[1].values[run], masks[0].values[run]
        rows.append(
            [
                Panel(references[run], marks=(true,)),
                Panel(targets[run]),
                Panel(pictures[run], marks=(frame,)),
                Panel(references[run], looks, marks=(true,), caption=f"peak {looks.max() / looks.sum():.2f}"),
                Panel(
                    pictures[run], soft[0][run], limits=(0, 1), contour=worn, caption=f"IMACS$_g$ {scores[0][run]:.2f}"
                ),
                Panel(
                    references[run], soft[1][run], limits=(0, 1), contour=cloth,
                    caption=f"IMACS$_r$ {scores[1][run]:.2f}",
                ),
            ]
        )  # fmt: skip
    return rows


def change_bars(changes: Mapping[str, Mapping[str, Score]]) -> "Figure":
    """Bars of changes against the base, by model and then by measure, with their intervals."""
    names = list(next(iter(changes.values())))
    with drawing():
        figure, grid = axes_grid(1, cell=(4.6, 0.5 + 0.26 * len(names)))
        axes = grid[0, 0]
        for number, (other, scores_of) in enumerate(changes.items()):
            scores = [scores_of[name] for name in names]
            at = np.arange(len(names)) + (number - (len(changes) - 1) / 2) * 0.36
            label = "refined" if other == "refined" else "control: as long, without the losses"
            axes.barh(at, [score.value for score in scores], 0.32, color=COLOURS[1 - number], label=label)
            axes.errorbar(
                [score.value for score in scores], at, xerr=[score.ci95 for score in scores], fmt="none",
                ecolor="#333333", elinewidth=0.8, capsize=1.5,
            )  # fmt: skip
        axes.axvline(0, color="#333333", linewidth=0.6)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel("change against the base, mean over runs and 95 % interval (1)")
        axes.legend(loc="best")
    return figure

"""I2AM Fig. 11: R2G maps with and without classifier-free guidance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.aggregation.resample import resample
from attlas.analysis.maps import ulam
from attlas.analysis.metrics import iou
from attlas.analysis.recipes.figures import Panel, sheet
from attlas.analysis.recipes.recipe import Need, RecipeResult, Table, recipe
from attlas.analysis.recipes.reference import (
    area_of,
    bar,
    chosen_layers,
    first_runs,
    imacs_of,
    mean_of,
    planes,
    reference_options,
    soft_map,
)
from attlas.analysis.recipes.settings import settings_of
from attlas.analysis.roles import annotation_of
from attlas.analysis.scoring.masked import inside_of, mean_inside
from attlas.analysis.scoring.picture_metrics import psnr
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError

__all__ = ["fig11"]

MASKS = ("object", "reference_object", "target")


@recipe(
    "i2am-fig11",
    title="R2G with and without guidance, for the same seeds",
    paper="I2AM Fig. 11",
    stores=(Need("tryon", roles=MASKS, full=True), Need("tryon-guided", roles=MASKS, full=True)),
    comparable=False,
)
def fig11(traces: Sequence[Trace], *, progress: bool = True, samples: int = 3, layers: str = "decoder") -> RecipeResult:
    """Compare ULAM (R2G) of runs drawn without guidance with the same runs drawn with it, pair by pair."""
    shared = [name for name in traces[0].run_ids if name in set(traces[1].run_ids)]
    if not shared:
        raise InvalidValueError(
            f"{traces[0].where} and {traces[1].where} have no run in common; record the same requests twice, the "
            "second time with --guidance"
        )
    pair = {"without": traces[0].sel(shared), "with": traces[1].sel(shared)}
    measured: dict[str, dict[str, xr.DataArray]] = {}
    for name, trace in bar(pair.items(), "i2am-fig11", progress, "store"):
        measured[name] = _measures(trace, layers)
    rows = [
        (what, *(mean_of(measured[name][what]) for name in pair), mean_of(measured["with"][what] - values))
        for what, values in measured["without"].items()
    ]
    columns = ("measure", "without guidance", "with guidance", "difference, pair by pair")
    made = ulam(traces[0], "r2g", layers=chosen_layers(traces[0], layers), **reference_options(traces[0]))
    notes = [
        "Not comparable: the paper shows Paint-by-Example, whose one key makes R2G maps of weights that never act.",
        _verdict(rows),
        "Only the conditioned branch is mapped: without guidance there is no other.",
        "White outline: the inpainting mask. Ratio: mean inside the mask over mean outside, before normalisation.",
    ]
    return RecipeResult(
        [Table(f"R2G of {len(shared)} runs drawn twice, mean over runs", columns, rows)],
        {"ULAM (R2G) without and with guidance": _draw(pair, samples, layers)},
        notes,
        settings_of(
            traces, made, layers=layers, normalise="minmax", threshold="minmax 0.4 soft", penalty=3, invert="no"
        ),
    )


def _verdict(rows: Sequence[tuple[Any, ...]]) -> str:
    """Say whether attention is nearer to the mask with guidance, by IMACS_g over the object's keys."""
    change = next(row[-1] for row in rows if row[0] == "IMACS_g, object's keys")
    sure = abs(change.value) > change.ci95
    said = "rises" if change.value > 0 else "falls"
    found = f"{said} by {abs(change.value):.3f} +-{change.ci95:.3f}" if sure else "does not change beyond its interval"
    borne = "as the paper says" if sure and change.value > 0 else "so the paper's finding is not seen here"
    return (
        f"The paper: without guidance attention spreads beyond the mask. Here IMACS_g with guidance {found}: {borne}."
    )


def _maps(trace: Trace, layers: str) -> dict[str, xr.DataArray]:
    options = {"layers": chosen_layers(trace, layers), **reference_options(trace)}
    return {
        "all keys": ulam(trace, "r2g", **options).compute(),
        "object's keys": ulam(trace, "r2g", keys=annotation_of(trace, "reference_object"), **options).compute(),
    }


def _measures(trace: Trace, layers: str) -> dict[str, xr.DataArray]:
    """Numbers of each run, by name."""
    mask = annotation_of(trace, "object").compute()
    told: dict[str, xr.DataArray] = {}
    for name, values in _maps(trace, layers).items():
        soft = soft_map(values, mask).compute()
        whole = resample(values, (mask.shape[1], mask.shape[2])).compute()
        inside, dims = inside_of(whole, mask)
        told |= {
            f"IMACS_g, {name}": imacs_of(values, mask),
            f"IoU with the mask, {name}": iou(soft, mask),
            f"ratio inside to outside, {name}": mean_inside(whole, inside, dims) / mean_inside(whole, 1 - inside, dims),
            f"area, {name}": xr.DataArray(area_of(values), {"run": values["run"]}, ("run",)),
        }
    told["PSNR inside the object, dB"] = psnr(trace.images, annotation_of(trace, "target"), mask).compute()
    return {name: own.astype(np.float64).drop_vars([c for c in own.coords if c != "run"]) for name, own in told.items()}


def _draw(pair: dict[str, Trace], samples: int, layers: str) -> Any:
    columns: list[tuple[str, list[Panel]]] = []
    for name, trace in pair.items():
        shown = first_runs(trace, samples)
        masks = annotation_of(shown, "object")
        pictures = shown.images.values
        columns.append((f"{name}\nguidance", [Panel(picture) for picture in pictures]))
        for part, values in _maps(shown, layers).items():
            soft = planes(soft_map(values, masks).compute())
            scores = imacs_of(values, masks).values
            panels = [
                Panel(picture, own, caption=f"IMACS$_g$ {score:.2f}", limits=(0, 1), contour=mask)
                for picture, own, score, mask in zip(pictures, soft, scores, masks.values, strict=True)
            ]
            columns.append((f"$M_g$, {name}\n{part}", panels))
    return sheet(
        [list(row) for row in zip(*(panels for _, panels in columns), strict=True)],
        row_labels=list(first_runs(pair["without"], samples).run_ids),
        column_labels=[name for name, _ in columns],
        bar="attention, min-max normalised, below 0.4 set to 0 (1)",
    )

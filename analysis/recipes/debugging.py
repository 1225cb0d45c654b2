"""I2AM Table 2 and Fig. 10 and 15: a model before and after its attention was refined."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.aggregation.selection import pick_parts
from attlas.analysis.maps import llam, ulam
from attlas.analysis.metrics import pck, psnr, ssim
from attlas.analysis.recipes.debugging_figures import before_and_after, change_bars
from attlas.analysis.recipes.recipe import Need, RecipeResult, Table, recipe
from attlas.analysis.recipes.reference import bar, imacs_of, mean_of, reference_options
from attlas.analysis.recipes.settings import settings_of
from attlas.analysis.registry import statistic_of
from attlas.analysis.roles import annotation_of
from attlas.analysis.scoring.reference_scores import sram_peaks, true_patches
from attlas.analysis.scoring.score_table import Score
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError

__all__ = ["table2"]

KNOWN = ("correspondence", "object", "reference_object", "target")
NAMES = ("base", "refined", "control")
PAPER = {
    "DCI-VTON": (13.0953, 0.0334, 0.0824, 0.8612, 0.0785, None),
    "StableVITON": (10.6755, 0.0064, 0.0817, 0.8634, 0.3083, 0.3388),
    "Custom": (11.6572, 0.0042, 0.1020, 0.8396, 0.0833, 0.0403),
    "Refined custom": (11.5420, 0.0022, 0.0964, 0.8644, 0.2215, 0.0948),
}
"""FID, KID, LPIPS, SSIM, IMACS_g and IMACS_r as printed; the authors give no intervals."""

PAPER_GAIN = {"SSIM": 0.8644 - 0.8396, "IMACS_g": 0.2215 - 0.0833, "IMACS_r": 0.0948 - 0.0403}
DIAGNOSTICS = ("dcml", "tv", "cwg")


@recipe(
    "i2am-table2",
    title="A model before and after its attention was refined",
    paper="I2AM Table 2 and Fig. 10, 15",
    stores=(Need("tryon", roles=KNOWN, full=True), Need("tryon-refined", roles=KNOWN, full=True)),
    optional=(Need("tryon-control", roles=KNOWN, full=True),),
    comparable=False,
)
def table2(
    traces: Sequence[Trace],
    *,
    progress: bool = True,
    samples: int = 3,
    layers: str | None = None,
    refined_layer: str | None = None,
) -> RecipeResult:
    """Score base, refined and control on the same requests, with intervals of the differences pair by pair.

    `layers` are those of maps and PCK, by default the finest grid; `refined_layer` is the one whose own numbers are
    told, by default the one whose SRAM finds the true patch most often in the base, which is how the paper chose its.
    """
    shared = [name for name in traces[0].run_ids if name in traces[1].run_ids]
    if not shared:
        raise InvalidValueError(
            f"{traces[0].where} and {traces[1].where} have no run in common; record the same requests with both models"
        )
    models = {
        name: trace.sel([run for run in shared if run in trace.run_ids])
        for name, trace in zip(NAMES, traces, strict=False)
    }
    kind = reference_options(models["base"])["kind"]
    # Leaves of a kind stand finest first.
    chosen = layers or next(leaf.grid for leaf in models["base"].leaves.values() if leaf.kind == kind)
    layer = refined_layer or _best_layer(models["base"], chosen)
    measured = {
        name: _measures(trace, chosen, layer) for name, trace in bar(models.items(), "i2am-table2", progress, "store")
    }
    reference = annotation_of(models["base"], "reference_object")
    made = ulam(models["base"], "r2g", layers=chosen, keys=reference, **reference_options(models["base"]))
    return RecipeResult(
        [_as_printed(measured), _differences(measured)],
        {
            "Before and after: the picture, where the marked patch looks, and both maps": before_and_after(
                models, chosen, layer, samples
            ),
            "Change against the base, pair by pair, with 95 % intervals": change_bars(_changes(measured)),
        },
        _notes(measured, layer),
        settings_of(
            list(models.values()),
            made,
            normalise="minmax",
            threshold="minmax 0.4 soft",
            penalty=3,
            invert="no",
            refined_layer=layer,
            interval="95 %, 1.96 standard errors over runs; differences are of the same run",
        ),
    )


def _best_layer(trace: Trace, layers: str) -> str:
    kind = reference_options(trace)["kind"]
    paths = [path for part in pick_parts(trace, kind, layers, None) for path in part.labels]
    found = {path: float(_pck(trace, path).mean()) for path in paths}
    return max(found, key=lambda path: found[path])


def _pck(trace: Trace, layers: str) -> xr.DataArray:
    kind = reference_options(trace)["kind"]
    return pck(sram_peaks(trace, kind, layers), true_patches(trace, kind, layers), 1).compute()


def _measures(trace: Trace, layers: str, layer: str) -> dict[str, xr.DataArray]:
    """Numbers of each run, by name; IMACS and PCK are the higher the better, and so is SSIM."""
    options = reference_options(trace)
    own, *others = pick_parts(trace, options["kind"], layer, None)
    if others:
        raise InvalidValueError(f"refined_layer {layer!r} names layers of several grids; name one layer")
    kept = [path for part in pick_parts(trace, options["kind"], layers, None) for path in part.labels]
    roles = ("object", "reference_object", "target")
    mask, reference, target = (annotation_of(trace, role).compute() for role in roles)
    # Sums over layers are linear: one pass over the attention gives the maps of any set of them.
    to_generated = llam(trace, "r2g", keys=reference, **options).compute()
    to_reference = llam(trace, "g2r", queries=mask, **options).compute()
    told = {
        "SSIM": ssim(trace.images, target),
        "SSIM inside the object": ssim(trace.images, target, mask),
        "PSNR inside the object, dB": psnr(trace.images, target, mask),
        "IMACS_g": imacs_of(to_generated.sel(layer=kept).sum("layer"), mask),
        "IMACS_g, all keys": imacs_of(ulam(trace, "r2g", layers=layers, **options), mask),
        "IMACS_g, all layers": imacs_of(to_generated.sum("layer"), mask),
        "IMACS_r": imacs_of(to_reference.sel(layer=kept).sum("layer"), reference),
        "PCK@1": _pck(trace, layers),
        "refined layer: IMACS_g": imacs_of(to_generated.sel(layer=list(own.labels)).sum("layer"), mask),
        "refined layer: IMACS_r": imacs_of(to_reference.sel(layer=list(own.labels)).sum("layer"), reference),
        "refined layer: PCK@1": _pck(trace, layer),
    }
    # As SRAM, of the attention averaged over t, which is stored.
    source = "attention_mean" if trace.holds(own.name, "attention_mean") else "full"
    for name in DIAGNOSTICS:
        values = statistic_of(name).function(trace, layers=layer, keep=(), source=source)
        told[f"refined layer: {name.upper()} (low is good)"] = values
    return {name: own.astype(np.float64).reset_coords(drop=True).compute() for name, own in told.items()}


def _difference(measured: Mapping[str, Mapping[str, xr.DataArray]], name: str, one: str, other: str) -> Score | None:
    """`one` minus `other`, of the runs that both have."""
    if one not in measured or other not in measured:
        return None
    first, second = xr.align(measured[one][name], measured[other][name], join="inner")
    return mean_of(first - second)


def _changes(measured: Mapping[str, Mapping[str, xr.DataArray]]) -> dict[str, dict[str, Score]]:
    """Give changes of what lies between 0 and 1; PSNR and the losses are in the table."""
    names = [name for name in measured["base"] if "dB" not in name and "low is good" not in name]
    made: dict[str, dict[str, Score]] = {}
    for other in ("refined", "control"):
        found = {name: _difference(measured, name, other, "base") for name in names}
        if all(score is not None for score in found.values()):
            made[other] = {name: score for name, score in found.items() if score is not None}
    return made


def _as_printed(measured: Mapping[str, Mapping[str, xr.DataArray]]) -> Table:
    """Rows as in the paper's table, ours first."""
    rows: list[tuple[Any, ...]] = []
    for name in ("base", "control", "refined"):
        if name in measured:
            own = {what: mean_of(values) for what, values in measured[name].items()}
            shown = (own["SSIM"], own["IMACS_g"], own["IMACS_r"], own["PCK@1"])
            rows.append((f"ours: {name}", None, None, None, *shown))
    rows += [(f"paper: {name}", *values, None) for name, values in PAPER.items()]
    columns = ("model", "FID", "KID", "LPIPS", "SSIM", "IMACS_g", "IMACS_r", "PCK@1")
    return Table("the paper's table, and ours above it", columns, rows)


def _differences(measured: Mapping[str, Mapping[str, xr.DataArray]]) -> Table:
    given = [name for name in ("base", "control", "refined") if name in measured]
    pairs = [("refined", "base"), ("refined", "control"), ("control", "base")]
    pairs = [pair for pair in pairs if set(pair) <= set(given)]
    rows = [
        (
            what,
            *(mean_of(measured[name][what]) for name in given),
            *(_difference(measured, what, *pair) for pair in pairs),
            PAPER_GAIN.get(what),
        )
        for what in measured["base"]
    ]
    columns = ("measure", *given, *(f"{one} - {other}" for one, other in pairs), "paper: refined - custom")
    return Table(f"{measured['base']['SSIM'].sizes['run']} held-out requests, mean over runs", columns, rows)


def _notes(measured: Mapping[str, Mapping[str, xr.DataArray]], layer: str) -> list[str]:
    notes = [
        "Not comparable in value: the paper's rows are of VITON-HD at 512x384 and of other models.",
        "FID, KID and LPIPS are not computed: they need a trained feature network and thousands of pictures.",
        "IMACS_g is of R2G maps over the reference object's patches, IMACS_r of G2R maps of the object's queries.",
        (
            f"The refined layer is {layer}: in the base its SRAM finds the true patch most often. In the demo the "
            "losses saw no other, and its mean over heads; its DCML, TV and CWG here are of each head, averaged over t."
        ),
        (
            "Pictures: red frame, the marked patch; blue cross, its true place; white outline, the mask of the score; "
            "peak, the share of the brightest patch in the attention on patches."
        ),
    ]
    for what in ("IMACS_g", "IMACS_r", "PCK@1", "SSIM", "refined layer: IMACS_g", "refined layer: PCK@1"):
        notes.append(_verdict(what, _difference(measured, what, "refined", "base"), "the base"))
        beside = _difference(measured, what, "refined", "control")
        if beside is not None:
            notes.append(_verdict(what, beside, "the control, which was trained as long without the losses"))
    if "control" in measured:
        notes.append(f"The control was drawn for {measured['control']['SSIM'].sizes['run']} of the requests.")
    else:
        notes.append("Without a control a gain may be that of longer training; give its store as the third.")
    return notes


def _verdict(what: str, gain: Score | None, other: str) -> str:
    """Say what the interval allows to say."""
    if gain is None or not np.isfinite(gain.ci95):
        return f"{what}: refined against {other}: too few runs for an interval."
    low, high = gain.value - gain.ci95, gain.value + gain.ci95
    word = "higher than" if low > 0 else "lower than" if high < 0 else "not told from"
    return f"{what}: refined is {word} {other} ({gain.value:+.4f}, 95 % interval {low:+.4f} to {high:+.4f})."

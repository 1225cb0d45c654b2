"""I2AM Table 4: IMACS for several penalty factors, which eq. 8 makes a straight line."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.maps import ulam
from attlas.analysis.metrics import imacs
from attlas.analysis.papers.i2am import transform
from attlas.analysis.recipes.figures import COLOURS, Line, axes_grid, curves, drawing
from attlas.analysis.recipes.recipe import Need, RecipeResult, Table, recipe
from attlas.analysis.recipes.reference import TAU, bar, chosen_layers, mean_of, reference_options
from attlas.analysis.recipes.settings import labels_of, settings_of
from attlas.analysis.roles import annotation_of
from attlas.analysis.scoring.picture_metrics import psnr, ssim
from attlas.analysis.trace import Trace

__all__ = ["PAPER_TABLE", "slopes", "table4"]

LAMBDAS = (1, 3, 5, 10)
PAPER_TABLE: dict[str, tuple[float, float, float, float]] = {
    "DCI-VTON, g": (0.4291, 0.0785, -0.3051, -1.2155),
    "StableVITON, g": (0.5376, 0.3083, 0.07, -0.1219),
    "Custom, g": (0.2352, 0.0833, -0.1901, -0.4579),
    "Refined custom, g": (0.4675, 0.2215, 0.029, -0.3105),
    "StableVITON, r": (0.3534, 0.3388, 0.3211, 0.301),
    "Custom, r": (0.0677, 0.0403, 0.0091, -0.0527),
    "Refined custom, r": (0.1249, 0.0948, 0.0513, 0.0112),
}
"""IMACS of the paper's Table 4 at lambda 1, 3, 5 and 10; DCI-VTON has one key and so no IMACS_r."""
ROUNDED = 5e-5
"""Half of the last digit that the paper prints."""
LINE_COLUMNS = ("map", "slope 1 to 3", "slope 3 to 5", "slope 5 to 10", "slopes differ by", "rounding allows", "line")
RELATED_COLUMNS = ("map", "lambda", "with PSNR of the object", "with SSIM of the object", "runs")
MASKS = ("object", "reference_object", "target")


@recipe(
    "i2am-table4",
    title="IMACS for penalty factors 1, 3, 5, 10: a straight line by eq. 8",
    paper="I2AM Table 4",
    stores=(Need("tryon", roles=MASKS, full=True),),
    optional=(Need("tryon-random", roles=MASKS, full=True), Need("tryon-refined", roles=MASKS, full=True)),
    comparable=False,
)
def table4(
    traces: Sequence[Trace], *, progress: bool = True, layers: str = "decoder", lambdas: Sequence[float] = LAMBDAS
) -> RecipeResult:
    """Sweep lambda over ours, lay the paper's rows beside, and test both for the straight line that eq. 8 demands."""
    ours: dict[str, dict[float, xr.DataArray]] = {}
    related = []
    for label, trace in bar(list(zip(labels_of(traces), traces, strict=True)), "i2am-table4", progress, "store"):
        for name, soft, mask in _soft_maps(trace, layers):
            swept = {penalty: imacs(soft, mask, penalty=penalty).compute() for penalty in lambdas}
            ours[f"{label}, {name}"] = swept
            if name.startswith("g"):
                related += _related(trace, f"{label}, {name}", swept)
    means = {name: {penalty: mean_of(values) for penalty, values in swept.items()} for name, swept in ours.items()}
    rows = [(name, *swept.values()) for name, swept in means.items()]
    rows += [(f"paper: {name}", *_printed(values, lambdas)) for name, values in PAPER_TABLE.items()]
    tables = [
        Table("IMACS by lambda, mean over runs", ("map", *(f"lambda {own:g}" for own in lambdas)), rows),
        Table("is it a straight line?", LINE_COLUMNS, _lines(ours, lambdas)),
        Table("correlation over runs of IMACS_g with picture scores, by lambda", RELATED_COLUMNS, related),
    ]
    notes = [
        "Not comparable as numbers: the paper's rows are VITON-HD with its models. Their shape is: eq. 8 is the same.",
        (
            "Eq. 8 is (mean inside) - lambda (mean outside), so that IMACS of one set of maps is a straight line in "
            "lambda: its slope is minus the mean outside. Ours is; its error is rounding in float32."
        ),
        (
            "No row of the paper is one within its printed digits, e.g. StableVITON g: slopes -0.115, -0.119, -0.038. "
            "They cannot come from one set of maps under eq. 8 with these lambdas."
        ),
        (
            "'As released': G2R multiplied by the reference object's mask before it is normalised, so that almost "
            "nothing is left outside to be penalised; the paper's flat IMACS_r can come from there."
        ),
    ]
    trace = traces[0]
    made = ulam(trace, "r2g", layers=chosen_layers(trace, layers), **reference_options(trace))
    told = {"direction": "r2g (g), g2r (r)", "onto": "the side of each direction", "layers": layers}
    rules: dict[str, Any] = {"normalise": "minmax", "threshold": f"minmax {TAU} soft", "invert": "no"}
    return RecipeResult(
        tables,
        {"IMACS of ours by lambda, and the change of slope in the paper's rows": _draw(means)},
        notes,
        settings_of(traces, made, **told, **rules),
    )


def slopes(values: Sequence[float], lambdas: Sequence[float]) -> list[float]:
    """Rise of IMACS from each lambda to the next, by unit of lambda.

    Examples
    --------
    >>> [round(own, 3) for own in slopes(PAPER_TABLE["StableVITON, g"], (1, 3, 5, 10))]
    [-0.115, -0.119, -0.038]
    """
    return np.divide(np.diff(values), np.diff(lambdas)).tolist()  # type: ignore[no-any-return]


def _soft_maps(trace: Trace, layers: str) -> list[tuple[str, xr.DataArray, xr.DataArray]]:
    """Make maps as they are scored, with their masks: both directions over all patches, and others that tell more."""
    options = {"layers": chosen_layers(trace, layers), **reference_options(trace)}
    mask, reference = (annotation_of(trace, role).compute() for role in MASKS[:2])
    over_object = ulam(trace, "r2g", keys=reference, **options)
    g, r = ulam(trace, "r2g", **options), ulam(trace, "g2r", **options)
    shapes = [(own.shape[1], own.shape[2]) for own in (mask, reference)]
    return [
        ("g", transform(g, shapes[0]).compute(), mask),
        ("g over the object's keys", transform(over_object, shapes[0]).compute(), mask),
        ("r", transform(r, shapes[1]).compute(), reference),
        ("r as released", transform(r, shapes[1], variant="released", mask=reference).compute(), reference),
    ]


def _printed(values: Sequence[float], lambdas: Sequence[float]) -> list[float | None]:
    known = dict(zip(LAMBDAS, values, strict=True))
    return [known.get(int(own)) if own == int(own) else None for own in lambdas]


def _lines(ours: Mapping[str, Mapping[float, xr.DataArray]], lambdas: Sequence[float]) -> list[tuple[Any, ...]]:
    """Slopes between the paper's lambdas, how far they are apart, and how far rounding could put them."""
    rows = []
    if tuple(lambdas) == LAMBDAS:
        for name, swept in ours.items():
            values = [float(own.astype(np.float64).mean()) for own in swept.values()]
            rows.append(_line(name, values, 1e-6))
    rows += [_line(f"paper: {name}", values, ROUNDED) for name, values in PAPER_TABLE.items()]
    return rows


def _line(name: str, values: Sequence[float], off: float) -> tuple[Any, ...]:
    """One row; each value may be off by `off`, so two slopes over distances a and b may differ by 2 off (1/a + 1/b)."""
    own = slopes(values, LAMBDAS)
    steps = np.diff(LAMBDAS)
    pairs = [(0, 1), (0, 2), (1, 2)]
    apart = max(abs(own[a] - own[b]) for a, b in pairs)
    allowed = max(2 * off * (1 / steps[a] + 1 / steps[b]) for a, b in pairs)
    straight = all(abs(own[a] - own[b]) <= 2 * off * (1 / steps[a] + 1 / steps[b]) for a, b in pairs)
    return name, *own, apart, float(allowed), "yes" if straight else "no"


def _related(trace: Trace, name: str, swept: Mapping[float, xr.DataArray]) -> list[tuple[Any, ...]]:
    target, mask = annotation_of(trace, "target"), annotation_of(trace, "object")
    scores = [own(trace.images, target, mask).compute() for own in (psnr, ssim)]
    return [
        (name, penalty, *(float(xr.corr(values, own)) for own in scores), int(values.notnull().sum()))
        for penalty, values in swept.items()
    ]


def _draw(means: Mapping[str, Mapping[float, Any]]) -> Any:
    """Draw IMACS of ours by lambda, and how the slope of each of the paper's rows changes from its first."""
    middles = ["1 to 3", "3 to 5", "5 to 10"]
    rows = {name: [score.value for score in swept.values()] for name, swept in means.items()}
    with drawing():
        figure, axes = axes_grid(1, 2, cell=(5.4, 2.0))
        ours = {
            name: Line(list(means[name]), values, options=_look(place))
            for place, (name, values) in enumerate(rows.items())
        }
        curves(axes[0][0], ours, x="lambda", y="IMACS (1)", title="ours", legend=False)
        axes[0][0].set_xticks(list(LAMBDAS))
        relative = {name: Line(middles, _relative(values)) for name, values in PAPER_TABLE.items()}
        relative["a straight line, as ours"] = Line(middles, [1, 1, 1], options={"color": "#888888", "linestyle": "--"})
        curves(axes[1][0], relative, x="lambda", y="slope / first slope (1)", title="the paper's rows", legend=False)
        axes[1][0].set_ylim(0, None)
        for axis in axes[:, 0]:
            axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def _relative(values: Sequence[float]) -> list[float]:
    first, *_ = own = slopes(values, LAMBDAS)
    return [slope / first for slope in own]


def _look(place: int) -> dict[str, Any]:
    """Four maps a store: a colour for the store, a line for the map."""
    return {"color": COLOURS[place // 4], "linestyle": ("-", "--", ":", "-.")[place % 4], "marker": "osD^"[place % 4]}

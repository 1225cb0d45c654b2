"""A finished survey as a figure: distributions by group, correlations, and mean maps."""

import math
from typing import Any

import numpy as np

from attlas.analysis.surveys.result import Survey
from attlas.schemas.errors import InvalidValueError

__all__ = ["GROUPS", "draw"]

GROUPS = 24
"""Most groups of a statistic that are drawn."""

STYLE = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "savefig.bbox": "tight",
}
POINT, MEAN = "#8fa9c4", "#1b3a5c"
COLUMN = 3.4
"""Width of a panel, that of a column of a paper, in inches."""


def draw(survey: Survey) -> Any:
    """Matplotlib figure with a panel for each statistic, pair and map.

    A statistic shows its numbers run by run, its mean and the 95 % interval of it, for each group and label; where
    runs are not kept one by one, mean and interval alone. A pair shows a point a run, by group.

    Raises
    ------
    InvalidValueError
        If a statistic has more than 24 groups.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    maps = survey.attrs["maps"]
    panels: list[Any] = [(_distribution, name) for name in survey.parts if name not in maps]
    panels += [(_scatter, pair) for pair in survey.correlations]
    panels += [(_map, name) for name in maps]
    with rc_context(STYLE):
        across = min(3, len(panels))
        down = math.ceil(len(panels) / across)
        heights = [
            max(_height(survey, what) for _, what in panels[row * across : (row + 1) * across]) for row in range(down)
        ]
        figure = Figure(figsize=(COLUMN * across, sum(heights)), layout="constrained")
        grid = figure.add_gridspec(down, across, height_ratios=heights)
        for place, (draw_one, what) in enumerate(panels):
            draw_one(grid[place // across, place % across], survey, what)
        if any(draw_one is _distribution for draw_one, _ in panels):
            figure.supxlabel("Dots are runs; marks are means with their 95 % interval.", fontsize=6, x=0.01, ha="left")
    return figure


def _height(survey: Survey, what: Any) -> float:
    if isinstance(what, tuple) or what in survey.attrs["maps"]:
        return 2.8
    return max(1.5, 0.8 + 0.36 * len(_cells(survey, what)))


def _cells(survey: Survey, name: str) -> list[tuple[int, ...]]:
    """Places of the cells of a statistic that have runs."""
    found = [tuple(map(int, place)) for place in np.argwhere(survey[name]["n"].values > 0)]
    if len(found) > GROUPS:
        raise InvalidValueError(
            f"{name!r} has {len(found)} groups; up to {GROUPS} fit a figure: group by another label, or write FILE.csv"
        )
    return found


def _distribution(place: Any, survey: Survey, name: str) -> None:
    axes = place.get_gridspec().figure.add_subplot(place)
    made, cells = survey[name], _cells(survey, name)
    mean = made["mean"]
    rng = np.random.default_rng(0)
    for row, cell in enumerate(cells):
        own = _runs(survey, name, cell)
        axes.plot(own, row + rng.uniform(-0.22, 0.22, len(own)), ".", color=POINT, markersize=3, zorder=1)
        centre = float(mean.values[cell])
        half = float(made["high"].values[cell]) - centre
        axes.errorbar(
            centre, row, xerr=None if math.isnan(half) else half, fmt="o", color=MEAN, markersize=4, capsize=3, zorder=3
        )
    labels = [" ".join(str(mean[dim].values[at]) for dim, at in zip(mean.dims, cell, strict=True)) for cell in cells]
    counts = [int(made["n"].values[cell]) for cell in cells]
    axes.set_yticks(
        range(len(cells)), [f"{label}\nn={n}" if label else f"n={n}" for label, n in zip(labels, counts, strict=True)]
    )
    axes.set_ylim(len(cells) - 0.5, -0.5)
    unit = "" if mean.attrs["units"] == "1" else f" [{mean.attrs['units']}]"
    axes.set_xlabel(f"{name}{unit}")


def _runs(survey: Survey, name: str, place: tuple[int, ...]) -> Any:
    """Numbers of the runs of one cell; none where they are not kept one by one."""
    if name not in survey.scores:
        return np.empty(0)
    values, mean = survey.scores[name], survey[name]["mean"]
    for dim, at in zip(mean.dims, place, strict=True):
        label = mean[dim].values[at]
        if dim in values.dims and dim != "run":
            values = values.sel({dim: label})
        elif dim in values.coords:
            values = values.where(values[dim] == label)
    flat = values.values.ravel()
    return flat[np.isfinite(flat)]


def _scatter(place: Any, survey: Survey, pair: tuple[str, str]) -> None:
    from matplotlib import colormaps

    axes = place.get_gridspec().figure.add_subplot(place)
    made, scores = survey.correlations[pair], survey.scores
    kept = [name in scores and scores[name].dims == ("run",) for name in pair]
    if not all(kept):
        raise InvalidValueError(f"{' and '.join(pair)} have many numbers a run; a scatter needs one")
    x, y = (scores[name].values for name in pair)
    dims = made["n"].dims
    colours = colormaps["tab10"](range(10))
    for count, cell in enumerate(np.ndindex(*made["n"].shape)):
        own = np.ones(len(x), dtype=bool)
        for dim, at in zip(dims, cell, strict=True):
            own &= np.array([label == made[dim].values[at] for label in scores[str(dim)].values], dtype=bool)
        picked = {key: float(values.values[cell]) for key, values in made.items()}
        label = " ".join(str(made[dim].values[at]) for dim, at in zip(dims, cell, strict=True))
        told = f"r = {picked['pearson']:.2f} [{picked['low']:.2f}, {picked['high']:.2f}], n = {int(picked['n'])}"
        colour = colours[count % len(colours)] if dims else MEAN
        axes.plot(
            x[own], y[own], ".", markersize=4, color=colour, alpha=0.7, label=f"{label}: {told}" if label else told
        )
    axes.set_xlabel(pair[0])
    axes.set_ylabel(pair[1])
    axes.legend(fontsize=6, loc="lower left", bbox_to_anchor=(-0.15, 1.0), handletextpad=0.2)


def _map(place: Any, survey: Survey, name: str) -> None:
    mean, counts = survey[name]["mean"], survey[name]["n"]
    lead = mean.dims[:-2]
    places = list(np.ndindex(*mean.shape[:-2]))
    if len(places) > GROUPS:
        raise InvalidValueError(f"{name!r} has {len(places)} maps; up to {GROUPS} fit a figure: write FILE.nc")
    across = math.ceil(math.sqrt(len(places)))
    grid = place.subgridspec(math.ceil(len(places) / across), across)
    figure, drawn = place.get_gridspec().figure, []
    low, high = float(np.nanmin(mean.values)), float(np.nanmax(mean.values))
    for count, at in enumerate(places):
        axes = figure.add_subplot(grid[count // across, count % across])
        image = axes.imshow(mean.values[at], cmap="inferno", interpolation="nearest", vmin=low, vmax=high)
        axes.set_xticks([])
        axes.set_yticks([])
        label = " ".join(str(mean[dim].values[where]) for dim, where in zip(lead, at, strict=True))
        head = f"{name}, mean of runs\n" if count == 0 else ""
        axes.set_title(f"{head}{label}{' ' if label else ''}(n={int(counts.values[at].max())})", fontsize=7)
        drawn.append(axes)
    figure.colorbar(image, ax=drawn, shrink=0.8)

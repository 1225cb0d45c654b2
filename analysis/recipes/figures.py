"""Drawing pieces that the recipes share: one look, sized in inches for a page of a paper."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attlas.analysis.aggregation.resample import resample_values
from attlas.analysis.output.overlay import colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BLUE", "COLOURS", "OWN_SCALE", "RED", "Line", "Mark", "Panel", "axes_grid", "curves", "drawing", "sheet"]

STYLE: dict[str, Any] = {
    # DejaVu Sans comes with matplotlib: the same picture on every machine.
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.04,
}
# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
BLUE, RED = "#00a2ff", "#ff2a2a"
OWN_SCALE = "attention, each map min-max normalised (1)"
DETAIL = 320
"""Pixels along the longer side of a panel before it is printed: a panel of an inch at 300 dpi."""


@dataclass(frozen=True)
class Mark:
    """A frame around cells, or a cross at a point, in fractions of the picture: y down, x right.

    A frame is ``(top, left, bottom, right)``; a point is ``(y, x)``.
    """

    place: tuple[float, ...]
    colour: str = RED
    sign: str = "o"


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet: a picture, a map, or a map over a picture, with marks and a line below.

    ``limits`` are the values at the ends of the colour scale; by default the map's own. ``contour`` is a mask of any
    size whose outline is drawn.
    """

    picture: NDArray[Any] | None = None
    values: NDArray[Any] | None = None
    smooth: bool = False
    marks: Sequence[Mark] = ()
    caption: str = ""
    limits: tuple[float, float] | None = None
    contour: NDArray[Any] | None = None


@dataclass(frozen=True)
class Line:
    """A curve with an optional band, for `curves`."""

    x: Sequence[Any]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in the common style, and leave matplotlib's settings as they were."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        yield


def sheet(
    rows: Sequence[Sequence[Panel | None]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    bar: str | None = OWN_SCALE,
    bar_limits: tuple[float, float] = (0.0, 1.0),
    cell: float = 0.86,
    title: str = "",
) -> "Figure":
    r"""Panels in labelled rows and columns, with one colour bar for all.

    Parameters
    ----------
    rows
        Panels row by row; None leaves a gap, and so does a row that is shorter than others.
    row_labels, column_labels
        To the left and above; lines are broken at ``\n``.
    bar
        What the colours mean, with its unit; None draws no bar.
    bar_limits
        Values at the ends of the bar.
    cell
        Width of a panel in inches.
    title
        Above everything.
    """
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    ratio = max((_ratio(panel) for row in rows for panel in row if panel is not None), default=1.0)
    lines = max((panel.caption.count("\n") + 1 for row in rows for panel in row if panel and panel.caption), default=0)
    gap, below = 0.05, 0.115 * lines + (0.03 if lines else 0)
    left = 0.06 * max((len(line) for label in row_labels for line in label.split("\n")), default=0) + 0.06
    top = 0.125 * max((label.count("\n") + 1 for label in column_labels), default=0) + (0.24 if title else 0) + 0.05
    right = 0.55 if bar else 0.05
    height = cell * ratio
    wide = left + columns * cell + (columns - 1) * gap + right
    high = top + len(rows) * (height + below) + (len(rows) - 1) * gap + 0.04
    with drawing():
        figure = Figure(figsize=(wide, high))
        for place, row in enumerate(rows):
            bottom = high - top - place * (height + below + gap) - height
            for column, panel in enumerate(row):
                if panel is None:
                    continue
                x = left + column * (cell + gap)
                axes = figure.add_axes((x / wide, bottom / high, cell / wide, height / high))
                paint(axes, panel)
            if place < len(row_labels):
                words = row_labels[place]
                where = ((left - 0.06) / wide, (bottom + height / 2) / high)
                figure.text(*where, words, ha="right", va="center", linespacing=1.15)
        for column, words in enumerate(column_labels):
            x = left + column * (cell + gap) + cell / 2
            figure.text(x / wide, (high - top + 0.06) / high, words, ha="center", va="baseline", linespacing=1.15)
        if title:
            figure.text(left / wide, (high - 0.02) / high, title, ha="left", va="top", weight="bold", size=8)
        if bar:
            inner = min(2.2, high - top - below - 0.04)
            x = left + columns * (cell + gap) + 0.03
            place_of = (x / wide, (high - top - inner) / high, 0.09 / wide, inner / high)
            colour_bar(figure.add_axes(place_of), bar, bar_limits)
    return figure


def _ratio(panel: Panel) -> float:
    base = panel.picture if panel.picture is not None else panel.values
    return 1.0 if base is None else base.shape[0] / base.shape[1]


def paint(axes: "Axes", panel: Panel) -> None:
    """Draw one panel into `axes`: no ticks, marks on top, caption below."""
    from matplotlib.patches import Rectangle

    pixels = painted(panel)
    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(0, 1, 1, 0), aspect="auto", interpolation="antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.4, color="#777777")
    if panel.contour is not None:
        outline(axes, panel.contour)
    for mark in panel.marks:
        if len(mark.place) == 4:
            y, x, bottom, right = mark.place
            for colour_, line in (("white", 2.0), (mark.colour, 1.1)):
                axes.add_patch(Rectangle((x, y), right - x, bottom - y, fill=False, edgecolor=colour_, linewidth=line))
        else:
            y, x = mark.place
            hollow: dict[str, Any] = {
                "markerfacecolor": "none",
                "markersize": 5.5,
                "linestyle": "none",
                "clip_on": False,
            }
            for colour_, line in (("white", 2.0), (mark.colour, 1.0)):
                axes.plot(x, y, mark.sign, markeredgecolor=colour_, markeredgewidth=line, **hollow)
    axes.set_xlim(0, 1)
    axes.set_ylim(1, 0)
    if panel.caption:
        axes.text(0.5, -0.035 * width / height, panel.caption, transform=axes.transAxes, ha="center", va="top", size=6)


def outline(axes: "Axes", mask: NDArray[Any]) -> None:
    """Draw the outline of a mask along the edges of its pixels."""
    factor = max(1, DETAIL // max(mask.shape))
    # Enlarged, the line between two pixels lies on their edge; the frame of zeros closes it at the picture's border.
    large = np.pad((np.asarray(mask) > 0).astype(np.float32).repeat(factor, 0).repeat(factor, 1), 1)
    y, x = ((np.arange(size) - 0.5) / (size - 2) for size in large.shape)
    for colour_, line in (("black", 1.4), ("white", 0.7)):
        axes.contour(x, y, large, levels=[0.5], colors=colour_, linewidths=line)


def painted(panel: Panel) -> NDArray[np.uint8]:
    """RGB pixels of a panel, enlarged: pictures crisp, maps as cells or smooth, stronger where the value is higher."""
    base = panel.picture if panel.picture is not None else panel.values
    if base is None:
        raise ValueError("a panel needs a picture or a map")
    factor = max(1, DETAIL // max(base.shape[:2]))
    shape = (base.shape[0] * factor, base.shape[1] * factor)
    pixels = None
    if panel.picture is not None:
        pixels = np.asarray(panel.picture, np.float32).repeat(factor, 0).repeat(factor, 1)
    if panel.values is None:
        return np.asarray(pixels, np.float32).round().astype(np.uint8)
    low, high = panel.limits or (float(np.nanmin(panel.values)), float(np.nanmax(panel.values)))
    scaled = (np.asarray(panel.values, np.float32) - low) / (high - low if high > low else 1)
    large = resample_values(scaled, shape, "bilinear" if panel.smooth else "nearest")
    large = np.nan_to_num(large.clip(0, 1))
    heat = colour(np.linspace(0, 1, 256))[(255 * large).round().astype(np.uint8)]
    if pixels is None:
        return np.asarray(heat.round().astype(np.uint8))
    grey = pixels.mean(-1, keepdims=True)
    muted = 0.45 * pixels + 0.55 * grey
    weight = (0.2 + 0.7 * large)[..., None]
    return np.asarray(((1 - weight) * muted + weight * heat).round().clip(0, 255), np.uint8)


def colour_bar(axes: "Axes", label: str, limits: tuple[float, float]) -> None:
    """Vertical bar of the maps' colours with its ends and unit."""
    steps = np.linspace(1, 0, 256)[:, None]
    axes.imshow(colour(steps).astype(np.uint8), aspect="auto", extent=(0, 1, limits[0], limits[1]))
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_ylabel(label, size=6)
    axes.tick_params(labelsize=6, length=2)
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.4)


def axes_grid(columns: int, rows: int = 1, *, cell: tuple[float, float] = (2.6, 1.9)) -> "tuple[Figure, Any]":
    """Figure with ``rows x columns`` empty axes in the common style; call inside `drawing`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * cell[0], rows * cell[1]), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def curves(axes: "Axes", lines: Mapping[str, Line], *, x: str, y: str, title: str = "", legend: bool = True) -> None:
    """Named curves with their bands, labelled axes and a legend; call inside `drawing`."""
    for place, (name, line) in enumerate(lines.items()):
        options = {"color": COLOURS[place % len(COLOURS)], "marker": "o", **line.options}
        axes.plot(line.x, line.y, label=name, **options)
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=options["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel=x, ylabel=y)
    if title:
        axes.set_title(title, loc="left", weight="bold")
    if legend and len(lines) > 1:
        axes.legend()

"""A finished survey as text."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from attlas.analysis.surveys.result import Survey

__all__ = ["ROWS", "printed"]

ROWS = 60
"""Most rows of a statistic that are printed."""


def printed(survey: Survey) -> str:
    """Tables of statistics and correlations, then what was surveyed and what was left out."""
    parts = []
    for name, made in survey.parts.items():
        told = made["mean"].attrs
        unit = "" if told["units"] == "1" else f" [{told['units']}]"
        title = f"{name}{unit}: {told['long_name']}"
        if name in survey.attrs["maps"]:
            shape = " x ".join(f"{dim} {size}" for dim, size in made.sizes.items())
            parts.append(f"{title}\n  map, {shape}; n up to {int(made['n'].max())}")
            continue
        rows = _rows(made)
        more = f"\n  ... {len(rows) - ROWS} more rows" if len(rows) > ROWS else ""
        parts.append(f"{title}\n{_aligned(rows[:ROWS])}{more}")
    for (one, other), made in survey.correlations.items():
        lines = []
        for place in np.ndindex(*made["n"].shape):
            picked = {key: float(values.values[place]) for key, values in made.items()}
            label = " ".join(f"{dim} {made[dim].values[at]}" for dim, at in zip(made["n"].dims, place, strict=True))
            spearman = f"Spearman {picked['spearman']:.3f}" if "spearman" in picked else ""
            interval = f"{picked['low']:.3f} to {picked['high']:.3f}"
            lines.append([label, f"Pearson {picked['pearson']:.3f}", interval, spearman, f"n={int(picked['n'])}"])
        parts.append(f"{one} against {other}\n{_aligned(lines)}")
    return "\n\n".join([*parts, "\n".join(_told(survey))])


def _rows(made: Any) -> list[list[str]]:
    """One row a cell that has runs: labels, mean with its interval, n, quantiles."""
    mean, rows = made["mean"], []
    for place in np.ndindex(*mean.shape):
        n = int(made["n"].values[place])
        if n == 0:
            continue
        label = " ".join(f"{dim} {made[dim].values[at]}" for dim, at in zip(mean.dims, place, strict=True))
        half = float(made["high"].values[place] - mean.values[place])
        spread = f"+- {half:.4f}" if math.isfinite(half) else ""
        row = [label, f"{float(mean.values[place]):.4f}", spread, f"n={n}"]
        if "quantiles" in made:
            marks = made["quantile"].values
            row += [f"q{q:g} {float(made['quantiles'].sel(quantile=q).values[place]):.4g}" for q in marks]
        rows.append(row)
    return rows


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "  nothing"
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width).rstrip()
        for row in rows
    )


def _told(survey: Survey) -> list[str]:
    attrs = survey.attrs
    lines = [f"{attrs['runs']} runs of {', '.join(f'{name} ({runs})' for name, runs in attrs['stores'].items())}"]
    lines += [
        f"left out: {count} incomplete runs of {name}" for name, count in attrs["incomplete_runs"].items() if count
    ]
    lines += [f"{name}: {state}" for name, state in attrs.get("cache", {}).items() if state != "kept"]
    lines += [
        f"not kept: {name}, {reason}" for name, reason in attrs.get("not_kept", {}).items() if name not in attrs["maps"]
    ]
    return lines

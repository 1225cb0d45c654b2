"""Tables of scores as files: JSON, Parquet, CSV, NetCDF, or bars in a figure."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from attlas.analysis.output.whole_file import check_suffix, save_netcdf, save_table, whole_file
from attlas.analysis.scoring.score_table import ScoreTable
from attlas.analysis.store_paths import short_names

__all__ = ["SUFFIXES", "save_scores"]

SUFFIXES = (".json", ".parquet", ".csv", ".nc", ".png")

Tables = Mapping[str, Sequence[ScoreTable]]


def save_scores(tables: Tables, path: str | Path) -> None:
    """Write the tables of each store, whole or not at all.

    ``.json`` all they say; ``.parquet`` and ``.csv`` a row a score: store, subject, score, value, n, ci95, meaning;
    ``.nc`` value, n and ci95 by ``(store, score)``; ``.png`` bars with 95 % intervals.

    Raises
    ------
    InvalidValueError
        For another suffix, or a folder that does not exist.
    """
    target = check_suffix(path, SUFFIXES)
    if target.suffix == ".json":
        told = {store: [table.to_json() for table in made] for store, made in tables.items()}
        with whole_file(target) as part:
            part.write_text(json.dumps(told, indent=1), encoding="utf-8")
    elif target.suffix == ".nc":
        save_netcdf(_dataset(tables), target)
    elif target.suffix == ".png":
        figure = _figure(tables)
        with whole_file(target) as part:
            figure.savefig(part, dpi=300)
    else:
        import pandas as pd

        save_table(pd.DataFrame(_rows(tables)), target)


def _rows(tables: Tables) -> list[dict[str, Any]]:
    return [
        {
            "store": store,
            "subject": table.subject,
            "score": score.name,
            "value": score.value,
            "n": score.n,
            "ci95": score.ci95,
            "meaning": score.meaning,
        }
        for store, made in tables.items()
        for table in made
        for score in table
    ]


def _dataset(tables: Tables) -> xr.Dataset:
    rows = _rows(tables)
    meanings = {row["score"]: row["meaning"] for row in reversed(rows)}
    names = list(dict.fromkeys(row["score"] for row in rows))
    found = {(row["store"], row["score"]): row for row in rows}
    columns = {
        column: (
            ("store", "score"),
            [[found.get((store, name), {}).get(column, lacking) for name in names] for store in tables],
        )
        for column, lacking in (("value", math.nan), ("n", 0), ("ci95", math.nan))
    }
    coords = {"store": list(tables), "score": names, "meaning": ("score", [meanings[name] for name in names])}
    return xr.Dataset(columns, coords, {"title": "scores of stores against their annotations"})


def _figure(tables: Tables) -> Any:
    """Bars of every score, a panel a subject, a colour a store."""
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    rows = _rows(tables)
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    stores, colours = list(tables), colormaps["tab10"](range(10))
    names = {
        subject: list(dict.fromkeys(row["score"] for row in rows if row["subject"] == subject)) for subject in subjects
    }
    heights = [0.5 + 0.16 * len(own) * max(1.6, len(stores)) for own in names.values()]
    names_of = dict(zip(stores, short_names(stores), strict=True))
    style = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    with rc_context({**style, "font.family": "sans-serif", "axes.titlelocation": "left"}):
        figure = Figure(figsize=(6.8, sum(heights)), layout="constrained")
        panels = figure.subplots(len(subjects), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, subject in zip(panels, subjects, strict=True):
            for place, store in enumerate(stores):
                own = [row for row in rows if (row["subject"], row["store"]) == (subject, store)]
                width = 0.8 / len(stores)
                at = [names[subject].index(row["score"]) + (place - (len(stores) - 1) / 2) * width for row in own]
                spread = [row["ci95"] if math.isfinite(row["ci95"]) else 0.0 for row in own]
                axes.barh(
                    at, [row["value"] for row in own], width * 0.9, xerr=spread, color=colours[place % 10],
                    error_kw={"linewidth": 0.8}, label=names_of[store],
                )  # fmt: skip
            axes.set_yticks(range(len(names[subject])), names[subject])
            axes.invert_yaxis()
            axes.set_title(subject)
            axes.axvline(0, color="black", linewidth=0.6)
        panels[-1].set_xlabel("mean over samples, with its 95 % interval")
        if len(stores) > 1:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(stores))
    return figure

"""A finished survey: numbers with intervals, as Datasets, tables and files."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.surveys.digest import attlas_version
from attlas.analysis.surveys.partial import Pair, Partial
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["Survey", "finish"]

MEANING = {
    "n": "number of values that counted",
    "runs": "number of runs that they are of",
    "variance": "variance of the values (n - 1)",
    "std": "standard deviation of the values",
    "stderr": "standard error of the mean; values of one run are no independent samples",
    "low": "lower end of the 95 % interval: mean - 1.96 standard errors",
    "high": "upper end of the 95 % interval: mean + 1.96 standard errors",
    "quantiles": "quantiles, within 1 % of its value",
    "count": "values in the bin",
    "below": "values below all bins",
    "above": "values above all bins",
}


@dataclass(frozen=True)
class Survey:
    """Numbers over many runs.

    Attributes
    ----------
    parts
        For each statistic or map a Dataset ``(*labels, *its own dims)``: ``n runs mean variance std stderr low high``,
        and ``quantiles``, ``count`` (with ``left`` and ``right`` edges), ``below`` and ``above`` where they were asked.
    correlations
        For each pair a Dataset: ``n``, ``pearson`` with Fisher's 95 % interval ``low`` to ``high``, ``spearman``.
    scores
        Numbers of each run, ``(run, ...)``, with its store, model, prompt, seed and labels; statistics with more than
        256 numbers a run are left out.
    partial
        What it was made of: save it, or add it to that of other runs.
    attrs
        Provenance: statistics with options and digests of their code, labels, runs, stores, and what was left out.
    """

    parts: Mapping[str, xr.Dataset]
    correlations: Mapping[Pair, xr.Dataset]
    scores: xr.Dataset
    partial: Partial
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> xr.Dataset:
        """Dataset of one statistic or map; `UnknownNameError` if it was not asked."""
        if name not in self.parts:
            raise unknown_name("statistic", name, self.parts, where="this survey")
        return self.parts[name]

    @property
    def dataset(self) -> xr.Dataset:
        """All in one Dataset: the mean by the statistic's name, the rest with what it is added to the name.

        Correlations are named ``one~other``, ``one~other_low``, ``one~other_spearman`` and so on.
        """
        named = [_named(name, made) for name, made in self.parts.items()]
        for (one, other), made in self.correlations.items():
            named.append(
                made.rename({str(own): f"{one}~{other}{'' if own == 'pearson' else f'_{own}'}" for own in made})
            )
        merged = xr.merge(named, join="outer", compat="override", combine_attrs="drop")
        for name in merged.data_vars:
            if str(name).endswith(("_n", "_runs", "_count", "_below", "_above")):
                merged[name] = merged[name].fillna(0).astype(np.int64).assign_attrs(merged[name].attrs)
        return merged.assign_attrs(_plain_attrs(self.attrs))

    def noted(self, kept: Mapping[str, str], not_kept: Mapping[str, str]) -> "Survey":
        """Return it with a note of what was kept in the stores, and what could not be."""
        return replace(self, attrs={**self.attrs, "cache": dict(kept), "not_kept": dict(not_kept)})

    def table(self) -> Any:
        """Give all numbers but those of maps as a pandas table: a row for each statistic, group and cell."""
        import pandas as pd

        frames = []
        for name, made in self.parts.items():
            if name in self.partial.settings["maps"]:
                continue
            flat = made[[own for own in ("n", "runs", "mean", "std", "stderr", "low", "high") if own in made]]
            frame = (
                flat.to_dataframe().reset_index()
                if flat.sizes
                else pd.DataFrame([{str(own): flat[own].item() for own in flat}])
            )
            if "quantiles" in made:
                for q in made["quantile"].values:
                    frame[f"q{q:g}"] = made["quantiles"].sel(quantile=q).values.ravel()
            frame.insert(0, "statistic", name)
            frames.append(frame[frame["n"] > 0])
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def to_json(self) -> dict[str, Any]:
        """Plain values: statistics, correlations and provenance; a number that is not finite is None."""
        rows = [{str(key): _plain(value) for key, value in row.items()} for row in self.table().to_dict("records")]
        pairs = [
            {"one": one, "other": other, **{str(key): _plain(value) for key, value in row.items()}}
            for (one, other), made in self.correlations.items()
            for row in _records(made)
        ]
        return {"statistics": rows, "correlations": pairs, "attributes": json.loads(json.dumps(self.attrs))}

    def save(self, path: str | Path) -> None:
        """Write it, whole or not at all.

        ``.nc`` holds `dataset`; ``.parquet`` and ``.csv`` hold `table`; ``.png`` shows distributions and correlations.
        A name such as ``scores.runs.parquet`` (``.runs`` before the suffix) holds `scores`, a row for each run.

        Raises
        ------
        InvalidValueError
            For another suffix, or a folder that does not exist.
        """
        from attlas.analysis.surveys.files import save_survey

        save_survey(self, path)

    def __str__(self) -> str:
        """Table of the statistics with their intervals, correlations, and what was left out."""
        from attlas.analysis.surveys.printing import printed

        return printed(self)

    def __repr__(self) -> str:
        """Say what it holds in a line."""
        names = ", ".join([*self.parts, *map("~".join, self.correlations)])
        return f"<attlas survey of {self.attrs['runs']} runs: {names}>"


def finish(partial: Partial) -> Survey:
    """Make numbers of a partial survey."""
    if not partial.rows:
        raise InvalidValueError("the survey has no run; add one with runs")
    asked = {**partial.settings["statistics"], **partial.settings["maps"]}
    parts = {}
    for name, part in partial.parts.items():
        made = part.moments.finish()
        if int(made["n"].sum()) == 0:
            kind = "map" if name in partial.settings["maps"] else "statistic"
            why = "or no run has a label" if partial.settings["by"] else "its annotations may be missing, or empty"
            raise InvalidValueError(f"{kind} {name!r} is NaN for all {len(partial.rows)} runs; {why}")
        if part.sketch.cells:
            made["quantiles"] = part.sketch.finish(made["mean"], partial.settings["quantiles"])
        if part.histogram.data is not None:
            made = made.merge(part.histogram.finish(), join="outer", compat="override")
        parts[name] = _described(made, asked[name])
    scores = _scores(partial)
    pairs = {pair: _correlation(pair, partial, scores) for pair in partial.pairs}
    attrs = {
        **partial.settings,
        "attlas": attlas_version(),
        "runs": len(partial.rows),
        "stores": {name: sum(row["store"] == name for row in partial.rows)
                   for name in dict.fromkeys(row["store"] for row in partial.rows)},
        "models": list(dict.fromkeys(row["model"] for row in partial.rows)),
        "incomplete_runs": dict(partial.left_out),
    }  # fmt: skip
    return Survey(parts, pairs, scores, partial, attrs)


def _described(made: xr.Dataset, told: Mapping[str, Any]) -> xr.Dataset:
    for name, values in made.data_vars.items():
        counted = name in ("n", "count", "below", "above")
        units = (
            "1" if counted else f"({told['units']})^2" if name == "variance" and told["units"] != "1" else told["units"]
        )
        long_name = told["meaning"] or told["statistic"]
        values.attrs = {
            "units": units,
            "long_name": long_name if name == "mean" else f"{MEANING[str(name)]}: {long_name}",
        }
    return made.assign_attrs(_plain_attrs(told))


def _scores(partial: Partial) -> xr.Dataset:
    """Numbers of each run in the order of stores and their rows."""
    columns = dict.fromkeys(key for row in partial.rows for key in row if key not in ("run", "row"))
    variables: dict[str, xr.DataArray] = {}
    for name, part in partial.parts.items():
        if part.scores and sum(one.sizes["run"] for one in part.scores) == len(partial.rows):
            whole = part.scores[0]
            if len(part.scores) > 1:
                whole = xr.concat(part.scores, "run", join="outer", coords="different", compat="equals")
            told = partial.settings["statistics"][name]
            variables[name] = whole.assign_attrs(units=told["units"], long_name=told["meaning"] or name).drop_vars(
                "run"
            )
    coords = {
        name: ("run", np.asarray([row.get(name) for row in partial.rows], dtype=object)) for name in ("run", *columns)
    }
    coords["seed"] = ("run", np.asarray([row["seed"] for row in partial.rows], dtype=np.int64))
    made = xr.Dataset(
        {name: values.drop_vars([own for own in coords if own in values.coords]) for name, values in variables.items()}
    )
    places = sorted(
        range(len(partial.rows)), key=lambda place: (partial.rows[place]["store"], partial.rows[place]["row"])
    )
    return made.assign_coords(coords).isel(run=places)


def _correlation(pair: Pair, partial: Partial, scores: xr.Dataset) -> xr.Dataset:
    """Pearson's from what adds up, Spearman's from the runs."""
    made = partial.pairs[pair].finish()
    one, other = pair
    made["pearson"].attrs = {"units": "1", "long_name": f"Pearson's correlation of {one} and {other}"}
    names = partial.settings["by"]
    if all(name in scores and scores[name].dims == ("run",) for name in pair) and all(
        name in scores.coords for name in names
    ):
        x, y = (scores[name].values for name in pair)
        given = ~np.isnan(x) & ~np.isnan(y)
        ranked = xr.full_like(made["pearson"], np.nan)
        for place in np.ndindex(*ranked.shape):
            own = given.copy()
            for at, name in zip(place, ranked.dims, strict=True):
                own &= np.array([label == ranked[name].values[at] for label in scores[str(name)].values])
            ranked[place] = _spearman(x[own], y[own])
        ranked.attrs = {"units": "1", "long_name": f"Spearman's correlation of {one} and {other}, from the runs"}
        made["spearman"] = ranked
    return made


def _spearman(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    from scipy.stats import rankdata

    ranks = [rankdata(own) for own in (x, y)]
    if len(x) < 2 or any(own.std() == 0 for own in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


def _named(name: str, made: xr.Dataset) -> xr.Dataset:
    bins = {own: f"{name}_{own}" for own in ("bin", "left", "right") if own in made.dims or own in made.coords}
    return made.rename({**{str(own): name if own == "mean" else f"{name}_{own}" for own in made.data_vars}, **bins})


def _records(made: xr.Dataset) -> list[dict[Any, Any]]:
    if not made.sizes:
        return [{name: made[name].item() for name in made}]
    listed: list[dict[Any, Any]] = made.to_dataframe().reset_index().to_dict("records")
    return listed


def _plain_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as NetCDF holds them: what is no text or number, as JSON."""
    return {name: value if isinstance(value, (str, int, float)) else json.dumps(value) for name, value in attrs.items()}


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value

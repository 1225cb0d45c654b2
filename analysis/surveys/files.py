"""A finished survey as a file."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.surveys.result import Survey
from attlas.analysis.surveys.saving import whole_file
from attlas.schemas.errors import InvalidValueError

__all__ = ["SUFFIXES", "save_survey", "save_table", "to_netcdf"]

SUFFIXES = (".nc", ".parquet", ".csv", ".png")


def save_survey(survey: Survey, path: str | Path) -> None:
    """Write `survey` as the suffix says; see `Survey.save`."""
    target = Path(path)
    if target.suffix not in SUFFIXES:
        raise InvalidValueError(f"{target.name}: the suffix chooses the format; {', '.join(SUFFIXES)} are accepted")
    runs = target.suffixes[-2:-1] == [".runs"]
    if target.suffix == ".png":
        from attlas.analysis.surveys.figures import draw

        figure = draw(survey)
        with whole_file(target) as part:
            figure.savefig(part, dpi=300, metadata={"Software": f"attlas {survey.attrs['attlas']}"})
    elif target.suffix == ".nc":
        to_netcdf(survey.scores if runs else survey.dataset, target)
    else:
        save_table(survey.scores.to_dataframe().reset_index() if runs else survey.table(), target)


def save_table(table: Any, path: str | Path) -> None:
    """Write a pandas table as Parquet or CSV, whole or not at all."""
    with whole_file(path) as part:
        if part.suffix == ".parquet":
            table.to_parquet(part, index=False)
        else:
            table.to_csv(part, index=False)


def to_netcdf(data: xr.Dataset, path: str | Path) -> None:
    """Write a Dataset as NetCDF 3, which every reader reads, whole or not at all.

    Whole numbers become 32 bit where they fit, else float64; labels become text.
    """
    made = data.copy()
    for name in list(made.variables):
        values = made[name]
        if values.dtype == object or values.dtype.kind in "UT":
            made[name] = values.copy(data=values.values.astype(object).astype(str))
        elif values.dtype.kind in "iub" and values.dtype != np.int32:
            fits = not values.size or int(abs(values).max()) <= np.iinfo(np.int32).max
            made[name] = values.astype(np.int32 if fits else np.float64)
    made = made.rename({name: str(name).replace("/", "_") for name in made.variables if "/" in str(name)})
    with whole_file(path) as part:
        made.to_netcdf(part, engine="scipy")

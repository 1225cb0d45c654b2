"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from attlas.schemas.errors import InvalidValueError

__all__ = ["check_suffix", "save_netcdf", "save_table", "whole_file"]


def check_suffix(path: str | Path, accepted: tuple[str, ...]) -> Path:
    """Return the path if its suffix is accepted and its folder exists; `InvalidValueError` if not."""
    target = Path(path)
    if target.suffix not in accepted:
        *most, last = accepted
        raise InvalidValueError(
            f"{target.name}: the suffix chooses the format; {', '.join(most)} or {last} is accepted"
        )
    if not target.parent.is_dir():
        raise InvalidValueError(f"the folder {target.parent} does not exist; make it, or choose another path")
    return target


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a name to write to; it becomes `path` if all goes well, and is removed if not.

    Raises
    ------
    InvalidValueError
        If the folder does not exist.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise InvalidValueError(f"the folder {target.parent} does not exist; make it, or choose another path")
    part = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def save_table(table: Any, path: str | Path) -> None:
    """Write a pandas table as Parquet, or as CSV where the suffix says so."""
    with whole_file(path) as part:
        if part.suffix == ".csv":
            table.to_csv(part, index=False)
        else:
            table.to_parquet(part, index=False)


def save_netcdf(data: xr.Dataset, path: str | Path) -> None:
    """Write a Dataset as NetCDF 3, which every reader reads.

    Whole numbers become 32 bit where they fit; those that do not become text where they are labels, such as seeds,
    else float64. Labels become text; yes and no 1 and 0.
    """
    made = data.copy()
    for name in list(made.variables):
        values = made[name]
        if values.dtype == object or values.dtype.kind in "UT":
            made[name] = values.copy(data=values.values.astype(object).astype(str))
        elif values.dtype.kind in "iub" and values.dtype != np.int32:
            fits = not values.size or int(abs(values.astype(np.int64)).max()) <= np.iinfo(np.int32).max
            made[name] = values.astype(np.int32 if fits else str if name in made.coords else np.float64)
    for held in (made, *(made[name] for name in made.variables)):
        held.attrs = {name: int(value) if isinstance(value, bool) else value for name, value in held.attrs.items()}
    with whole_file(path) as part:
        made.to_netcdf(part, engine="scipy")

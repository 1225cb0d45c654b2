"""Means of many values of each run by their label, with intervals that know which values share a run."""

import numpy as np
import xarray as xr

from attlas.schemas.errors import InvalidValueError

__all__ = ["means_by_label"]


def means_by_label(values: xr.DataArray, labels: xr.DataArray, *, name: str = "label") -> xr.Dataset:
    """Mean of the values under each label, with half its 95 % interval.

    Parameters
    ----------
    values
        Numbers ``(run, item)``; NaN does not count. Computed here.
    labels
        Texts ``(run, item)``; an empty one does not count.
    name
        Dim of the result.

    Returns
    -------
    Dataset along `name` in the order of first occurrence: ``mean``, float64, every value weighing the same; ``ci95``,
    1.96 standard errors, NaN for a single run; ``n``, the values; ``runs``, the runs that they come from.

    Notes
    -----
    Words of one picture are no independent samples. The standard error is that of means of clusters, a run each:
    ``sqrt(R / (R - 1) * sum over runs of (sum over its values of (value - mean))^2) / n``, which for one value a run
    is the usual one.

    Raises
    ------
    InvalidValueError
        If values and labels differ in shape.

    Examples
    --------
    >>> x = xr.DataArray([[1.0, 5.0], [3.0, np.nan]], dims=("run", "word"))
    >>> tags = xr.DataArray([["NOUN", "DET"], ["NOUN", ""]], dims=("run", "word"))
    >>> made = means_by_label(x, tags, name="pos")
    >>> made["mean"].sel(pos="NOUN").item(), made["ci95"].sel(pos="NOUN").round(2).item()
    (2.0, 1.96)
    """
    if values.shape != labels.shape:
        raise InvalidValueError(f"values {values.shape} and labels {labels.shape} differ in shape")
    numbers, texts = np.asarray(values.values, dtype=np.float64), labels.values
    known = [str(text) for text in dict.fromkeys(texts.ravel().tolist()) if text]
    rows = []
    for label in known:
        chosen = (texts == label) & ~np.isnan(numbers)
        held = chosen.any(1)
        n, runs = int(chosen.sum()), int(held.sum())
        mean = float(numbers[chosen].mean()) if n else np.nan
        apart = np.where(chosen, numbers - mean, 0).sum(1)[held]
        spread = 1.96 * float(np.sqrt(runs / (runs - 1) * (apart**2).sum())) / n if runs > 1 else np.nan
        rows.append((mean, spread, n, runs))
    columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    made = {column: (name, list(own)) for column, own in zip(("mean", "ci95", "n", "runs"), columns, strict=True)}
    return xr.Dataset(made, {name: known})

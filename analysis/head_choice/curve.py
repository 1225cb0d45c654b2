"""mIoU(k): what a choice of the k first heads of a ranking is worth."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from attlas.analysis.head_choice.single_heads import Head, flat_maps, sample_iou
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["Ranking", "curve", "intervals"]

Ranking = Sequence[Head] | Mapping[str, Sequence[Head]]
"""Heads, best first; or such an order for each word."""


def curve(
    maps: xr.DataArray,
    masks: xr.DataArray,
    rankings: Mapping[str, Ranking],
    ks: Sequence[int] | None = None,
    *,
    tau: float = 0.4,
    rules: Sequence[str] = ("minmax", "max"),
) -> xr.DataArray:
    """IoU of every sample's map over the first k heads of each ranking.

    Parameters
    ----------
    maps, masks
        From `head_maps` and `noun_masks`, of samples that the rankings were not made of.
    rankings
        By name; each an order of heads, or one for each word of the samples. It may leave heads out.
    ks
        Numbers of heads; by default 1, 2, 3, 5, 8, ... and all. A ranking with fewer heads than k is NaN there.
    tau, rules
        Threshold, and the rules by which it is taken: ``minmax`` (released DAAM) and ``max`` (paper), or others of
        `attlas.analysis.normalise.threshold`.

    Returns
    -------
    ``(ranking, rule, k, sample)``, float64, in [0, 1], in memory, with ``run`` and ``word`` along sample. At k = all
    heads every complete ranking has the same map, that of DAAM.

    Raises
    ------
    InvalidValueError
        If there is no ranking, a k is less than 1 or more than there are heads, or a word has no ranking.
    UnknownNameError
        If a ranking names a head that the maps lack.
    """
    if not rankings:
        raise InvalidValueError("no ranking is given; such as {'IoU': rank(score_heads(...))}")
    flat, pairs = flat_maps(maps)
    ks = _default_ks(len(pairs)) if ks is None else list(ks)
    for k in ks:
        if not 1 <= k <= len(pairs):
            raise InvalidValueError(f"k = {k} of {len(pairs)} heads; 1 to {len(pairs)} is accepted")
    words = [str(word) for word in masks["word"].values]
    made = np.full((len(rankings), len(rules), len(ks), len(words)), np.nan)
    for row, (name, ranking) in enumerate(rankings.items()):
        for word in dict.fromkeys(words):
            samples = np.asarray([place for place, own in enumerate(words) if own == word])
            order = _places(name, ranking, word, pairs)
            own, drawn = flat[samples][..., order], masks.values[samples]
            for column, k in enumerate(ks):
                if k <= len(order):
                    mean = own[..., :k].mean(-1)
                    made[row, :, column, samples] = np.stack(
                        [sample_iou(mean, drawn, tau, rule) for rule in rules], axis=-1
                    )
    coords = {
        "ranking": list(rankings),
        "rule": list(rules),
        "k": ks,
        **{label: ("sample", masks[label].values) for label in ("run", "word")},
    }
    attrs = {"units": "1", "long_name": "IoU of the map over the first k heads", "tau": tau, "heads": len(pairs)}
    return xr.DataArray(made, coords, ("ranking", "rule", "k", "sample"), attrs=attrs)


def intervals(values: xr.DataArray, level: float = 0.95) -> xr.Dataset:
    """Mean over samples and its confidence interval, for a `curve` or the difference of two.

    Words of one run share a picture, so that a run counts once: its words are averaged, and the interval is Student's
    over runs.

    Parameters
    ----------
    values
        ``(..., sample)`` with coordinate ``run``.
    level
        Probability that the interval covers the mean.

    Returns
    -------
    ``mean``, ``low``, ``high`` over the other dims; the interval is NaN with fewer than two runs.

    Examples
    --------
    >>> scores = xr.DataArray([0.2, 0.4, 0.6], {"run": ("sample", ["a", "a", "b"])}, "sample")
    >>> made = intervals(scores)
    >>> float(made["mean"].round(2)), float(made["high"].round(2))  # runs of mean 0.3 and 0.6
    (0.45, 2.36)
    """
    from scipy import stats

    if not 0 < level < 1:
        raise InvalidValueError(f"level = {level}; a probability between 0 and 1 is needed")
    if "run" not in values.coords:
        raise unknown_name("coordinate", "run", [str(name) for name in values.coords], where="the values")
    by_run = values.groupby("run").mean("sample", skipna=False)
    count = by_run.sizes["run"]
    mean = by_run.mean("run", skipna=False)
    if count < 2:
        half = xr.full_like(mean, np.nan)
    else:
        half = by_run.std("run", ddof=1, skipna=False) / np.sqrt(count) * stats.t.ppf(0.5 + level / 2, count - 1)
    made = xr.Dataset({"mean": mean, "low": mean - half, "high": mean + half})
    return made.assign_attrs(runs=count, samples=values.sizes["sample"], level=level)


def _places(name: str, ranking: Ranking, word: str, pairs: list[Head]) -> list[int]:
    if isinstance(ranking, Mapping):
        if word not in ranking:
            raise InvalidValueError(f"ranking {name!r} has no order for word {word!r}, only for {', '.join(ranking)}")
        ranking = ranking[word]
    for layer, head in ranking:
        if (layer, head) not in pairs:
            raise unknown_name("head", f"{layer}:{head}", [f"{path}:{number}" for path, number in pairs])
    return [pairs.index((layer, head)) for layer, head in ranking]


def _default_ks(total: int) -> list[int]:
    """Fibonacci's numbers up to `total`, and `total`."""
    ks, following = [1], 2
    while following < total:
        ks.append(following)
        following += ks[-2] if len(ks) > 1 else 1
    return ks if ks[-1] == total else [*ks, total]

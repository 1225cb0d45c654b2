"""Maps of given characters of the prompt: DAAM's aggregation, and how a word's tokens become one map."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from functools import reduce as fold
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.aggregation.aggregate import aggregate
from attlas.analysis.aggregation.selection import pick_calls
from attlas.analysis.trace import Trace
from attlas.analysis.words import Span, span_keys, text_keys, text_kind
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["DAAM_VARIANTS", "MERGES", "span_map", "span_maps"]

DAAM_VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"resample": "nearest", "conserve": "mass", "clamp": False, "reduce": "sum"},
    "released": {"resample": "bicubic", "conserve": "intensity", "clamp": True, "reduce": "mean"},
}
"""What the paper (eq. 6 and 7) and the released code (castorini/daam 0.2.0) of DAAM do; `hard` has the threshold
rules that go with them."""

MERGES = ("mean", "sum", "max")
SHARE_EPSILON = np.float32(1e-6)
"""Added to the sum over words that `normalize` divides by, as in the released code."""

Tokens = Mapping[str, xr.DataArray]


def span_map(
    trace: Trace,
    found: Sequence[Sequence[Span]],
    *,
    keep: str | Iterable[str] = (),
    variant: str = "paper",
    branch: str = "cond",
    chunk: int | None = None,
    merge: str = "mean",
    normalize: bool = False,
    **options: Any,
) -> xr.DataArray:
    """Map of some characters of each run's prompt; what `daam` is made of.

    Parameters
    ----------
    trace
        From `open_trace`.
    found
        Spans ``(first character, one past the last)`` for each run; a run with none becomes NaN.
    keep, variant, branch, chunk, merge, normalize, **options
        As in `attlas.analysis.papers.daam.daam`.

    Returns
    -------
    As `daam`: ``(run, *keep, query_y, query_x)``, float32, unit 1, lazy.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> trace = open_trace(simulate_store(runs=1, prompt="a red disc"))
    >>> span_map(trace, [[(2, 5), (6, 10)]]).dims  # red, disc
    ('run', 'query_y', 'query_x')
    """
    if variant not in DAAM_VARIANTS:
        raise unknown_name("variant", variant, DAAM_VARIANTS)
    if merge not in MERGES:
        raise unknown_name("merge", merge, MERGES)
    own = {"kind": text_kind(trace), **DAAM_VARIANTS[variant], **options}
    tokens = span_keys(trace, found, own["kind"], branch=branch, chunk=chunk)
    of_keys = partial(aggregate, trace, "g2r", keep, onto="query", branch=branch, **own)
    made = _merged(of_keys, tokens, merge, each=bool(own["clamp"]))
    attrs = {**made.attrs, "variant": variant, "merge": merge}
    scale = np.float32(1)
    if own["reduce"] == "mean" and "t" not in made.dims:
        # The released code takes the mean over layers and heads only.
        calls = pick_calls(trace, own.get("steps"))
        scale = np.float32(trace.calls if calls is None else len(calls))
        made = made * scale
        attrs["reduce"] = "sum over t, mean over layers and heads"
    if normalize:
        words = text_keys(trace, own["kind"], branch=branch, chunk=chunk)
        whole = _merged(of_keys, words, "sum", each=bool(own["clamp"])).variable
        made = made / (whole * scale + SHARE_EPSILON)
        attrs["normalise"] = "over words"
    return made.assign_attrs(attrs)


def span_maps(trace: Trace, words: Sequence[Sequence[Sequence[Span]]], **options: Any) -> xr.DataArray:
    """Make the maps of several words of each run, each given by its spans: ``(run, word, *keep, query_y, query_x)``.

    Word is the place in the run's own list; runs with fewer words than others have NaN at their end, and a word none
    of whose tokens the model sees is NaN. `options` of `span_map`.

    Raises
    ------
    InvalidValueError
        If no run has a word.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> trace = open_trace(simulate_store(runs=1, prompt="a red disc"))
    >>> span_maps(trace, [[[(2, 5)], [(6, 10)]]]).sizes["word"]  # red, disc
    2
    """
    most = max((len(row) for row in words), default=0)
    if most == 0:
        raise InvalidValueError(f"no run of {trace.where} has a word to map")
    parts = [
        span_map(trace, [row[place] if place < len(row) else () for row in words], **options).expand_dims(word=[place])
        for place in range(most)
    ]
    made: xr.DataArray = xr.concat(parts, "word", coords="minimal", compat="override", combine_attrs="override")
    return made.transpose("run", "word", ...)


def _merged(of_keys: Callable[..., xr.DataArray], tokens: Tokens, merge: str, *, each: bool) -> xr.DataArray:
    """One map of all tokens of each run; token by token where the order matters (`each`: clamped; or a maximum).

    Clamping is not linear: the released code sets what is negative to 0 in the map of each token.
    """
    counts = {name: mask.values[:, 0].sum(-1) for name, mask in tokens.items()}
    count = next(iter(counts.values()))
    several = max(int(own.max()) for own in counts.values())
    if merge == "mean" and not (each and several > 1):
        return of_keys(keys=tokens)
    if any((own != count).any() for own in counts.values()):
        shown = ", ".join(f"{name}: {own.tolist()}" for name, own in counts.items())
        raise InvalidValueError(
            f"leaves hold different numbers of the word's tokens in the runs, {shown}; choose layers= or chunk=, or "
            'merge="mean" without clamp'
        )
    weight = xr.Variable("run", count.astype(np.float32))
    if several <= 1 or not (each or merge == "max"):
        return of_keys(keys=tokens) * weight if merge == "sum" else of_keys(keys=tokens)
    parts = [of_keys(keys={name: _one_token(mask, place) for name, mask in tokens.items()}) for place in range(several)]
    if merge == "max":
        return fold(_larger, parts).assign_attrs(parts[0].attrs)
    # A run with fewer tokens than another is NaN in the later parts, and in all of them if it has none.
    total = fold(lambda whole, part: whole + part.fillna(0), parts).assign_attrs(parts[0].attrs)
    return total if merge == "sum" else (total / weight).assign_attrs(parts[0].attrs)


def _one_token(mask: xr.DataArray, place: int) -> xr.DataArray:
    """Choose of the chosen keys the one at this place, from 0."""
    return mask & (mask.cumsum("key") == place + 1)


def _larger(one: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    """Elementwise maximum; NaN, a run without that token, does not count."""
    made: xr.DataArray = xr.apply_ufunc(np.fmax, one, other, dask="allowed")
    return made

"""Which keys are sinks: how much attention each key gets, from the g2r summary, and the rules that name them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.selection import Part
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = [
    "LEVELS",
    "MASSES",
    "RULES",
    "TYPICAL",
    "Sinks",
    "importance",
    "kept_keys",
    "rule_means",
    "sinks_of",
    "typical",
]

RULES = ("importance", "special")
TYPICAL = ("mean", "median")
LEVELS = ("head", "layer")
MASSES = ("zero", "rescale", "renormalise")
NO_SINK = ("word", "text", "absent")


@dataclass(frozen=True)
class Sinks:
    """Which keys are sinks, and what happens to their attention where they are left out of a map.

    Attributes
    ----------
    rule
        ``importance``: keys that get more than `times` the attention of a random key. ``special``: keys that are
        neither word nor patch, however much they get: BOS, EOS, padding, template, CLS, registers.
    times
        Of the rule ``importance``.
    over
        What a random key gets: the ``mean`` over keys (1 / number of keys), or their ``median``, which a sink does not
        move.
    words
        Whether words of the prompt can be sinks by ``importance`` too; a word that is drawn gets much attention.
    across_runs
        Whether a key's importance is averaged over the runs of the trace first, so that what it shows in one run does
        not make it one: keys that draw attention at their place, whatever is there.
    by
        Sinks of each ``head`` by itself, or of each ``layer``, its heads averaged, which hides the sinks of few heads.
    mass
        ``zero``: their attention counts as 0 and all else stays, so that rows no longer sum to 1. ``renormalise``:
        the softmax is taken over the other keys, as if the sinks were none, query by query; needs the full arrays.
        ``rescale``: from the summary, the mean over queries divided by what is left of its mass; where queries
        differ in what they give to sinks, this is another number (a ratio of means, not the mean of ratios).

    Raises
    ------
    UnknownNameError
        For another name of any kind.
    InvalidValueError
        If `times` is not above 1: every key would be one.

    Examples
    --------
    >>> str(Sinks(times=3))
    'keys that get more than 3 x the mean over keys, by head; their attention is 0'
    """

    rule: str = "importance"
    times: float = 5.0
    over: str = "mean"
    words: bool = False
    across_runs: bool = False
    by: str = "head"
    mass: str = "zero"

    def __post_init__(self) -> None:
        for what, got, accepted in (
            ("rule for sinks", self.rule, RULES),
            ("typical key", self.over, TYPICAL),
            ("level of sinks", self.by, LEVELS),
            ("mass of sinks", self.mass, MASSES),
        ):
            if got not in accepted:
                raise unknown_name(what, got, accepted)
        if not self.times > 1:
            raise InvalidValueError(f"times = {self.times}; more than 1 is needed, or keys like any other are sinks")

    def __str__(self) -> str:
        """Say it in words, as attributes of maps do."""
        which = "keys that are neither word nor patch"
        if self.rule == "importance":
            which = "words too, " if self.words else ""
            which += f"keys that get more than {self.times:g} x the {self.over} over keys, by {self.by}"
            which += " and the mean over runs" if self.across_runs else ""
        mass = {
            "zero": "their attention is 0",
            "rescale": "what is left of the mean is divided by its mass",
            "renormalise": "the softmax is over the other keys",
        }
        return f"{which}; {mass[self.mass]}"


def sinks_of(wanted: "str | Sinks | None") -> Sinks | None:
    """Rule from what the user gave: its name, the rule itself, or None to keep all keys.

    Raises
    ------
    UnknownNameError
        For a name that is no rule.
    """
    return Sinks(rule=wanted) if isinstance(wanted, str) else wanted


def importance(trace: Trace, part: Part, branches: Sequence[str], *, whole: bool = False) -> xr.DataArray:
    """Mean over queries of the softmax over keys, as stored: ``(run, branch, t, layer, head, key)``, float32, lazy.

    Of the part's layers and heads; of all heads of its layers if `whole`.
    """
    branch = branches[0] if len(branches) == 1 else None
    stored = trace.arrays(part.name, ["g2r"], branch)["g2r"]
    place = {dim: own for dim, own in part.place.items() if not (whole and dim == "head")}
    return stored.isel(place).sel(branch=list(branches)).drop_vars("key", errors="ignore")


def typical(values: xr.DataArray, over: str) -> xr.DataArray:
    """Mean or median over the keys that took part, without ``key``; lazy.

    A key that gets nothing at all took no part: it is masked, or no key of this run. Where all keys are kept the mean
    is 1 / number of keys; where a part is, it is that of the kept ones.
    """
    if over == "mean":
        return values.sum("key", skipna=False) / (values > 0).sum("key")
    made: xr.DataArray = xr.apply_ufunc(
        _median,
        values,
        input_core_dims=[["key"]],
        dask="parallelized",
        output_dtypes=[np.float32],
    )
    return made


def kept_keys(
    trace: Trace, part: Part, branches: Sequence[str], rule: Sinks, means: xr.DataArray | None = None
) -> xr.DataArray:
    """1 for each key that stays, 0 for each sink, NaN for a run without data.

    ``(run, branch, layer, head, key)`` (head of length 1 unless sinks are the head's own), float32, lazy. The rule
    looks at the mean over all calls, whichever of them the map shows: `means`, or what is read for it.
    """
    values = rule_means(trace, part, branches, rule) if means is None else means
    if rule.rule == "special":
        stays = ~special_keys(trace, part.name, branches)
        return xr.zeros_like(values) + stays.astype(np.float32)
    high = values > np.float32(rule.times) * typical(values, rule.over)
    coords = trace.dataset(part.name).coords
    if not rule.words and "token_segment" in coords:
        tokens = coords["token_segment"].reset_coords(drop=True).sel(branch=list(branches))
        high = high & (tokens != "word").drop_vars([name for name in ("key", "run") if name in tokens.coords])
    return (~high).astype(np.float32).where(values.notnull())


def rule_means(trace: Trace, part: Part, branches: Sequence[str], rule: Sinks) -> xr.DataArray:
    """Give what the rule looks at: importance averaged over t and, as the rule says, over heads and runs.

    ``(run, branch, layer, head, key)``, lazy; where it is the same for all, head has length 1.
    """
    values = importance(trace, part, branches, whole=rule.by == "layer").mean("t", skipna=False)
    if rule.by == "layer":
        values = values.mean("head", skipna=False).expand_dims(head=1, axis=values.get_axis_num("head"))
    if rule.across_runs and rule.rule == "importance":
        values = values.mean("run") + xr.zeros_like(values)  # NaN stays where a run has no data
    return values


def special_keys(trace: Trace, leaf: str, branches: Sequence[str]) -> xr.DataArray:
    """Whether each key is neither word nor patch, ``(key,)`` or ``(run, branch, key)``; absent keys are not."""
    coords = trace.dataset(leaf).coords
    special: Any = False
    if "key_segment" in coords:
        own = coords["key_segment"].reset_coords(drop=True)
        special = (coords["key_y"].reset_coords(drop=True) < 0) & ~own.isin(NO_SINK)
    if "token_segment" in coords:
        tokens = coords["token_segment"].reset_coords(drop=True).sel(branch=list(branches))
        special = special | ~tokens.isin([*NO_SINK, ""])
    made: xr.DataArray = special
    return made.drop_vars([name for name in ("key", "run") if name in made.coords])


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median along the last axis of what is above 0; NaN where nothing is, or anything is NaN."""
    ordered = np.sort(np.where(values > 0, values, np.inf), -1)
    count = (values > 0).sum(-1)
    low, high = (
        np.take_along_axis(ordered, place[..., None], -1)[..., 0]
        for place in (np.maximum(count - 1, 0) // 2, count // 2)
    )
    return np.where((count == 0) | np.isnan(values).any(-1), np.nan, (low + high) / 2).astype(np.float32)

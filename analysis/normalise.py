"""From scores to pictures: normalisation and thresholds, each by the name of its rule."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.resample import spatial_dims
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = [
    "COMPARE",
    "EPSILON",
    "MODES",
    "NORMALISE_RULES",
    "THRESHOLD_RULES",
    "normalize",
    "normalize_values",
    "threshold",
    "threshold_values",
]

NORMALISE_RULES = ("minmax", "sum", "none")
THRESHOLD_RULES = ("minmax", "max", "percentile", "absolute")
MODES = ("hard", "soft")
COMPARE = {"minmax": ">", "max": ">=", "percentile": ">", "absolute": ">"}
"""Comparison by which a value equal to the threshold is out or in, as each rule is published."""
EPSILON = np.float32(1e-8)
"""Added to max - min, as both papers' code does: a constant map becomes 0, not NaN."""


def normalize(values: xr.DataArray, rule: str = "minmax", *, invert: bool = False) -> xr.DataArray:
    """Each map of `values` scaled by itself.

    Parameters
    ----------
    values
        Maps; two spatial dims, or ``key`` where the keys are tokens. Not negative for ``sum``.
    rule
        ``minmax``: ``(m - min) / (max - min + 1e-8)``, in [0, 1), a constant map gives 0;
        ``sum``: divided by the sum, so that a map is a distribution; ``none``: untouched.
    invert
        1 minus the normalised value, so that low is high: rule ``minmax`` only. I2AM's released code does so to r2g
        maps of models with one key, and does not say so in the paper.

    Returns
    -------
    Same dims, float32, unit 1. Lazy if `values` is lazy. A map with a NaN becomes NaN.

    Raises
    ------
    UnknownNameError
        For another `rule`.
    InvalidValueError
        For `invert` with another rule than ``minmax``.

    Examples
    --------
    >>> m = xr.DataArray([[1.0, 3.0], [2.0, 5.0]], dims=("y", "x"))
    >>> normalize(m).values.tolist(), normalize(m, invert=True).values.tolist()
    ([[0.0, 0.5], [0.25, 1.0]], [[1.0, 0.5], [0.75, 0.0]])
    """
    if rule not in NORMALISE_RULES:
        raise unknown_name("normalise rule", rule, NORMALISE_RULES)
    _check_invert(rule, invert)
    attrs = {"normalise": rule, **_inversion(values, invert)}
    return _by_map(_normalised, values, attrs, rule=rule, invert=invert)


def normalize_values(values: NDArray[Any], rule: str) -> NDArray[np.float32]:
    """Scale each map ``(..., cell)`` by itself; the numpy kernel of `normalize`."""
    made = values.astype(np.float32)
    if rule == "minmax":
        low, high = made.min(-1, keepdims=True), made.max(-1, keepdims=True)
        made = (made - low) / (high - low + EPSILON)
    elif rule == "sum":
        made = made / made.sum(-1, keepdims=True)
    return np.asarray(made, dtype=np.float32)


def _normalised(values: NDArray[Any], rule: str, invert: bool) -> NDArray[np.float32]:
    made = normalize_values(values, rule)
    return np.float32(1) - made if invert else made


def threshold(
    values: xr.DataArray,
    tau: float = 0.4,
    *,
    rule: str = "minmax",
    mode: str = "hard",
    invert: bool = False,
    compare: str | None = None,
) -> xr.DataArray:
    """Which cells of each map are high.

    Parameters
    ----------
    values
        Maps; two spatial dims, or ``key`` where the keys are tokens.
    tau
        Threshold; 0.4 in both papers. In [0, 1]; for ``percentile`` in [0, 100], for ``absolute`` at least 0.
    rule
        ``minmax``: min-max normalised value ``> tau`` (I2AM eq. 5; DAAM's released code);
        ``max``: value ``>= tau * max`` (DAAM eq. 8);
        ``percentile``: value ``>`` the map's own `tau`-th percentile;
        ``absolute``: value ``>`` `tau`, in the map's own unit (word-pair overlap in DAAM's released notebook).
    mode
        ``hard``: 1 where high, else 0 (DAAM eq. 8). ``soft``: the value where high, else 0 (I2AM eq. 5); the
        min-max normalised value under rule ``minmax``.
    invert
        Of 1 minus the min-max normalised value, so that low is high; rule ``minmax`` only (for another rule, of
        ``normalize(values, invert=True)``).
    compare
        ``>`` or ``>=``, whether a value equal to the threshold is in; None is the rule's own.

    Returns
    -------
    Same dims, float32. Lazy if `values` is lazy. A map with a NaN becomes NaN.

    Raises
    ------
    UnknownNameError
        For another `rule`, `mode` or `compare`.
    InvalidValueError
        If `tau` is out of range, or `invert` has another rule than ``minmax``.

    Examples
    --------
    >>> m = xr.DataArray([[2.0, 4.0], [3.0, 6.0]], dims=("y", "x"))
    >>> threshold(m, 0.5).values.tolist()  # minmax: 0, 0.5, 0.25, 1
    [[0.0, 0.0], [0.0, 1.0]]
    >>> threshold(m, 0.5, compare=">=").values.tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    >>> threshold(m, 0.5, rule="max").values.tolist()  # at least 3
    [[0.0, 1.0], [1.0, 1.0]]
    """
    if rule not in THRESHOLD_RULES:
        raise unknown_name("threshold rule", rule, THRESHOLD_RULES)
    if mode not in MODES:
        raise unknown_name("threshold mode", mode, MODES)
    if compare not in (None, ">", ">="):
        raise unknown_name("comparison", compare, (">", ">="))
    _check_invert(rule, invert)
    top = {"percentile": 100, "absolute": np.inf}.get(rule, 1)
    if not 0 <= tau <= top:
        raise InvalidValueError(f"threshold {tau!r} is out of range; 0 to {top} is accepted for rule {rule!r}")
    sign = COMPARE[rule] if compare is None else compare
    attrs: dict[str, Any] = {"threshold": f"{rule} {sign} {tau:g} {mode}"}
    if rule == "minmax":
        attrs |= {"normalise": "minmax", **_inversion(values, invert)}
    options = {"tau": tau, "rule": rule, "soft": mode == "soft", "invert": invert, "compare": sign}
    return _by_map(threshold_values, values, attrs, **options)


def threshold_values(
    values: NDArray[Any], tau: float, rule: str, soft: bool = False, invert: bool = False, compare: str | None = None
) -> NDArray[np.float32]:
    """Keep what is high in each map ``(..., cell)``; the numpy kernel of `threshold`."""
    made = _normalised(values, "minmax" if rule == "minmax" else "none", invert)
    if rule in ("minmax", "absolute"):
        limit: Any = np.float32(tau)
    elif rule == "max":
        limit = np.float32(tau) * made.max(-1, keepdims=True)
    else:
        limit = np.quantile(made, tau / 100, axis=-1, keepdims=True)
    high = made > limit if (compare or COMPARE[rule]) == ">" else made >= limit
    kept = np.where(high, made if soft else np.float32(1), np.float32(0))
    kept[np.isnan(made).any(-1)] = np.nan
    return kept


def _check_invert(rule: str, invert: bool) -> None:
    if invert and rule != "minmax":
        raise InvalidValueError(
            f"invert is of rule 'minmax', got {rule!r}: give normalize(values, invert=True) to the other rule"
        )


def _inversion(values: xr.DataArray, invert: bool) -> dict[str, bool]:
    """Attribute that says whether low is high by now: inverting twice is not inverting."""
    return {"invert": bool(values.attrs.get("invert", False)) != invert}


def _by_map(
    kernel: Callable[..., NDArray[np.float32]], values: xr.DataArray, attrs: Mapping[str, Any], **options: Any
) -> xr.DataArray:
    """Apply a kernel of flat maps along the dims of one map."""
    dims = map_dims(values)

    def flat(block: NDArray[Any]) -> NDArray[np.float32]:
        lead = block.shape[: block.ndim - len(dims)]
        return kernel(block.reshape(*lead, -1), **options).reshape(block.shape)

    made: xr.DataArray = xr.apply_ufunc(
        flat,
        values,
        input_core_dims=[list(dims)],
        output_core_dims=[list(dims)],
        dask="parallelized",
        output_dtypes=[np.float32],
    )
    made.attrs = {**values.attrs, **attrs}
    return made.transpose(*values.dims)


def map_dims(values: xr.DataArray) -> tuple[str, ...]:
    """Dims of one map: its two spatial dims, or ``key`` where the keys are tokens."""
    return ("key",) if values.dims and values.dims[-1] == "key" else spatial_dims(values)

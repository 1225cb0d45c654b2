"""I2AM's two definitions of its maps: as printed and as released; from a sum to the map that is shown and scored."""

from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.aggregation.resample import check_picture, parse_grid, resample, spatial_dims
from attlas.analysis.normalise import normalize, threshold
from attlas.analysis.scoring.masked import Mask, plain_dims
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["I2AM_VARIANTS", "check_variant", "transform"]

I2AM_VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"resample": "bicubic", "clamp": False, "reduce": "sum"},
    "released": {"resample": "bicubic", "clamp": True, "order": "tokens", "reduce": "mean"},
}
"""Options of `aggregate` in the paper (eq. 4 and 7) and in the released code (qkrwnstj306/I2AM)."""


def check_variant(variant: str) -> None:
    """Refuse another variant than ``paper`` and ``released``."""
    if variant not in I2AM_VARIANTS:
        raise unknown_name("variant", variant, I2AM_VARIANTS)


def transform(
    values: xr.DataArray,
    picture: str | tuple[int, int],
    tau: float = 0.4,
    *,
    variant: str = "paper",
    rule: str = "bicubic",
    mask: Mask | None = None,
    invert: bool | None = None,
) -> xr.DataArray:
    """Threshold-based transformation: a map at the picture's size in [0, 1], low values set to 0 (I2AM eq. 5).

    Parameters
    ----------
    values
        Maps with rows and columns, such as a ULAM.
    picture
        Rows and columns of the picture, such as ``(512, 384)``.
    tau
        The paper's delta: what is not greater becomes 0.
    variant
        ``paper``: resampled, min-max normalised, soft threshold. ``released``: multiplied by `mask` if one is given,
        min-max normalised, resampled, min-max normalised again (the first changes nothing: resampling is linear and
        keeps constants), inverted where one key only was seen, soft threshold.
    rule
        Resampling, as in `resample`.
    mask
        Multiplies the map before anything else, as the release does to its g2r maps with the mask of the reference
        object, so that there is nothing left to be penalised outside it. Rows and columns on the map's grid, or on
        a finer one, from which it is brought to the map's by `rule`; with a run dim or without.
    invert
        Whether low is high (1 minus the normalised value). None: no in ``paper``; in ``released`` for maps with
        ``attrs["inert"]``, which are its r2g maps of CLS models; the paper does not say so.

    Returns
    -------
    Dims of `values`, rows and columns those of the picture; float32, unit 1, lazy if `values` is.

    Raises
    ------
    UnknownNameError
        For another `variant` or `rule`.
    InvalidValueError
        If `tau` is out of range, the mask is no mask of the map, or maps are of a video.

    References
    ----------
    I2AM (Park et al. 2025), eq. 5, and its released code.

    Examples
    --------
    >>> m = xr.DataArray([[0.0, 1.0], [2.0, 4.0]], dims=("y", "x"))
    >>> transform(m, "2x2").values.tolist()
    [[0.0, 0.0], [0.5, 1.0]]
    >>> transform(m, "2x2", invert=True).values.tolist()
    [[1.0, 0.75], [0.5, 0.0]]
    """
    check_variant(variant)
    check_picture(values, "the threshold-based transformation")
    shape = parse_grid(picture)
    if mask is not None:
        values = (values * _weights(values, mask, rule)).assign_attrs(values.attrs)
    if variant == "released":
        values = normalize(values)
        invert = bool(values.attrs.get("inert", False)) if invert is None else invert
    made = threshold(resample(values, shape, rule), tau, mode="soft", invert=bool(invert))
    return made.assign_attrs(variant=variant, masked=mask is not None)


def _weights(values: xr.DataArray, mask: Mask, rule: str) -> xr.DataArray:
    """Bring a mask to the grid of the map, as 1 and 0 before resampling; NaN where it was not given."""
    dims = spatial_dims(values)
    grid = (values.sizes[dims[0]], values.sizes[dims[1]])
    own = mask if isinstance(mask, xr.DataArray) else xr.DataArray(mask, dims=plain_dims(np.ndim(mask), dims))
    theirs = spatial_dims(own)
    size = (own.sizes[theirs[0]], own.sizes[theirs[1]])
    if size[0] < grid[0] or size[1] < grid[1]:
        raise InvalidValueError(
            f"the mask is {size[0]}x{size[1]}, coarser than the map's {grid[0]}x{grid[1]}; give one at least as fine"
        )
    own = own.drop_vars([name for name in own.coords if name != "run"]).rename(dict(zip(theirs, dims, strict=True)))
    given = own.astype(np.float32)
    return resample((given > 0).astype(np.float32).where(given >= 0), grid, rule)

"""Metrics of maps against what is known: masks, correspondences, pictures. All keep a run dim and are lazy."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from attlas.analysis.aggregation.resample import spatial_dims
from attlas.analysis.scoring.masked import Mask, inside_of, mean_inside, score
from attlas.analysis.scoring.picture_metrics import psnr, ssim
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["DISTANCES", "box", "box_iou", "coverage", "imacs", "iou", "pck", "peak", "psnr", "ssim"]

DISTANCES = ("chebyshev", "euclidean")


def imacs(values: xr.DataArray, mask: Mask, *, penalty: float = 3.0) -> xr.DataArray:
    """Inpainting mask attention consistency score: mean inside the mask minus `penalty` times the mean outside.

    Parameters
    ----------
    values
        Maps, min-max normalised and (the paper) soft-thresholded at 0.4; two spatial dims.
    mask
        Rows and columns as `values` (resample `values` first), with a run dim or without. Boolean; or numbers,
        where above 0 is in and -1 or NaN is not given.
    penalty
        The paper's lambda.

    Returns
    -------
    `values` without its spatial dims, float32, unit 1; in ``[-penalty, 1]`` for values in [0, 1]: 1 where the map
    is the mask, ``-penalty`` where it is the opposite, ``1 - penalty`` for all ones, 0 for zeros. NaN where
    the mask is empty, full or not given, or the map has a NaN.

    Raises
    ------
    InvalidValueError
        If the mask is of another size.

    Notes
    -----
    Exactly linear in `penalty`. The g2r score alone does not tell a trained model from a random one, because queries
    outside the object look at background patches; read it beside r2g and `pck`.

    References
    ----------
    I2AM (Park et al. 2025), eq. 8.

    Examples
    --------
    >>> mask = np.array([[True, True], [False, False]])
    >>> float(imacs(xr.DataArray(mask.astype("f4"), dims=("y", "x")), mask))
    1.0
    """
    inside, dims = inside_of(values, mask)
    outside = 1 - inside
    made = mean_inside(values, inside, dims) - np.float32(penalty) * mean_inside(values, outside, dims)
    return score(made, "IMACS", of=values, penalty=penalty)


def iou(values: xr.DataArray, mask: Mask) -> xr.DataArray:
    """Intersection over union of a hard map (above 0 is in) and a mask, in [0, 1].

    Dims, masks and errors as in `imacs`. NaN where both are empty, the mask is not given, or the map has a NaN.
    An intersection of nothing is 0 and stays.

    Examples
    --------
    >>> a = xr.DataArray([[1.0, 1.0, 0.0]], dims=("y", "x"))
    >>> print(f"{float(iou(a, np.array([[False, True, True]]))):.4f}")
    0.3333
    """
    inside, dims = inside_of(values, mask)
    high = (values > 0).astype(np.float32).where(values.notnull())
    both = (high * inside).sum(dims, skipna=False)
    either = (high + inside - high * inside).sum(dims, skipna=False)
    return score(both / either.where(either > 0), "intersection over union", of=values)


def coverage(values: xr.DataArray) -> xr.DataArray:
    """Fraction of the cells of a hard map that is in (above 0), in [0, 1]; NaN where the map has a NaN.

    Examples
    --------
    >>> float(coverage(xr.DataArray([[1.0, 0.0, 0.0, 0.0]], dims=("y", "x"))))
    0.25
    """
    high = (values > 0).astype(np.float32).where(values.notnull())
    return score(high.mean(spatial_dims(values), skipna=False), "coverage", of=values)


def peak(values: xr.DataArray) -> xr.DataArray:
    """Row and column of the largest value of each map: dims without the spatial ones, then ``coordinate`` (y, x).

    Of equal values the first in row-major order. Float32, unit cells; NaN where the map has a NaN.

    Examples
    --------
    >>> peak(xr.DataArray([[0.0, 0.1], [0.7, 0.2]], dims=("y", "x"))).values.tolist()
    [1.0, 0.0]
    """
    dims = spatial_dims(values)

    def kernel(maps: NDArray[Any]) -> NDArray[np.float32]:
        flat = maps.reshape(*maps.shape[:-2], -1)
        broken = np.isnan(flat).any(-1)
        place = np.stack(np.unravel_index(np.where(np.isnan(flat), -np.inf, flat).argmax(-1), maps.shape[-2:]), -1)
        return np.where(broken[..., None], np.nan, place).astype(np.float32)

    made: xr.DataArray = xr.apply_ufunc(
        kernel,
        values,
        input_core_dims=[list(dims)],
        output_core_dims=[["coordinate"]],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {"coordinate": 2}},
    )
    return score(made.assign_coords(coordinate=["y", "x"]), "place of the maximum", of=values, units="cell")


def pck(predicted: xr.DataArray, true: xr.DataArray, radius: float, *, distance: str = "euclidean") -> xr.DataArray:
    """Fraction of correct keypoints: how many predictions lie within `radius` of the truth, in [0, 1].

    Parameters
    ----------
    predicted, true
        Places with a ``coordinate`` dim (y, x) in one unit, such as patches. Where either is NaN the point does not
        count.
    radius
        Largest distance that is correct; the unit of the places.
    distance
        ``euclidean``; or ``chebyshev``: the larger of the two offsets, so that radius 1 is the 3x3 cells around
        the truth.

    Returns
    -------
    ``(run,)``, or a scalar without run; float32, unit 1. NaN where no point counts.

    Raises
    ------
    UnknownNameError
        For another `distance`.

    Examples
    --------
    >>> true = xr.DataArray([[0.0, 0.0], [5.0, 5.0]], dims=("point", "coordinate"))
    >>> found = xr.DataArray([[1.0, 1.0], [5.0, 7.0]], dims=("point", "coordinate"))
    >>> float(pck(found, true, 1)), float(pck(found, true, 1, distance="chebyshev"))
    (0.0, 0.5)
    """
    if distance not in DISTANCES:
        raise unknown_name("distance", distance, DISTANCES)
    offset = abs(predicted - true)
    if distance == "chebyshev":
        far = offset.max("coordinate", skipna=False)
    else:
        far = (offset**2).sum("coordinate", skipna=False) ** 0.5
    hit = (far <= radius).astype(np.float32).where(far.notnull())
    return score(hit.mean([dim for dim in hit.dims if dim != "run"]), "PCK", radius=radius, distance=distance)


def box(values: xr.DataArray) -> tuple[int, int, int, int] | None:
    """Bounding box of the largest connected part of one hard map: (top, left, bottom, right), ends exclusive.

    Cells above 0 are in; neighbours share an edge. None where nothing is in. Computes a lazy map.

    Examples
    --------
    >>> box(xr.DataArray([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], dims=("y", "x")))
    (1, 1, 2, 3)
    """
    if values.ndim != 2:
        raise InvalidValueError(f"a box is of one map; got dims {tuple(values.dims)}: choose one by isel")
    parts, count = ndimage.label(values.transpose(*spatial_dims(values)).values > 0)
    if count == 0:
        return None
    largest = int(np.argmax(np.bincount(parts.ravel())[1:])) + 1
    rows, columns = ndimage.find_objects(parts)[largest - 1]
    return int(rows.start), int(columns.start), int(rows.stop), int(columns.stop)


def box_iou(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (top, left, bottom, right), ends exclusive, in [0, 1].

    Examples
    --------
    >>> box_iou((0, 0, 2, 2), (0, 1, 2, 3))
    0.3333333333333333
    """
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, height) * max(0.0, width)
    areas = [(own[2] - own[0]) * (own[3] - own[1]) for own in (one, other)]
    return float(both / (sum(areas) - both)) if sum(areas) > 0 else float("nan")

"""I2AM's object detection from maps (Table 1) in array space: boxes of maps, and its baselines with their errors."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from attlas.analysis.aggregation.resample import check_picture, parse_grid, resample, spatial_dims
from attlas.analysis.normalise import normalize, threshold
from attlas.analysis.papers.boxes import (
    EDGES,
    Frame,
    box_ious,
    boxes_of,
    check_boxes,
    mean_iou,
    overall,
    random_boxes,
    to_frame,
)
from attlas.analysis.scoring.masked import score
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = [
    "DETECTION_VARIANTS",
    "EDGES",
    "PICKS",
    "box_ious",
    "boxes",
    "boxes_of",
    "mean_iou",
    "overall",
    "random_baseline",
    "random_boxes",
    "released_scale_error",
    "to_frame",
]

PICKS = ("overlap", "area")
BASELINES = ("corrected", "released")
PLANE = 369
"""Pixels along the longer side of the pictures in which the release finds boxes; its 5x5 cells are of these."""

DETECTION_VARIANTS: dict[str, dict[str, Any]] = {
    "percentile": {"percentile": 65.0, "close": True, "pick": "overlap", "border": 0, "least": 0},
    "fixed": {"percentile": None, "close": False, "pick": "area", "border": 2, "least": 1000},
}
"""The release's later script (``cal_bbox_region_rect.py``) and its older one (``cal_bbox_region.py``)."""


def boxes(
    values: xr.DataArray,
    picture: Frame,
    delta: float = 0.4,
    *,
    variant: str = "percentile",
    pick: str | None = None,
    invert: bool = False,
    plane: Frame | None = None,
    rule: str = "nearest",
) -> xr.DataArray:
    """Box of what each map points at, in pixels of the picture (I2AM section 5.1 and Table 1).

    Parameters
    ----------
    values
        Maps, such as r2g ULAMs; two spatial dims.
    picture
        Rows and columns of the picture in whose pixels the boxes are.
    delta
        The paper's delta, in [0, 1].
    variant
        ``percentile``: the map is min-max normalised, values up to `delta` are set to 0, and what is greater than its
        65th percentile is in, so that the threshold is the larger of the two; opened, closed and dilated by 5x5.
        ``fixed``: what is at least `delta` is in (the release: 0.5), without 2 pixels along the edges and parts of less
        than 1000 pixels; opened by 5x5.
    pick
        Which connected part (corners touch) gives the box: ``overlap``, the one whose bounding box holds the most of
        the mask, of all parts; or ``area``, the largest with its holes. None is the variant's.
    invert
        1 minus the normalised map, as the release does and the paper does not say.
    plane
        Rows and columns in which this is done; by default 369 along the longer side, as in the release, so that 5x5 is
        as large a part of the picture whatever its size.
    rule
        Resampling of the map to the plane, as in `resample`; the release saves pictures of the map's own cells.

    Returns
    -------
    ``(..., edge)``: top, left, bottom, right, ends exclusive; float32, unit pixels, lazy where `values` is. NaN where
    nothing is in (a constant map; by ``percentile`` also one with its maximum at more than 35 % of the cells), or the
    map has a NaN.

    Raises
    ------
    UnknownNameError
        For another `variant`, `pick` or `rule`.
    InvalidValueError
        If `delta` is out of range, or maps are of a video.

    Notes
    -----
    The release reads its maps back from pictures in jet colours of 369x369 pixels and compares the boxes with true
    ones in pixels of 512x512: `released_scale_error` shows what that costs. Here maps stay arrays, and boxes are
    brought to the picture's pixels.

    References
    ----------
    I2AM (Park et al. 2025), section 5.1, and qkrwnstj306/I2AM_PBE_Object_Detection.

    Examples
    --------
    >>> m = xr.DataArray(np.zeros((8, 8)), dims=("y", "x"))
    >>> m[2:6, 1:5] = 1.0
    >>> boxes(m, "512x512", plane="512x512").values.tolist()  # cells of 64 pixels, dilated by 2
    [126.0, 62.0, 386.0, 322.0]
    """
    if variant not in DETECTION_VARIANTS:
        raise unknown_name("detection variant", variant, DETECTION_VARIANTS)
    own = DETECTION_VARIANTS[variant]
    pick = own["pick"] if pick is None else pick
    if pick not in PICKS:
        raise unknown_name("rule to pick a part", pick, PICKS)
    check_picture(values, "a box")
    shape = parse_grid(picture)
    work = _plane(shape) if plane is None else parse_grid(plane)
    dims = spatial_dims(values)
    if own["percentile"] is None:
        scaled = resample(normalize(values, invert=invert), work, rule)
        high = _at_least(scaled, delta)
    else:
        scaled = resample(threshold(values, delta, mode="soft", invert=invert), work, rule)
        high = threshold(scaled, own["percentile"], rule="percentile")
    made: xr.DataArray = xr.apply_ufunc(
        _boxes,
        high,
        kwargs={**{name: own[name] for name in ("close", "border", "least")}, "pick": pick},
        input_core_dims=[list(dims)],
        output_core_dims=[["edge"]],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {"edge": 4}},
    )
    made = to_frame(made.assign_coords(edge=list(EDGES)), work, shape)
    told = {"variant": variant, "pick": pick, "delta": delta, "invert": invert, "plane": f"{work[0]}x{work[1]}"}
    return score(made, "box", of=values, units="pixel", **told)


def random_baseline(
    true: xr.DataArray, frame: Frame, picture: Frame = (512, 512), *, seed: int, variant: str = "corrected"
) -> xr.DataArray:
    """IoU of boxes at random with true ones, ``(run,)``: 'Random' of I2AM Table 1.

    Parameters
    ----------
    true
        True boxes ``(run, edge)``, in pixels of `frame`.
    frame
        The original pictures in which the true boxes are given.
    picture
        The generated pictures, in which the boxes are drawn (`random_boxes`).
    seed
        Of the boxes.
    variant
        ``corrected``: true boxes are brought to the picture's pixels, and boxes that do not meet give 0. ``released``:
        compared as the numbers stand, and an IoU below 1e-5 is NaN and so left out of the mean, which lifts it.

    Raises
    ------
    UnknownNameError
        For another `variant`.

    Examples
    --------
    >>> true = random_boxes(500, "512x512", seed=1)
    >>> [round(mean_iou(random_baseline(true, "512x512", seed=2, variant=own)), 2) for own in ("corrected", "released")]
    [0.22, 0.26]
    """
    if variant not in BASELINES:
        raise unknown_name("variant of the random baseline", variant, BASELINES)
    if check_boxes(true).dims != ("run", "edge"):
        raise InvalidValueError(f"true boxes (run, edge) are needed; got dims {true.dims}")
    drawn = random_boxes(true.sizes["run"], picture, seed=seed)
    if "run" in true.coords:
        drawn = drawn.assign_coords(run=true["run"])
    if variant == "corrected":
        return box_ious(drawn, to_frame(true, frame, picture))
    ious = box_ious(drawn, true)
    return ious.where(ious >= 1e-5).assign_attrs(ious.attrs)


def released_scale_error(
    true: xr.DataArray, picture: Frame = (512, 512), plane: Frame = (PLANE, PLANE)
) -> xr.DataArray:
    """IoU that perfect boxes get where they are found in pixels of `plane` and compared in pixels of `picture`.

    The release reads boxes from pictures of 369x369 pixels and compares them with true ones in 512x512: a box that
    is right is then too small and too near to the corner. The paper reports 0.2416 for its maps.

    Examples
    --------
    >>> round(mean_iou(released_scale_error(random_boxes(4000, "512x512", seed=0))), 2)
    0.24
    """
    return box_ious(to_frame(true, picture, plane), true)


def _plane(picture: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the plane that is shaped as the picture."""
    longest = max(picture)
    return max(1, round(PLANE * picture[0] / longest)), max(1, round(PLANE * picture[1] / longest))


def _boxes(maps: NDArray[Any], *, close: bool, border: int, least: int, pick: str) -> NDArray[np.float32]:
    """Box of each hard map ``(..., row, column)``."""
    made = np.full((*maps.shape[:-2], 4), np.nan, np.float32)
    for place in np.ndindex(maps.shape[:-2]):
        if not np.isnan(maps[place]).any():
            found = _picked(_cleaned(maps[place] > 0, close, border, least), pick)
            made[place] = np.nan if found is None else found
    return made


def _cleaned(mask: NDArray[np.bool_], close: bool, border: int, least: int) -> NDArray[np.bool_]:
    """Remove specks by 5x5, and fill gaps; what lies outside the plane neither erodes nor dilates, as in OpenCV."""
    square = np.ones((5, 5), bool)

    def erode(own: Any) -> Any:
        return ndimage.binary_erosion(own, square, border_value=1)

    def dilate(own: Any) -> Any:
        return ndimage.binary_dilation(own, square)

    if border:
        inner = np.zeros_like(mask)
        inner[border:-border, border:-border] = mask[border:-border, border:-border]
        mask = inner
    if least:
        parts, _ = _parts(mask)
        sizes = np.bincount(parts.ravel())
        mask = (parts > 0) & (sizes[parts] >= least)
    mask = dilate(erode(mask))
    if close:
        mask = dilate(erode(dilate(mask)))
    return np.asarray(mask)


def _picked(mask: NDArray[np.bool_], pick: str) -> tuple[int, int, int, int] | None:
    """Bounding box of the part that is picked; of equals the first in reading order."""
    parts, count = _parts(mask)
    if count == 0:
        return None
    slices = ndimage.find_objects(parts)
    if pick == "overlap":
        worth = [int(mask[own].sum()) for own in slices]
    else:
        worth = [int(ndimage.binary_fill_holes(parts[own] == label).sum()) for label, own in enumerate(slices, 1)]
    rows, columns = slices[int(np.argmax(worth))]
    return int(rows.start), int(columns.start), int(rows.stop), int(columns.stop)


def _parts(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Label the connected parts; corners touch."""
    labels, count = ndimage.label(mask, np.ones((3, 3), bool))
    return labels, int(count)


def _at_least(values: xr.DataArray, delta: float) -> xr.DataArray:
    """Hard map of what is at least `delta`; a NaN stays."""
    if not 0 <= delta <= 1:
        raise InvalidValueError(f"threshold {delta!r} is out of range; 0 to 1 is accepted")
    return (values >= np.float32(delta)).astype(np.float32).where(values.notnull())

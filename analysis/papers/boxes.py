"""Boxes as labelled arrays, ``(..., edge)``: of masks, at random, brought from frame to frame, and their overlap."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.resample import parse_grid, spatial_dims
from attlas.analysis.scoring.masked import score
from attlas.schemas.errors import InvalidValueError

__all__ = ["EDGES", "box_ious", "boxes_of", "check_boxes", "mean_iou", "overall", "random_boxes", "to_frame"]

EDGES = ("top", "left", "bottom", "right")
"""Labels along ``edge``; ends are exclusive, so that a box of one pixel has an area of 1."""

MISSING = ("zero", "drop")
Frame = str | tuple[int, int]


def boxes_of(mask: xr.DataArray) -> xr.DataArray:
    """Smallest box that holds all of each mask (above 0), ``(..., edge)``.

    Float32, unit pixels of the mask, lazy where the mask is. NaN where it is empty, or -1 or NaN: not given.

    Examples
    --------
    >>> boxes_of(xr.DataArray([[0, 0, 0], [0, 1, 1]], dims=("y", "x"))).values.tolist()
    [1.0, 1.0, 2.0, 3.0]
    """
    dims = spatial_dims(mask)

    def kernel(masks: NDArray[Any]) -> NDArray[np.float32]:
        made = np.full((*masks.shape[:-2], 4), np.nan, np.float32)
        for place in np.ndindex(masks.shape[:-2]):
            own = masks[place]
            rows, columns = (np.flatnonzero((own > 0).any(axis)) for axis in (1, 0))
            if len(rows) and bool((own >= 0).all()):
                made[place] = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
        return made

    made: xr.DataArray = xr.apply_ufunc(
        kernel,
        mask,
        input_core_dims=[list(dims)],
        output_core_dims=[["edge"]],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {"edge": 4}},
    )
    return score(made.assign_coords(edge=list(EDGES)), "box", units="pixel")


def to_frame(boxes: xr.DataArray, source: Frame, target: Frame) -> xr.DataArray:
    """Boxes given in the pixels of one frame, in the pixels of another that shows the same.

    An edge is a place, not a pixel: it is multiplied by the ratio of the sizes, so that the whole of one frame is the
    whole of the other.

    Examples
    --------
    >>> whole = xr.DataArray([0.0, 0.0, 64.0, 48.0], {"edge": list(EDGES)}, ("edge",))
    >>> to_frame(whole, "64x48", "512x384").values.tolist()
    [0.0, 0.0, 512.0, 384.0]
    """
    check_boxes(boxes)
    (rows, columns), (height, width) = parse_grid(source), parse_grid(target)
    ratio = np.array([height / rows, width / columns] * 2, np.float32)
    made = boxes * xr.DataArray(ratio, {"edge": list(EDGES)}, ("edge",))
    return made.transpose(*boxes.dims).astype(np.float32).assign_attrs(boxes.attrs)


def random_boxes(
    count: int,
    frame: Frame,
    *,
    seed: int,
    share: tuple[float, float] = (0.1, 0.3),
    aspect: tuple[float, float] = (0.5, 2),
) -> xr.DataArray:
    """Boxes at random, as I2AM's release draws them for Table 1: ``(run, edge)``, float32, in pixels of `frame`.

    The area is uniform in `share` of the frame's, width over height uniform in `aspect`, both sides cut to whole pixels
    and to the frame, the corner uniform among the places where the box fits. By numpy's default generator.

    Raises
    ------
    InvalidValueError
        If `share` or `aspect` is no range of positive numbers, or a share is above 1.

    Examples
    --------
    >>> made = random_boxes(3, "512x512", seed=0)
    >>> height, width = (made.sel(edge=b) - made.sel(edge=a) for a, b in (("top", "bottom"), ("left", "right")))
    >>> (height * width / 512**2).values.round(2).astype(str).tolist()
    ['0.23', '0.1', '0.22']
    """
    for name, (low, high), most in (("share", share, 1.0), ("aspect", aspect, np.inf)):
        if not 0 < low <= high <= most:
            raise InvalidValueError(f"{name} = ({low}, {high}) is no range of numbers above 0 and up to {most:g}")
    rows, columns = parse_grid(frame)
    random = np.random.default_rng(seed)
    made = np.empty((count, 4), np.float32)
    for run in range(count):
        area, ratio = random.uniform(*share) * rows * columns, random.uniform(*aspect)
        height = int(np.sqrt(area / ratio))
        width = max(1, min(int(ratio * height), columns))
        height = max(1, min(height, rows))
        top, left = (int(random.integers(0, room, endpoint=True)) for room in (rows - height, columns - width))
        made[run] = top, left, top + height, left + width
    return score(xr.DataArray(made, {"edge": list(EDGES)}, ("run", "edge")), "random box", units="pixel")


def box_ious(found: xr.DataArray, true: xr.DataArray, *, missing: str = "zero") -> xr.DataArray:
    """Intersection over union of boxes ``(..., edge)`` in one frame, in [0, 1], without ``edge``.

    Parameters
    ----------
    found, true
        Boxes in the same pixels (`to_frame` brings them there). NaN in `true`: not known, and so is the result.
    missing
        Of a box that was not found (NaN): ``zero`` counts it as 0; ``drop`` gives NaN, so that a mean does not see it,
        as I2AM's release does.

    Returns
    -------
    Float32, unit 1, lazy where the boxes are. Boxes that do not meet give 0, which stays.

    Examples
    --------
    >>> one = xr.DataArray([[0.0, 0.0, 2.0, 2.0]], {"edge": list(EDGES)}, ("run", "edge"))
    >>> print(f"{float(box_ious(one, one + [0, 1, 0, 1])[0]):.4f}")
    0.3333
    """
    if missing not in MISSING:
        raise InvalidValueError(f"missing = {missing!r}; 'zero' or 'drop' is accepted")
    one, other = ({edge: check_boxes(boxes).sel(edge=edge, drop=True) for edge in EDGES} for boxes in (found, true))

    def area(box: Any) -> Any:
        return (box["bottom"] - box["top"]) * (box["right"] - box["left"])

    height = np.minimum(one["bottom"], other["bottom"]) - np.maximum(one["top"], other["top"])
    width = np.minimum(one["right"], other["right"]) - np.maximum(one["left"], other["left"])
    both = height.clip(min=0) * width.clip(min=0)
    made = both / (area(one) + area(other) - both)
    if missing == "zero":
        made = made.where(one["top"].notnull(), 0).where(other["top"].notnull())
    return score(made.astype(np.float32), "box intersection over union", of=found)


def mean_iou(ious: xr.DataArray, *, confidence: xr.DataArray | None = None, above: float = 0.5) -> float:
    """Mean of IoUs over runs; NaN ones do not count.

    With the `confidence` of a detector, over the runs where it is `above` 0.5, as I2AM Table 1 does of its supervised
    detectors (its mIoU with > 0.5 is of the category score, not of the IoU). Computes lazy values.

    Examples
    --------
    >>> ious = xr.DataArray([0.2, 0.4, 0.9], dims="run")
    >>> round(mean_iou(ious), 3), mean_iou(ious, confidence=xr.DataArray([0.9, 0.4, 0.5], dims="run"))
    (0.5, 0.2)
    """
    chosen = ious if confidence is None else ious.where(confidence > above)
    return float(chosen.astype(np.float64).mean())


def overall(true: xr.DataArray, frame: Frame) -> xr.DataArray:
    """IoU of the whole frame with each true box, which is the box's share of the area: 'Overall' of I2AM Table 1.

    Examples
    --------
    >>> true = xr.DataArray([[16.0, 8.0, 48.0, 40.0]], {"edge": list(EDGES)}, ("run", "edge"))
    >>> overall(true, "64x64").values.tolist()
    [0.25]
    """
    rows, columns = parse_grid(frame)
    whole = xr.DataArray(np.array([0, 0, rows, columns], np.float32), {"edge": list(EDGES)}, ("edge",))
    return box_ious(whole, true)


def check_boxes(boxes: xr.DataArray) -> xr.DataArray:
    """Give `boxes`, with labels along ``edge``; `InvalidValueError` if they are no boxes."""
    if "edge" not in boxes.dims or boxes.sizes["edge"] != 4:
        shown = ", ".join(f"{dim}: {size}" for dim, size in boxes.sizes.items()) or "none"
        raise InvalidValueError(f"boxes need a dim edge (top, left, bottom, right); got dims {shown}")
    if "edge" in boxes.coords and tuple(boxes["edge"].values.tolist()) != EDGES:
        raise InvalidValueError(f"edges of boxes are {', '.join(EDGES)}; got {boxes['edge'].values.tolist()}")
    return boxes if "edge" in boxes.coords else boxes.assign_coords(edge=list(EDGES))

"""Boxes from maps as a statistic of a run (I2AM Table 1)."""

from typing import Any

import xarray as xr

from attlas.analysis import maps
from attlas.analysis.detection import box_ious, boxes, boxes_of
from attlas.analysis.registry import statistic
from attlas.analysis.roles import annotation_of
from attlas.analysis.trace import Trace

__all__ = ["box_iou"]


@statistic("box_iou", meaning="IoU of the box that the R2G map gives with the object's (I2AM Table 1)")
def box_iou(
    trace: Trace,
    mask: str | None = None,
    delta: float = 0.4,
    variant: str = "percentile",
    invert: bool = False,
    **options: Any,
) -> xr.DataArray:
    """Intersection over union of the ULAM's box and that of the object's mask, ``(run,)``, in [0, 1].

    `mask` names the annotation to take for the role ``object``. `delta`, `variant` and `invert` as in
    `attlas.analysis.detection.boxes`; `options` as in `maps.ulam`.
    A box that was not found counts as 0; NaN where the mask is empty or was not given.
    """
    true = annotation_of(trace, "object", mask)
    made = maps.ulam(trace, "r2g", **options)
    found = boxes(made, (true.shape[-2], true.shape[-1]), delta, variant=variant, invert=invert)
    return box_ious(found, boxes_of(true))

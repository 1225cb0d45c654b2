"""How well attention to a reference finds its way, and how good the picture is, a number for each run."""

import numpy as np
import xarray as xr

from attlas.analysis.metrics import imacs, iou, pck, psnr, ssim
from attlas.analysis.registry import statistic
from attlas.analysis.roles import annotation_of
from attlas.analysis.scoring.reference_scores import (
    PENALTY,
    TAU,
    object_map,
    reference_kind,
    sram_peaks,
    true_patches,
)
from attlas.analysis.trace import Trace
from attlas.schemas.errors import NotRecordedError, unknown_name

__all__ = ["annotation", "imacs_g", "imacs_r", "object_iou", "pck1", "pck2", "picture_psnr", "picture_ssim"]


@statistic("pck1", meaning="SRAM maxima within 1 reference patch of the truth")
def pck1(trace: Trace, kind: str | None = None, layers: str | None = None, sinks: str | None = None) -> xr.DataArray:
    """Fraction of query patches whose SRAM is largest within one reference patch of the truth, ``(run,)``."""
    return _pck(trace, 1, kind, layers, sinks)


@statistic("pck2", meaning="SRAM maxima within 2 reference patches of the truth")
def pck2(trace: Trace, kind: str | None = None, layers: str | None = None, sinks: str | None = None) -> xr.DataArray:
    """Fraction of query patches whose SRAM is largest within two reference patches of the truth, ``(run,)``."""
    return _pck(trace, 2, kind, layers, sinks)


def _pck(trace: Trace, radius: int, kind: str | None, layers: str | None, sinks: str | None) -> xr.DataArray:
    kind = kind or reference_kind(trace)
    return pck(sram_peaks(trace, kind, layers, sinks=sinks), true_patches(trace, kind, layers), radius)


@statistic("imacs_g", meaning="IMACS of the object's R2G map on the generated picture (I2AM eq. 8)")
def imacs_g(
    trace: Trace,
    kind: str | None = None,
    layers: str | None = None,
    mask: str | None = None,
    reference_mask: str | None = None,
    over: str = "object",
    tau: float = TAU,
    penalty: float = PENALTY,
    sinks: str | None = None,
) -> xr.DataArray:
    """IMACS of the R2G map against the object's mask on the generated picture, ``(run,)``, in [-penalty, 1].

    Options are those of `object_map`; ``over="all"`` is the ULAM of I2AM eq. 7, averaged over all reference patches.
    """
    made = _object_map(trace, "r2g", kind, layers, mask, reference_mask, over, tau, sinks)
    return imacs(made, annotation_of(trace, "object", mask), penalty=penalty)


@statistic("imacs_r", meaning="IMACS of the object's G2R map on the reference (I2AM eq. 8)")
def imacs_r(
    trace: Trace,
    kind: str | None = None,
    layers: str | None = None,
    mask: str | None = None,
    reference_mask: str | None = None,
    over: str = "object",
    tau: float = TAU,
    penalty: float = PENALTY,
    sinks: str | None = None,
) -> xr.DataArray:
    """IMACS of the G2R map against the object's mask on the reference, ``(run,)``, in [-penalty, 1]."""
    made = _object_map(trace, "g2r", kind, layers, mask, reference_mask, over, tau, sinks)
    return imacs(made, annotation_of(trace, "reference_object", reference_mask), penalty=penalty)


@statistic("object_iou", meaning="IoU of the object's R2G map, thresholded, with its mask on the generated picture")
def object_iou(
    trace: Trace,
    kind: str | None = None,
    layers: str | None = None,
    mask: str | None = None,
    reference_mask: str | None = None,
    over: str = "object",
    tau: float = TAU,
    sinks: str | None = None,
) -> xr.DataArray:
    """Intersection over union of the thresholded R2G map and the object's mask, ``(run,)``, in [0, 1]."""
    made = _object_map(trace, "r2g", kind, layers, mask, reference_mask, over, tau, sinks)
    return iou(made, annotation_of(trace, "object", mask))


def _object_map(
    trace: Trace,
    direction: str,
    kind: str | None,
    layers: str | None,
    mask: str | None,
    reference_mask: str | None,
    over: str,
    tau: float,
    sinks: str | None,
) -> xr.DataArray:
    return object_map(
        trace,
        direction,
        kind=kind or reference_kind(trace),
        layers=layers,
        mask=mask,
        reference_mask=reference_mask,
        over=over,
        tau=tau,
        sinks=sinks,
    )


@statistic("psnr", units="dB", meaning="PSNR of the generated picture against the true one, inside the object")
def picture_psnr(
    trace: Trace, target: str | None = None, mask: str | None = None, over: str = "object"
) -> xr.DataArray:
    """Peak signal-to-noise ratio against the true picture, ``(run,)``, dB.

    `target` and `mask` name annotations to take for the roles ``target`` and ``object``; ``over="all"`` takes the
    whole picture, unless a mask is named.
    """
    return psnr(trace.images, annotation_of(trace, "target", target), _inside(trace, mask, over))


@statistic("ssim", meaning="SSIM of the generated picture against the true one")
def picture_ssim(trace: Trace, target: str | None = None, mask: str | None = None, over: str = "all") -> xr.DataArray:
    """Structural similarity to the true picture, ``(run,)``, in [-1, 1]; options as in `picture_psnr`."""
    return ssim(trace.images, annotation_of(trace, "target", target), _inside(trace, mask, over))


def _inside(trace: Trace, mask: str | None, over: str) -> xr.DataArray | None:
    if over not in ("object", "all"):
        raise unknown_name("part of the picture", over, ("object", "all"))
    return None if over == "all" and mask is None else annotation_of(trace, "object", mask)


@statistic("annotation", meaning="a number noted of each run; 'annotation:NAME'")
def annotation(trace: Trace, name: str) -> xr.DataArray:
    """Numbers that were annotated as `name`: one a run, or several along a dim; the fill of masks and counts is NaN.

    Raises
    ------
    UnknownNameError
        If there is no such annotation.
    NotRecordedError
        If it is no number.
    """
    if name not in trace.annotations:
        raise unknown_name("annotation", name, map(str, trace.annotations), where=trace.where)
    values = trace.annotations[name]
    if values.dtype.kind not in "fi" or values.ndim > 2:
        raise NotRecordedError(
            f"annotation {name!r} of {trace.where} is {values.dtype} with dims {values.dims}; a number, or a list of "
            "numbers, for each run is needed"
        )
    return values if values.dtype.kind == "f" else values.astype(np.float64).where(values >= 0)

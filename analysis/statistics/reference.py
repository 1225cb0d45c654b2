"""How well attention to a reference finds its way, and how good the picture is, a number for each run."""

import numpy as np
import xarray as xr

from attlas.analysis.metrics import imacs, iou, pck, psnr, ssim
from attlas.analysis.registry import statistic
from attlas.analysis.scoring.reference_scores import (
    PENALTY,
    TAU,
    noted_mask,
    object_map,
    reference_kind,
    sram_peaks,
    true_patches,
)
from attlas.analysis.trace import Trace
from attlas.schemas.errors import NotRecordedError, unknown_name

__all__ = ["annotation", "garment_iou", "imacs_g", "imacs_r", "pck1", "pck2", "picture_psnr", "picture_ssim"]


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
    mask: str = "garment",
    reference_mask: str = "reference_garment",
    over: str = "object",
    tau: float = TAU,
    penalty: float = PENALTY,
    sinks: str | None = None,
) -> xr.DataArray:
    """IMACS of the R2G map against the object's mask on the generated picture, ``(run,)``, in [-penalty, 1].

    Options are those of `object_map`; ``over="all"`` is the ULAM of I2AM eq. 7, averaged over all reference patches.
    """
    made = _object_map(trace, "r2g", kind, layers, mask, reference_mask, over, tau, sinks)
    return imacs(made, noted_mask(trace, mask), penalty=penalty)


@statistic("imacs_r", meaning="IMACS of the object's G2R map on the reference (I2AM eq. 8)")
def imacs_r(
    trace: Trace,
    kind: str | None = None,
    layers: str | None = None,
    mask: str = "garment",
    reference_mask: str = "reference_garment",
    over: str = "object",
    tau: float = TAU,
    penalty: float = PENALTY,
    sinks: str | None = None,
) -> xr.DataArray:
    """IMACS of the G2R map against the object's mask on the reference, ``(run,)``, in [-penalty, 1]."""
    made = _object_map(trace, "g2r", kind, layers, mask, reference_mask, over, tau, sinks)
    return imacs(made, noted_mask(trace, reference_mask), penalty=penalty)


@statistic("garment_iou", meaning="IoU of the object's R2G map, thresholded, with its mask on the generated picture")
def garment_iou(
    trace: Trace,
    kind: str | None = None,
    layers: str | None = None,
    mask: str = "garment",
    reference_mask: str = "reference_garment",
    over: str = "object",
    tau: float = TAU,
    sinks: str | None = None,
) -> xr.DataArray:
    """Intersection over union of the thresholded R2G map and the object's mask, ``(run,)``, in [0, 1]."""
    made = _object_map(trace, "r2g", kind, layers, mask, reference_mask, over, tau, sinks)
    return iou(made, noted_mask(trace, mask))


def _object_map(
    trace: Trace,
    direction: str,
    kind: str | None,
    layers: str | None,
    mask: str,
    reference_mask: str,
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


@statistic("psnr", units="dB", meaning="PSNR of the generated picture against the target, inside a mask")
def picture_psnr(trace: Trace, target: str = "target", mask: str | None = "garment") -> xr.DataArray:
    """Peak signal-to-noise ratio against an annotated picture, ``(run,)``, dB; ``mask=None`` takes all of it."""
    return psnr(trace.images, _noted(trace, target), None if mask is None else noted_mask(trace, mask))


@statistic("ssim", meaning="SSIM of the generated picture against the target")
def picture_ssim(trace: Trace, target: str = "target", mask: str | None = None) -> xr.DataArray:
    """Structural similarity to an annotated picture, ``(run,)``, in [-1, 1]; inside a mask if one is named."""
    return ssim(trace.images, _noted(trace, target), None if mask is None else noted_mask(trace, mask))


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


def _noted(trace: Trace, name: str) -> xr.DataArray:
    if name not in trace.annotations:
        raise NotRecordedError(
            f"annotation {name!r} was not given while recording; a picture to compare with is needed"
        )
    return trace.annotations[name]

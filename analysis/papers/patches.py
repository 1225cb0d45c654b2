"""I2AM's maps of patches: what a patch of the picture looks at, and where a patch of the reference goes."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.key_parts import part_of
from attlas.analysis.aggregation.selection import pick_kind, pick_parts
from attlas.analysis.papers.levels import made_by
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError

__all__ = ["Patch", "reverse_sram", "sram"]

Patch = tuple[int, ...] | NDArray[Any] | xr.DataArray


def sram(
    trace: Trace, patch: Patch, *, keep: str | Iterable[str] = "layer", variant: str = "paper", **options: Any
) -> xr.DataArray:
    """Specific-reference attribution map: what one generated patch looks at (I2AM eq. 14).

    Row i of the G2R attention, summed over calls and heads, one map per layer.

    Parameters
    ----------
    trace
        From `open_trace`.
    patch
        ``(row, column)`` on the finest query grid of the chosen layers (coarser layers give the row of the cell that
        holds it); ``(row, column, row end, column end)``, a box, ends exclusive; both with the frame before the
        row in a video; or a mask (see `aggregate`). Of several patches the mean is taken.
    keep
        Axes to keep; ``()`` sums over layers too.
    variant
        As in `ulam`; ``released`` takes the mean over heads (and layers) of negative values set to 0.
    **options
        Of `aggregate`; ``keys="reference"`` or ``keys="generated"`` says which part of a joint sequence the map
        lies on.

    Returns
    -------
    ``(run, layer, key_y, key_x)``, float32, unit 1, lazy. Before resampling each call and head contributes 1 in
    all, CLS included.

    Raises
    ------
    InvalidValueError
        If the patch lies outside the grid, or the mask is empty or of another size.
    NotRecordedError
        If single steps are asked of a store that keeps summaries only.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> from attlas.analysis.metrics import peak
    >>> m = sram(open_trace(simulate_store(runs=1)), (1, 0), keep=())
    >>> peak(m).values.tolist()  # this store looks at the place mirrored left to right
    [[1.0, 3.0]]
    """
    options["queries"] = _patch_mask(trace, patch, "query", options)
    made = made_by(trace, "g2r", keep, variant, options)
    return made.assign_attrs({**made.attrs, "chosen_queries": _said_patch(patch)})


def reverse_sram(
    trace: Trace, patch: Patch, *, keep: str | Iterable[str] = "layer", variant: str = "paper", **options: Any
) -> xr.DataArray:
    """Where one reference patch goes in the generated image: column j of the R2G attention.

    The counterpart of `sram`: softmax over queries, so that each call and head contributes 1 in all. I2AM's
    appendix A.4 names a reverse SRAM without an equation, and its release has none: defined here.

    Parameters as in `sram`, with `patch` on the finest key grid; ``keys="reference"`` or ``keys="generated"`` says
    on which part of a joint sequence, and ``picture`` on which reference. Needs the full arrays.

    Returns
    -------
    ``(run, layer, query_y, query_x)``, float32, unit 1, lazy.
    """
    if isinstance(options.get("keys"), str):
        options["segment"] = options.pop("keys")
    options["keys"] = _patch_mask(trace, patch, "key", options)
    made = made_by(trace, "r2g", keep, variant, options)
    return made.assign_attrs({**made.attrs, "chosen_keys": _said_patch(patch)})


def _patch_mask(trace: Trace, patch: Patch, axis: str, options: dict[str, Any]) -> Any:
    """Turn a patch or box into a mask of rows and columns on the finest grid of the chosen layers."""
    if not isinstance(patch, tuple):
        return patch
    kind = pick_kind(trace, options.get("kind"))
    leaves = [part.leaf for part in pick_parts(trace, kind, options.get("layers"), None)]
    part = part_of(leaves, None, options.get("segment"), options.get("picture"))
    sized = [leaf.query_grid if axis == "query" else part.grid(leaf) for leaf in leaves]
    grid = max((size for size in sized if size is not None), key=lambda size: size[-2] * size[-1], default=None)
    if grid is None:
        raise InvalidValueError(f"keys of kind {kind!r} are no patches; a patch has no meaning here")
    names = ("frame", "row", "column")[-len(grid) :]
    if len(patch) not in (len(grid), 2 * len(grid)) or not all(isinstance(size, (int, np.integer)) for size in patch):
        box = (*names, *(f"{name} end" for name in names))
        raise InvalidValueError(f"patch {patch!r}; ({', '.join(names)}) or ({', '.join(box)}) is accepted")
    first = patch[: len(grid)]
    last = patch[len(grid) :] or tuple(place + 1 for place in first)
    if not all(0 <= low < high <= size for low, high, size in zip(first, last, grid, strict=True)):
        shown = "x".join(str(size) for size in grid)
        raise InvalidValueError(f"patch {patch!r} lies outside the {shown} {axis} grid of kind {kind!r}")
    mask = np.zeros(grid, dtype=bool)
    mask[tuple(slice(low, high) for low, high in zip(first, last, strict=True))] = True
    return mask


def _said_patch(patch: Patch) -> str:
    return f"patch {patch}" if isinstance(patch, tuple) else str(getattr(patch, "name", None) or "mask")

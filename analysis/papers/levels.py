"""I2AM's maps by level: unified, time, head and layer, as printed and as released."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.aggregate import aggregate
from attlas.analysis.aggregation.selection import head_labels, pick_calls
from attlas.analysis.papers.i2am import I2AM_VARIANTS, check_variant
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["UNEQUAL", "hlam", "llam", "made_by", "tlam", "ulam"]

UNEQUAL = ("error", "grid", "flat")
"""What `hlam` does of layers that have different numbers of heads."""


def ulam(trace: Trace, direction: str, *, variant: str = "paper", **options: Any) -> xr.DataArray:
    """Unified-level attribution map: all calls, layers and heads summed (I2AM eq. 7).

    ``g2r`` lies on the key grid (what of the reference is used), ``r2g`` on the query grid (where it goes).

    Parameters
    ----------
    trace, direction
        As in `aggregate`.
    variant
        ``paper``; or ``released``: each token's own map is resampled by bicubic and negative values set to 0 before
        the mean over the tokens, then the sum over calls and the mean over layers and heads. Layers are those
        chosen: the release takes all but the middle block for r2g, and one layer of 32x24 for g2r.
    **options
        Of `aggregate`; they win over the variant's.

    Returns
    -------
    ``(run, query_y, query_x)`` or ``(run, key_y, key_x)``, float32, unit 1, lazy.

    Raises
    ------
    UnknownNameError, InvalidValueError, NotRecordedError
        As `aggregate`; ``released`` needs the attention itself, of single calls for r2g.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> ulam(open_trace(simulate_store(runs=1)), "r2g").dims
    ('run', 'query_y', 'query_x')
    """
    return made_by(trace, direction, (), variant, options)


def tlam(
    trace: Trace,
    direction: str,
    groups: int | None = None,
    *,
    inclusive: bool = False,
    keep: str | Iterable[str] = (),
    variant: str = "paper",
    **options: Any,
) -> xr.DataArray:
    """Time-level attribution maps: one per denoiser call, or per group of calls (I2AM eq. 10 and 11).

    Parameters
    ----------
    trace, direction
        As in `aggregate`.
    groups
        Number of groups of neighbouring calls, the first the noisiest, as even as can be (the paper: 5 of 10). None:
        every call by itself.
    inclusive
        Each group also takes the first call of the next, as eq. 11 is printed. Off by default, so that the
        groups add up to the ULAM, as in the released code.
    keep
        More axes to keep, such as ``grid`` (I2AM Fig. 20a), ``layer`` or ``head``.
    variant
        As in `ulam`.
    **options
        Of `aggregate`.

    Returns
    -------
    ``(run, t, y, x)``, or ``(run, t_group, y, x)`` with coordinates ``t_start`` and ``t_stop`` (exclusive); a kept
    ``grid`` stands before t, ``layer`` and ``head`` after it. Float32, unit 1, lazy.

    Raises
    ------
    InvalidValueError
        If there are fewer calls than groups.
    """
    made = made_by(trace, direction, _with(keep, "t"), variant, options)
    if groups is None:
        return made
    count = made.sizes["t"]
    if not 1 <= groups <= count:
        raise InvalidValueError(f"groups = {groups} of {count} calls; 1 to {count} is accepted")
    places = np.array_split(np.arange(count), groups)
    bounds = [(int(own[0]), int(own[-1]) + 1) for own in places]
    if inclusive:
        bounds = [(start, min(stop + 1, count)) for start, stop in bounds]
    if made.attrs["clamp"]:
        # What is clamped is the sum of a group, not each call.
        calls = pick_calls(trace, options.get("steps"), options.get("calls")) or list(range(count))
        rest = {**options, "steps": None}
        parts = [
            made_by(trace, direction, _with(keep), variant, {**rest, "calls": calls[slice(*bound)]}) for bound in bounds
        ]
        grouped = xr.Variable.concat([own.variable for own in parts], "t_group")  # type: ignore[no-untyped-call]
    else:
        grouped = _by_group(made.variable, bounds)
    dims = ["t_group" if dim == "t" else dim for dim in made.dims]
    labels = made["t"].values
    coords = {name: own.variable for name, own in made.coords.items() if "t" not in own.dims} | {
        "t_group": np.arange(groups),
        "t_start": ("t_group", [int(labels[start]) for start, _ in bounds]),
        "t_stop": ("t_group", [int(labels[stop - 1]) + 1 for _, stop in bounds]),
    }
    attrs = {**made.attrs, "groups": groups, "inclusive": inclusive}
    return xr.DataArray(grouped.transpose(*dims).data, coords, dims, attrs=attrs).rename(None)


def _by_group(made: xr.Variable, bounds: list[tuple[int, int]]) -> xr.Variable:
    """Sum the calls of each group, in one task a block."""
    axis = made.dims.index("t")
    whole = made.data.rechunk({axis: -1})
    chunks = (*whole.chunks[:axis], (len(bounds),), *whole.chunks[axis + 1 :])
    sums = whole.map_blocks(
        _group_sums, axis, bounds, chunks=chunks, dtype=np.float32, meta=np.empty((0,) * whole.ndim, np.float32)
    )
    return xr.Variable(["t_group" if dim == "t" else dim for dim in made.dims], sums)


def _group_sums(values: NDArray[np.float32], axis: int, bounds: list[tuple[int, int]]) -> NDArray[np.float32]:
    by_call = np.moveaxis(values, axis, 0)
    return np.stack([by_call[slice(*bound)].sum(0) for bound in bounds], axis)


def hlam(
    trace: Trace,
    direction: str,
    *,
    unequal: str = "error",
    keep: str | Iterable[str] = (),
    variant: str = "paper",
    **options: Any,
) -> xr.DataArray:
    """Head-level attribution maps: the share of each head in the ULAM (I2AM eq. 12).

    Parameters
    ----------
    trace, direction
        As in `aggregate`.
    unequal
        Over layers with different numbers of heads a map per head has no meaning: head 7 of one is not head 7 of
        another. ``error`` says so; ``grid`` puts together layers of one query grid only (I2AM Fig. 17 and 20b), NaN
        for a head that a grid lacks; ``flat`` keeps every head of every layer by itself, in one axis, as head
        relevance vectors number them. The last two do so for equal numbers too.
    keep
        More axes to keep, such as ``grid``, ``t`` or ``layer``.
    variant
        As in `ulam`.
    **options
        Of `aggregate`.

    Returns
    -------
    ``(run, head, y, x)``, other kept axes before the head; ``(run, grid, head, y, x)``; or ``(run, layer_head, y, x)``
    with coordinates ``layer``, ``head`` and ``grid``. Float32, unit 1, lazy.

    Raises
    ------
    UnknownNameError
        For another `unequal`.
    InvalidValueError
        If layers differ in their number of heads and `unequal` is ``error``.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> m = hlam(open_trace(simulate_store(runs=1, kinds=("image",))), "r2g", unequal="flat")
    >>> m.dims, m["head"].values.tolist()  # two layers of two heads
    (('run', 'layer_head', 'query_y', 'query_x'), [0, 1, 0, 1])
    """
    if unequal not in UNEQUAL:
        raise unknown_name("rule for unequal heads", unequal, UNEQUAL)
    if unequal == "error":
        return made_by(trace, direction, _with(keep, "head"), variant, options)
    axes = _with(keep, "head", "grid" if unequal == "grid" else "layer")
    made = made_by(trace, direction, axes, variant, options).assign_attrs(unequal=unequal)
    return _flat(trace, made) if unequal == "flat" else made


def llam(
    trace: Trace, direction: str, *, keep: str | Iterable[str] = (), variant: str = "paper", **options: Any
) -> xr.DataArray:
    """Layer-level attribution maps: the share of each layer in the ULAM (I2AM eq. 13).

    Dims ``(run, layer, y, x)`` with the ``grid`` of each layer as a coordinate; a kept ``t`` stands before the layer,
    ``head`` after it. `keep`, `variant`, `options` and errors as in `tlam` and `aggregate`.
    """
    return made_by(trace, direction, _with(keep, "layer"), variant, options)


def made_by(
    trace: Trace, direction: str, keep: str | Iterable[str], variant: str, options: dict[str, Any]
) -> xr.DataArray:
    """`aggregate` by the rules of a variant; `options` win over them."""
    check_variant(variant)
    own = {**I2AM_VARIANTS[variant], **options}
    made = aggregate(trace, direction, keep, **own)
    attrs = {**made.attrs, "variant": variant}
    if variant == "released" and own["reduce"] == "mean" and "t" not in made.dims:
        # The released code takes the mean over layers and heads only.
        calls = pick_calls(trace, own.get("steps"), own.get("calls"))
        made = made * np.float32(trace.calls if calls is None else len(calls))
        attrs["reduce"] = "sum over t, mean over layers and heads"
    made.attrs = attrs
    return made


def _with(keep: str | Iterable[str], *more: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*((keep,) if isinstance(keep, str) else keep), *more)))


def _flat(trace: Trace, made: xr.DataArray) -> xr.DataArray:
    """Layer and head as one axis, without the heads that a layer lacks."""
    known = {path: head_labels(leaf) for leaf in trace.leaves.values() for path in leaf.layers}
    pairs = [(path, head) for path in made["layer"].values.tolist() for head in made["head"].values.tolist()]
    there = [place for place, (path, head) in enumerate(pairs) if head in known[path]]
    dims = tuple("layer_head" if dim == "layer" else dim for dim in made.dims if dim != "head")
    stacked = made.stack(layer_head=("layer", "head"), create_index=False)
    return stacked.isel(layer_head=there).transpose(*dims)

"""Order, smoothness and concentration of attention to a reference: of torch tensors, or of a trace, lazily.

The same three numbers are I2AM's refine losses (appendix A.5, eq. 15-21): differentiable where they are given a tensor,
a diagnosis of every layer, head and call where they are given a trace. What the paper leaves open is settled in
`attlas.analysis.papers.attention_losses`.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, overload

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from attlas.analysis.aggregation.key_parts import KeyPart, part_of
from attlas.analysis.aggregation.selection import Part, pick_calls, pick_kind, pick_parts, warn_inert
from attlas.analysis.aggregation.weights import axis_weights
from attlas.analysis.blockwise import kernels
from attlas.analysis.blockwise.attention import run_coords
from attlas.analysis.papers.attention_losses import LOSSES
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, NotRecordedError, unknown_name

__all__ = ["cwg", "dcml", "tv"]

KEEP = ("t", "layer", "head")
SOURCES = ("full", "attention_mean")
UNITS = {"dcml": "patches", "tv": "patches^2", "cwg": "1"}
Grids = tuple[tuple[int, int], tuple[int, int]]


@overload
def dcml(of: Tensor, queries: Tensor | None = None, **options: Any) -> Tensor: ...
@overload
def dcml(of: Trace, queries: Any = None, **options: Any) -> xr.DataArray: ...
def dcml(of: Tensor | Trace, queries: Any = None, **options: Any) -> Tensor | xr.DataArray:
    """Distance-centring maximisation loss: how far the centres of attention lie in the wrong order.

    The centre of a query is the mean place of its attention (eq. 15). Of two queries in one row of the picture the
    left one should look further left (eq. 16), of two in one column the upper one further up (eq. 17); every pair
    that does not adds the distance by which it is wrong.

    Parameters
    ----------
    of
        Attention, a torch tensor ``(..., query_y, query_x, key_y, key_x)``, or ``(..., query, key)`` with `grids`; or
        a trace.
    queries
        Which queries count; the paper: those in the true region of the object. Of a tensor, a mask ``(..., query_y,
        query_x)``. Of a trace, a mask as `maps` take them, such as ``annotation_of(trace, "object")``: a cell counts if
        more than half of it is covered.
    **options
        For both: ``coordinates``, place of each patch as (x, y), by default its column and row; ``variant``,
        ``expectation`` or ``printed``; ``reduction``, ``paper`` or ``mean``; ``renormalise``, by default True: see
        `attlas.analysis.papers.attention_losses`. Of a tensor: ``grids``, the rows and columns of queries and of keys.
        Of a trace: ``kind`` (by default image); ``layers`` and ``steps`` as `maps` take them; ``branch`` (cond);
        ``segment`` and ``picture``, the part of the keys; ``keep``, which of t, layer and head stay apart (all three),
        the rest is averaged over after the loss is taken; ``source``: ``full``, or ``attention_mean``: the loss of the
        attention averaged over t, which a summary store holds too, and which is another number, because the
        losses are not linear; ``coordinates`` may have a run dim.

    Returns
    -------
    Of a tensor, its leading dims, differentiable. Of a trace ``(run, *keep)``, float32, lazy, unit patches: at least
    0, and 0 if every pair is in order. NaN where a run lacks data or its mask, or (``mean``) no pair counts.

    Raises
    ------
    UnknownNameError
        For an unknown layer, branch, axis, variant, reduction or source.
    InvalidValueError
        For a mask or coordinates of another size, or heads kept apart of layers that differ in their number.
    NotRecordedError
        If the keys are no patches, or the store lacks what is asked for.

    Notes
    -----
    Order along the reference's own rows has a meaning only where references lie as the picture does. Where they are
    turned or mirrored, give the `coordinates` of the patches on the upright object, which
    `upright_places` finds in the demo world. A low loss alone is no sign of a good layer: all
    three are least where every query looks at one and the same patch.

    References
    ----------
    I2AM (Park et al. 2025), eq. 15-18.

    Examples
    --------
    >>> looks = torch.eye(9).reshape(3, 3, 3, 3)
    >>> float(dcml(looks)), float(dcml(looks.flip(1)))
    (0.0, 12.0)
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> dcml(open_trace(simulate_store(runs=1, kinds=("image",))), keep=("layer",)).dims
    ('run', 'layer')
    """
    return _of("dcml", of, queries, options)


@overload
def tv(of: Tensor, queries: Tensor | None = None, **options: Any) -> Tensor: ...
@overload
def tv(of: Trace, queries: Any = None, **options: Any) -> xr.DataArray: ...
def tv(of: Tensor | Trace, queries: Any = None, **options: Any) -> Tensor | xr.DataArray:
    """Total variation loss: squared steps between the centres of neighbouring queries (eq. 19).

    Arguments, results and errors as in `dcml`; unit patches squared, 0 where all queries look at one place.

    Examples
    --------
    >>> float(tv(torch.eye(4).reshape(2, 2, 2, 2)))
    4.0
    """
    return _of("tv", of, queries, options)


@overload
def cwg(of: Tensor, queries: Tensor | None = None, **options: Any) -> Tensor: ...
@overload
def cwg(of: Trace, queries: Any = None, **options: Any) -> xr.DataArray: ...
def cwg(of: Tensor | Trace, queries: Any = None, **options: Any) -> Tensor | xr.DataArray:
    """Centre-weighted Gaussian loss: minus the attention that lies near its own centre (eq. 20 and 21).

    Arguments, results and errors as in `dcml`, and ``sigma``, the Gaussian's width in patches (1). With
    ``reduction="mean"`` in [-1, 0], and -1 where every query looks at one patch alone; the paper's is that divided by
    the number of patches.

    Examples
    --------
    >>> float(cwg(torch.eye(4).reshape(2, 2, 2, 2), reduction="mean"))
    -1.0
    """
    return _of("cwg", of, queries, options)


def _of(name: str, of: Tensor | Trace, queries: Any, options: dict[str, Any]) -> Tensor | xr.DataArray:
    if isinstance(of, Trace):
        return _of_trace(name, of, queries, **options)
    if not isinstance(of, Tensor):
        raise InvalidValueError(f"{name} takes a torch tensor or a trace; got {type(of).__name__}")
    return _of_tensor(name, of, queries, **options)


def _of_tensor(name: str, of: Tensor, queries: Tensor | None, *, grids: Grids | None = None, **options: Any) -> Tensor:
    if grids is not None:
        sizes = tuple(rows * columns for rows, columns in grids)
        if tuple(of.shape[-2:]) != sizes:
            raise InvalidValueError(f"attention of shape {tuple(of.shape)} does not fit the grids {grids}: {sizes}")
        of = of.reshape(*of.shape[:-2], *grids[0], *grids[1])
    made: Tensor = LOSSES[name](of, queries, **options)
    return made


def _of_trace(
    name: str,
    trace: Trace,
    queries: Any,
    *,
    kind: str | None = None,
    layers: str | Sequence[str] | None = None,
    keep: str | Iterable[str] = KEEP,
    branch: str = "cond",
    steps: int | slice | Iterable[int] | None = None,
    segment: str | None = None,
    picture: int | None = None,
    source: str = "full",
    coordinates: Any = None,
    **options: Any,
) -> xr.DataArray:
    kept = (keep,) if isinstance(keep, str) else tuple(keep)
    for axis in kept:
        if axis not in KEEP:
            raise unknown_name("axis to keep", axis, KEEP)
    if source not in SOURCES:
        raise unknown_name("source", source, SOURCES)
    if source == "attention_mean" and ("t" in kept or steps is not None):
        raise InvalidValueError('source="attention_mean" is the mean over t: leave t out of keep, and steps too')
    kind = pick_kind(trace, kind)
    if branch not in trace.branches:
        raise unknown_name("branch", branch, trace.branches, where=trace.where)
    parts = pick_parts(trace, kind, layers, None)
    inert = warn_inert([part.leaf for part in parts])
    key_part = part_of((part.leaf for part in parts), None, segment, picture)
    if "head" in kept and "layer" not in kept and len({part.leaf.heads for part in parts}) > 1:
        raise InvalidValueError("layers differ in their number of heads: keep layer too, or choose layers of one count")
    made = []
    for part in parts:
        attention = _attention(trace, part, kind, branch, source)
        if steps is not None:
            attention = attention.isel(t=pick_calls(trace, steps))
        weights = axis_weights(trace, part.name, "query", queries, (branch,), key_part)
        values = _blockwise(name, trace, part, key_part, attention, weights, coordinates, options)
        made.append(values.mean([dim for dim in KEEP if dim in values.dims and dim not in (*kept, "layer")]))
    whole = made[0] if len(made) == 1 else xr.concat(made, "layer", coords="minimal", compat="override", join="outer")
    if "layer" not in kept:
        whole = whole.mean("layer", skipna=False)
    whole = whole.transpose("run", *(axis for axis in KEEP if axis in kept)).astype(np.float32)
    whole = whole.reset_coords(drop=True).assign_coords(run_coords(trace))
    whole.attrs = {"units": UNITS[name], "long_name": name.upper(), "kind": kind, "branch": branch, "source": source}
    whole.attrs |= {"inert": inert, **options}
    return whole.rename(name)


def _attention(trace: Trace, part: Part, kind: str, branch: str, source: str) -> xr.DataArray:
    """Attention of the chosen layers, lazy, ``(run[, t], layer, head, query, key)``."""
    if source == "full":
        found = trace.attention(kind, "g2r", part.name.partition("/")[2]).sel(branch=branch)
    elif trace.holds(part.name, "attention_mean"):
        found = trace.arrays(part.name, ["attention_mean"], branch)["attention_mean"].isel(branch=0)
    else:
        raise NotRecordedError(f'{trace.where}: leaf {part.name} keeps no attention_mean; use source="full"')
    dims = [dim for dim in ("run", "t", "layer", "head", "query", "key") if dim in found.dims]
    found = found.isel(part.place).reset_coords(drop=True).drop_vars(["query", "key"], errors="ignore")
    return found.transpose(*dims)


def _blockwise(
    name: str,
    trace: Trace,
    part: Part,
    key_part: KeyPart,
    attention: xr.DataArray,
    weights: Any,
    coordinates: Any,
    options: dict[str, Any],
) -> xr.DataArray:
    """One loss of every matrix; blocks are those of the attention."""
    grid = key_part.grid(part.leaf)
    if grid is None or len(grid) != 2 or len(part.leaf.query_grid) != 2:
        raise NotRecordedError(
            f"{trace.where}: queries and keys of {part.name} are not both patches of a picture; {name} needs attention "
            "to a reference image"
        )
    if weights is None:
        mask = xr.DataArray(np.ones(part.leaf.queries, np.float32), dims="query")
    else:
        mask = xr.DataArray(weights[:, 0], dims=("run", "query"), coords={"run": list(trace.run_ids)})
    attention = attention.assign_coords(run=list(trace.run_ids))
    kernel = partial(
        _kernel,
        function=partial(LOSSES[name], **options),
        cells=key_part.cells(part.leaf),
        grid=part.leaf.query_grid,
        device=trace.device,
    )
    # An early check, so that bad options raise here and not while a block is computed.
    kernel(np.ones((1, *attention.shape[-2:]), "f4"), np.ones((1, part.leaf.queries), "f4"))
    given: list[xr.DataArray] = [attention, mask]
    dims = [["query", "key"], ["query"]]
    if coordinates is not None:
        given.append(_places(trace, coordinates, (grid[0], grid[1])))
        dims.append(["place_y", "place_x", "coordinate"])
    made: xr.DataArray = xr.apply_ufunc(
        kernel, *given, input_core_dims=dims, dask="parallelized", output_dtypes=[np.float32], join="exact"
    )
    return made


def _places(trace: Trace, coordinates: Any, grid: tuple[int, int]) -> xr.DataArray:
    """Coordinates as ``([run,] place_y, place_x, coordinate)``, x before y."""
    own = coordinates if isinstance(coordinates, xr.DataArray) else xr.DataArray(np.asarray(coordinates, np.float32))
    if "coordinate" in own.coords:
        own = own.sel(coordinate=["x", "y"])
    if own.ndim not in (3, 4) or own.shape[-3:] != (*grid, 2):
        raise InvalidValueError(f"coordinates must be ([run,] {grid[0]}, {grid[1]}, 2) as (x, y); got {own.shape}")
    names = ("run", "place_y", "place_x", "coordinate")[-own.ndim :]
    own = own.drop_vars([name for name in own.coords if name != "run"])
    own = own.rename(dict(zip(own.dims, names, strict=True))).astype(np.float32)
    if "run" not in own.dims:
        return own
    if "run" in own.coords:
        return own.sel(run=list(trace.run_ids))
    if own.sizes["run"] != len(trace.run_ids):
        raise InvalidValueError(f"coordinates of {own.sizes['run']} runs for a trace of {len(trace.run_ids)}")
    return own.assign_coords(run=list(trace.run_ids))


def _kernel(
    attention: NDArray[Any],
    mask: NDArray[np.float32],
    places: NDArray[np.float32] | None = None,
    *,
    function: Any,
    cells: NDArray[np.int64],
    grid: tuple[int, int],
    device: str,
) -> NDArray[np.float32]:
    """Take `function` of matrices ``(..., query, key)``, a cacheful at a time."""
    lead = attention.shape[:-2]
    count = int(np.prod(lead))
    flat = attention.reshape(count, *attention.shape[-2:])
    covered = np.where(np.isnan(mask), np.nan, mask > 0.5).astype(np.float32)
    covered = np.broadcast_to(covered, (*lead, covered.shape[-1])).reshape(count, *grid)
    own = (
        None if places is None else np.broadcast_to(places, (*lead, *places.shape[-3:])).reshape(count, *cells.shape, 2)
    )
    made = np.empty(count, np.float32)
    with torch.inference_mode():
        for block in kernels.blocks(count, *flat.shape[-2:]):
            chosen = np.take(flat[block], cells.ravel(), axis=-1).astype(np.float32)
            tensor = torch.from_numpy(chosen).to(device).reshape(-1, *grid, *cells.shape)
            further = (None,) if own is None else (torch.from_numpy(np.array(own[block])).to(device),)
            counts = torch.from_numpy(np.array(covered[block])).to(device)
            made[block] = function(tensor, counts, *further).cpu().numpy()
    return made.reshape(lead)

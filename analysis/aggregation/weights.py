"""Weights of keys and queries: segments and masks brought to the tokens of a leaf."""

from collections.abc import Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.key_parts import KeyPart
from attlas.analysis.aggregation.resample import resample_values
from attlas.analysis.trace import Trace
from attlas.schemas import Leaf
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["accepted_grids", "axis_weights"]


def axis_weights(
    trace: Trace, leaf_name: str, axis: str, wanted: Any, branches: Sequence[str], key_part: KeyPart
) -> da.Array | None:
    """Weights (run, branch, n) of the keys or queries of a leaf, float32, or None for all.

    `wanted` is a segment (``word``, ``reference``, ...; keys only), a mask along the axis, or a mask of rows and
    columns: of one of the kind's grids or of the picture's size, which is averaged to the leaf's grid (so that a
    cell half covered weighs half; of a video, for every frame unless it has frames before the rows). A DataArray may
    differ from run to run; where it is -1 or NaN it was not given, and that run's map is NaN. A mapping has such a
    mask for each leaf. Rows and columns of keys are those of `key_part`; if it is a segment, it is what None means.
    """
    wanted = wanted[leaf_name] if isinstance(wanted, Mapping) else wanted
    if wanted is None and axis == "key":
        wanted = key_part.segment
    if wanted is None:
        return None
    leaf = trace.leaves[leaf_name]
    count = leaf.keys if axis == "key" else leaf.queries
    if isinstance(wanted, str):
        made = _segment(trace, leaf_name, axis, wanted, key_part.picture)
        if "branch" in made.dims:
            made = made.isel(branch=[trace.branches.index(name) for name in branches])
    else:
        made = _mask(trace, leaf, axis, wanted, key_part, branches)
    shape = {"run": len(trace.rows), "branch": len(branches), axis: count}
    data = made.set_dims(shape).astype(np.float32).data  # type: ignore[no-untyped-call]
    chunks = (1, -1, -1)
    return data.rechunk(chunks) if isinstance(data, da.Array) else da.from_array(data, chunks=chunks)


def _segment(trace: Trace, leaf_name: str, axis: str, segment: str, picture: int | None) -> xr.Variable:
    """Keys of a segment; places of a text for which a run has no token are no keys."""
    if axis != "key":
        raise InvalidValueError(f"queries={segment!r}: segments are of keys; give a mask of queries")
    labels = trace.dataset(leaf_name).variables
    found = {name: labels[name] for name in ("key_segment", "token_segment") if name in labels}
    if segment in trace.leaves[leaf_name].key_segments:
        chosen = found["key_segment"] == segment
        if picture is not None:
            chosen = chosen & (labels["key_picture"] == picture)
        if segment == "text":
            there = found["token_segment"]
            chosen = chosen & (there != "absent")
        return chosen
    known = {str(value) for own in found.values() for value in np.unique(np.asarray(own.values, dtype=str))} - {""}
    if segment not in known:
        raise unknown_name("key segment", segment, sorted(known), where=f"leaf {leaf_name}")
    return found["token_segment"] == segment


def _mask(trace: Trace, leaf: Leaf, axis: str, wanted: Any, key_part: KeyPart, branches: Sequence[str]) -> xr.Variable:
    if isinstance(wanted, xr.DataArray):
        mask = _aligned(trace, wanted, branches)
    else:
        values = _checked(np.asarray(wanted), axis)
        mask = xr.Variable((axis,) if values.ndim == 1 else ("frame", "y", "x")[-values.ndim :], values)
    spatial = [dim for dim in mask.dims if dim not in ("run", "branch")]
    if mask.dtype.kind == "i":
        mask = mask.where(mask >= 0)  # type: ignore[no-untyped-call]
    mask = mask.astype(np.float32)
    if spatial == [axis]:
        count = leaf.keys if axis == "key" else leaf.queries
        if mask.sizes[axis] != count:
            raise InvalidValueError(
                f"{_plural(axis)}: a mask of {mask.sizes[axis]}; {leaf.kind}/{leaf.grid} has {count} {_plural(axis)}"
            )
        return mask
    if len(spatial) not in (2, 3):
        raise InvalidValueError(
            f"{_plural(axis)}: a mask with dims {tuple(mask.dims)}; (row, column) or ({axis},) is accepted"
        )
    names = dict(zip(spatial, ("frame", "y", "x")[-len(spatial) :], strict=True))
    return _to_axis(trace, leaf, axis, xr.Variable([names.get(dim, dim) for dim in mask.dims], mask.data), key_part)


def _to_axis(trace: Trace, leaf: Leaf, axis: str, mask: xr.Variable, key_part: KeyPart) -> xr.Variable:
    """Average a mask of rows and columns to the leaf's grid, and give each key or query its cell's weight."""
    grid = leaf.query_grid if axis == "query" else key_part.grid(leaf)
    if grid is None:
        raise InvalidValueError(
            f"keys of {leaf.kind}/{leaf.grid} are no patches; a mask of rows and columns has no meaning"
        )
    size = (mask.sizes["y"], mask.sizes["x"])
    accepted = accepted_grids(trace, leaf.kind, axis, key_part)
    if size not in accepted:
        shown = ", ".join(f"{rows}x{columns}" for rows, columns in accepted)
        raise InvalidValueError(f"{_plural(axis)}: a mask of {size[0]}x{size[1]}; accepted here: {shown}")
    frames = (mask.sizes["frame"],) if "frame" in mask.dims else grid[:-2]
    if frames != grid[:-2]:
        held = f"has {grid[0]} frames" if len(grid) == 3 else "has no frames"
        raise InvalidValueError(f"{_plural(axis)}: a mask of {frames[0]} frames; {leaf.kind}/{leaf.grid} {held}")
    if "frame" not in mask.dims and frames:
        mask = mask.set_dims({"frame": frames[0], **mask.sizes})  # type: ignore[no-untyped-call]
    spatial = ["frame", "y", "x"][-len(grid) :]
    index = np.arange(leaf.queries)
    if axis == "key":
        index = np.full(leaf.keys, int(np.prod(grid)))
        index[key_part.cells(leaf).ravel()] = np.arange(int(np.prod(grid)))

    def kernel(values: NDArray[Any]) -> NDArray[np.float32]:
        cells = resample_values(values, (grid[-2], grid[-1]), "area").reshape(*values.shape[: -len(grid)], -1)
        # One cell more, of weight 0, for keys that are no patch of this part.
        padded = np.concatenate([cells, np.zeros_like(cells[..., :1])], -1)
        return np.asarray(padded[..., index], dtype=np.float32)

    made: xr.Variable = xr.apply_ufunc(
        kernel,
        mask,
        input_core_dims=[spatial],
        output_core_dims=[[axis]],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {axis: len(index)}},
    )
    return made


def accepted_grids(trace: Trace, kind: str, axis: str, key_part: KeyPart) -> list[tuple[int, int]]:
    """Sizes that a mask of rows and columns may have: the kind's grids, and the picture."""
    leaves = [leaf for leaf in trace.leaves.values() if leaf.kind == kind]
    grids = [leaf.query_grid if axis == "query" else key_part.grid(leaf) for leaf in leaves]
    on_reference = axis == "key" and (kind == "image" or key_part.segment == "reference")
    shown = trace.reference_shape if on_reference else None
    sizes = [(grid[-2], grid[-1]) for grid in grids if grid is not None]
    return list(dict.fromkeys([*sizes, shown or trace.image_shape]))


def _checked(values: NDArray[Any], axis: str) -> NDArray[Any]:
    if values.ndim not in (1, 2, 3) or values.dtype.kind not in "biuf":
        raise InvalidValueError(
            f"{_plural(axis)}: {values.ndim} dims of {values.dtype}; a segment or a mask (row, column) is accepted"
        )
    if values.dtype.kind != "b" and not bool((np.isfinite(values) & (values >= 0)).all()):
        raise InvalidValueError(f"{_plural(axis)}: weights must be finite and not negative")
    if not values.any():
        raise InvalidValueError(f"{_plural(axis)}: the mask selects nothing")
    return values


def _aligned(trace: Trace, mask: xr.DataArray, branches: Sequence[str]) -> xr.Variable:
    """Take the trace's runs and the wanted branches of a mask that has them, by their labels."""
    if "run" in mask.dims and "run" in mask.coords:
        held = mask["run"].values.tolist()
        lacking = [name for name in trace.run_ids if name not in set(held)]
        if lacking:
            raise InvalidValueError(f"the mask lacks run {lacking[0]!r} of the trace")
        mask = mask if tuple(held) == trace.run_ids else mask.sel(run=list(trace.run_ids))
    elif "run" in mask.dims and mask.sizes["run"] != len(trace.rows):
        raise InvalidValueError(f"a mask of {mask.sizes['run']} runs for a trace of {len(trace.rows)}")
    if "branch" in mask.dims and ("branch" not in mask.coords or mask["branch"].values.tolist() != list(branches)):
        mask = mask.sel(branch=list(branches))
    return mask.variable


def _plural(axis: str) -> str:
    return "keys" if axis == "key" else "queries"

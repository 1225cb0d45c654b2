"""Weights of keys and queries: segments and masks brought to the tokens of a leaf."""

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.resample import resample_values
from attlas.analysis.trace import Trace
from attlas.schemas import Leaf
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["accepted_grids", "axis_weights"]


def axis_weights(trace: Trace, leaf_name: str, axis: str, wanted: Any, branches: Sequence[str]) -> da.Array | None:
    """Weights (run, branch, n) of the keys or queries of a leaf, float32, or None for all.

    `wanted` is a segment (``word``, ``reference``, ...; keys only), a mask along the axis, or a mask of rows and
    columns: of one of the kind's grids or of the picture's size, which is averaged to the leaf's grid (so that a
    cell half covered weighs half). A DataArray may differ from run to run; where it is -1 or NaN it was not given,
    and that run's map is NaN.
    """
    if wanted is None:
        return None
    leaf = trace.leaves[leaf_name]
    count = leaf.keys if axis == "key" else leaf.queries
    made = _segment(trace, leaf_name, axis, wanted) if isinstance(wanted, str) else _mask(trace, leaf, axis, wanted)
    if "branch" in made.dims:
        made = made.sel(branch=list(branches))
    shape = {"run": len(trace.rows), "branch": len(branches), axis: count}
    made = made.expand_dims({dim: size for dim, size in shape.items() if dim not in made.dims})
    data = made.transpose(*shape).astype(np.float32).data
    return da.rechunk(da.asarray(data), {0: 1, 1: -1, 2: -1})


def _segment(trace: Trace, leaf_name: str, axis: str, segment: str) -> xr.DataArray:
    if axis != "key":
        raise InvalidValueError(f"queries={segment!r}: segments are of keys; give a mask of queries")
    dataset = trace.dataset(leaf_name)
    name = "key_segment" if "key_segment" in dataset.coords else "token_segment"
    found = dataset.coords[name].reset_coords(drop=True)
    known = sorted({str(value) for value in np.unique(np.asarray(found.values, dtype=str))} - {""})
    if segment not in known:
        raise unknown_name("key segment", segment, known, where=f"leaf {leaf_name}")
    return found == segment


def _mask(trace: Trace, leaf: Leaf, axis: str, wanted: Any) -> xr.DataArray:
    mask = wanted if isinstance(wanted, xr.DataArray) else xr.DataArray(_checked(np.asarray(wanted), axis))
    if not isinstance(wanted, xr.DataArray):
        mask = mask.rename(dict(zip(mask.dims, (axis,) if mask.ndim == 1 else ("y", "x"), strict=True)))
    mask = mask.reset_coords(drop=True).drop_vars([name for name in mask.coords if name not in ("run", "branch")])
    if "run" in mask.dims:
        mask = _aligned(trace, mask)
    spatial = [dim for dim in mask.dims if dim not in ("run", "branch")]
    if mask.dtype.kind == "i":
        mask = mask.where(mask >= 0)
    mask = mask.astype(np.float32)
    if spatial == [axis]:
        count = leaf.keys if axis == "key" else leaf.queries
        if mask.sizes[axis] != count:
            raise InvalidValueError(
                f"{_plural(axis)}: a mask of {mask.sizes[axis]}; {leaf.kind}/{leaf.grid} has {count} {_plural(axis)}"
            )
        return mask
    if len(spatial) != 2:
        raise InvalidValueError(
            f"{_plural(axis)}: a mask with dims {tuple(mask.dims)}; (row, column) or ({axis},) is accepted"
        )
    return _to_axis(trace, leaf, axis, mask.rename(dict(zip(spatial, ("y", "x"), strict=True))))


def _to_axis(trace: Trace, leaf: Leaf, axis: str, mask: xr.DataArray) -> xr.DataArray:
    """Average a mask of rows and columns to the leaf's grid, and give each key or query its cell's weight."""
    grid = leaf.query_grid if axis == "query" else leaf.key_grid
    if grid is None:
        raise InvalidValueError(
            f"keys of {leaf.kind}/{leaf.grid} are no patches; a mask of rows and columns has no meaning"
        )
    size = (mask.sizes["y"], mask.sizes["x"])
    accepted = accepted_grids(trace, leaf.kind, axis)
    if size not in accepted:
        shown = ", ".join(f"{rows}x{columns}" for rows, columns in accepted)
        raise InvalidValueError(f"{_plural(axis)}: a mask of {size[0]}x{size[1]}; accepted here: {shown}")
    index = np.arange(leaf.queries)
    if axis == "key":
        index = np.where(np.asarray(leaf.key_y) < 0, grid[0] * grid[1], np.multiply(leaf.key_y, grid[1]) + leaf.key_x)

    def kernel(values: NDArray[Any]) -> NDArray[np.float32]:
        cells = resample_values(values, grid, "area").reshape(*values.shape[:-2], -1)
        # One cell more, of weight 0, for keys that are no patch.
        padded = np.concatenate([cells, np.zeros_like(cells[..., :1])], -1)
        return np.asarray(padded[..., index], dtype=np.float32)

    made: xr.DataArray = xr.apply_ufunc(
        kernel,
        mask,
        input_core_dims=[["y", "x"]],
        output_core_dims=[[axis]],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {axis: len(index)}},
    )
    return made


def accepted_grids(trace: Trace, kind: str, axis: str) -> list[tuple[int, int]]:
    """Sizes that a mask of rows and columns may have: the kind's grids, and the picture."""
    leaves = [leaf for leaf in trace.leaves.values() if leaf.kind == kind]
    grids = [leaf.query_grid if axis == "query" else leaf.key_grid for leaf in leaves]
    on_reference = axis == "key" and kind == "image" and trace.store.reference_shape is not None
    picture = trace.store.reference_shape if on_reference else trace.store.image_shape
    return list(dict.fromkeys(grid for grid in (*grids, picture) if grid is not None))


def _checked(values: NDArray[Any], axis: str) -> NDArray[Any]:
    if values.ndim not in (1, 2) or values.dtype.kind not in "biuf":
        raise InvalidValueError(
            f"{_plural(axis)}: {values.ndim} dims of {values.dtype}; a segment or a mask (row, column) is accepted"
        )
    if values.dtype.kind != "b" and not bool((np.isfinite(values) & (values >= 0)).all()):
        raise InvalidValueError(f"{_plural(axis)}: weights must be finite and not negative")
    if not values.any():
        raise InvalidValueError(f"{_plural(axis)}: the mask selects nothing")
    return values


def _aligned(trace: Trace, mask: xr.DataArray) -> xr.DataArray:
    if "run" in mask.coords:
        lacking = [name for name in trace.run_ids if name not in set(mask["run"].values.tolist())]
        if lacking:
            raise InvalidValueError(f"the mask lacks run {lacking[0]!r} of the trace")
        return mask.sel(run=list(trace.run_ids)).drop_vars("run")
    if mask.sizes["run"] != len(trace.rows):
        raise InvalidValueError(f"a mask of {mask.sizes['run']} runs for a trace of {len(trace.rows)}")
    return mask


def _plural(axis: str) -> str:
    return "keys" if axis == "key" else "queries"

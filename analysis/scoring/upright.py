"""Reference patches on the upright object, where references lie turned or mirrored."""

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.roles import annotation_of
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, NotRecordedError

__all__ = ["upright_places"]


def upright_places(trace: Trace, grid: tuple[int, int]) -> xr.DataArray:
    """Place of each reference patch once the reference is turned back, for `diagnostics` of turned references.

    The correspondence says where in the reference a pixel's object point lies, and the annotation ``uv_lookup`` where
    it would lie if the object were upright. The similarity between the two, fitted by least squares in each run, is
    undone: rotation and mirror go, scale stays.

    Parameters
    ----------
    trace
        From `open_trace`, with an annotation of the role ``correspondence``, and ``uv_lookup`` of the demo world.
    grid
        Rows and columns of reference patches, such as ``(16, 16)``.

    Returns
    -------
    ``(run, key_y, key_x, coordinate)``, float32, lazy, unit patches, coordinate (x, y); the middle of the grid stays in
    its place, and distances between patches are kept. NaN where a run has fewer than 3 pixels with a truth, or they lie
    in a line.

    Raises
    ------
    NotRecordedError
        If an annotation or the reference's size is not in the store.
    InvalidValueError
        If a side of the grid is below 1.
    """
    if min(grid) < 1:
        raise InvalidValueError(f"grid must have at least one row and column; got {grid}")
    given = [annotation_of(trace, "correspondence")]
    if "uv_lookup" not in trace.annotations:
        raise NotRecordedError(f"{trace.where}: annotation 'uv_lookup' was not given while recording")
    given.append(trace.annotations["uv_lookup"])
    shape = trace.reference_shape
    if shape is None:
        raise NotRecordedError(f"{trace.where} has no reference image")
    made: xr.DataArray = xr.apply_ufunc(
        _turned_back,
        *given,
        input_core_dims=[list(own.dims[-3:]) for own in given],
        output_core_dims=[["key_y", "key_x", "coordinate"]],
        exclude_dims={"coordinate"},
        vectorize=True,
        dask="parallelized",
        kwargs={"grid": grid, "shape": shape},
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {"key_y": grid[0], "key_x": grid[1], "coordinate": 2}},
    )
    made.attrs = {"units": "patches", "long_name": "place on the upright object"}
    return made.assign_coords(coordinate=["x", "y"])


def _turned_back(
    lies: NDArray[np.float32], upright: NDArray[np.float32], *, grid: tuple[int, int], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """One run: pixels ``(image_y, image_x, 2)`` as (y, x) in both."""
    made = np.full((*grid, 2), np.nan, np.float32)
    known = ~(np.isnan(lies).any(-1) | np.isnan(upright).any(-1))
    if known.sum() < 3:
        return made
    per_pixel = np.divide(grid, shape)
    # Patch units first, so that pixels of another aspect do not shear the picture.
    before, after = lies[known] * per_pixel, upright[known] * per_pixel
    if np.linalg.matrix_rank(before - before.mean(0), tol=1e-3) < 2:
        return made
    matrix = np.linalg.lstsq(before - before.mean(0), after - after.mean(0), rcond=None)[0]
    left, _, right = np.linalg.svd(matrix)
    middle = (np.asarray(grid) - 1) / 2
    places = np.moveaxis(np.indices(grid), 0, -1) - middle
    made[:] = (places @ (left @ right) + middle)[..., ::-1]
    return made

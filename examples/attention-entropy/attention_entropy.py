"""How widely each place of the picture looks: the entropy of its attention to the finest grid's keys, in bits."""

import numpy as np
import xarray as xr

from attlas.analysis import Trace, map_function, statistic


@map_function("entropy-map", units="bit", meaning="entropy of each place's mean attention")
def entropy_map(trace: Trace, kind: str | None = None) -> xr.DataArray:
    """Entropy of the attention of each query, mean over calls, layers and heads: 0 for one key, log2(n) for n alike."""
    leaf = next(name for name in trace.leaves if kind in (None, name.partition("/")[0]))
    attention = trace.attention(*leaf.split("/")[:1], grid=leaf.partition("/")[2]).sel(branch="cond")
    share = attention.mean(("t", "layer", "head"))
    bits = -(share * np.log2(share.where(share > 0, 1))).sum("key", skipna=False)
    rows, columns = trace.leaves[leaf].query_grid
    return xr.DataArray(bits.data.reshape(-1, rows, columns), dims=("run", "query_y", "query_x"))


@statistic("entropy", units="bit", meaning="entropy of attention, mean over the picture")
def entropy(trace: Trace, kind: str | None = None) -> xr.DataArray:
    """Mean of the entropy map of each run."""
    return entropy_map(trace, kind).mean(("query_y", "query_x"))

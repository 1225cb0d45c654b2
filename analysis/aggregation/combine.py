"""Terms of several leaves into one map: behind one another where layers or grids are kept, else added."""

import xarray as xr

from attlas.analysis.aggregation.selection import Part
from attlas.analysis.blockwise.folding import sum_of
from attlas.schemas.errors import InvalidValueError

__all__ = ["combine", "grids", "heads_of"]


def combine(made: list[xr.Variable], parts: list[Part], keep: tuple[str, ...]) -> xr.Variable:
    """Leaves side by side where layers or grids are kept, else their sum."""
    if "grid" in keep:
        groups = [[place for place, part in enumerate(parts) if part.leaf.grid == grid] for grid in grids(parts)]
        sums = [_sum([made[place] for place in own], [parts[place] for place in own], keep) for own in groups]
        firsts = [parts[own[0]] for own in groups]
        return _concat([xr.Variable(("grid", *own.dims), own.data[None]) for own in sums], firsts, "grid")
    if "layer" in keep:
        return made[0] if len(made) == 1 else _concat(made, parts, "layer")
    return _sum(made, parts, keep)


def _concat(made: list[xr.Variable], parts: list[Part], dim: str) -> xr.Variable:
    """Terms behind one another along `dim`; NaN for heads that a part lacks."""
    heads = heads_of(parts)
    if "head" in made[0].dims and any(heads_of([part]) != heads for part in parts):
        made = [
            xr.DataArray(own, coords={"head": heads_of([part])}).reindex(head=heads).variable
            for own, part in zip(made, parts, strict=True)
        ]
    whole: xr.Variable = xr.Variable.concat(made, dim)  # type: ignore[no-untyped-call]
    return whole


def _sum(made: list[xr.Variable], parts: list[Part], keep: tuple[str, ...]) -> xr.Variable:
    if "head" in keep and any(heads_of([part]) != heads_of(parts) for part in parts):
        counts = sorted({len(part.heads) for part in parts})
        raise InvalidValueError(
            f"layers have {counts} heads: a map per head over all of them has no meaning; "
            "choose layers= of one head count, or keep layer or grid too (maps.hlam: unequal=)"
        )
    return sum_of(made)


def grids(parts: list[Part]) -> list[str]:
    """Grids of the parts, each once."""
    return list(dict.fromkeys(part.leaf.grid for part in parts))


def heads_of(parts: list[Part]) -> list[int]:
    """Labels of all heads that any of the parts has."""
    return sorted({head for part in parts for head in part.head_labels})

"""A table of the sinks of a store: how many, how strong, how much attention they hold, and what they are."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.key_parts import KeyPart
from attlas.analysis.aggregation.selection import Part, pick_kind, pick_parts
from attlas.analysis.aggregation.weights import axis_weights
from attlas.analysis.roles import annotation_of, names_by_role
from attlas.analysis.sink_rule import Sinks, importance, kept_keys, rule_means, typical
from attlas.analysis.trace import Trace
from attlas.schemas.errors import unknown_name

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SinkReport", "SinkRow", "key_classes", "report"]

ROWS = ("layer", "head", "t")
OBJECTS = {"image": "reference_object", "self": "object"}
"""Role of the annotation that says where the object lies on the pictures that keys are patches of."""

BATCH = 2**22
"""Numbers of the summary that are looked at together."""


@dataclass(frozen=True)
class SinkRow:
    """Sinks of one layer, or one of its heads or calls; means over runs, each with half its 95 % interval.

    ``sinks``: keys of a head that are. ``ratio``: attention of the most important key over that of a random key,
    where it is largest. ``share``: of the attention that lies on sinks; ``chance`` were it spread evenly. ``what``:
    which keys hold that share, in parts of it, the largest first.
    """

    kind: str
    leaf: str
    layer: str
    head: int | None
    t: int | None
    runs: int
    sinks: float
    sinks_ci95: float
    ratio: float
    ratio_ci95: float
    share: float
    share_ci95: float
    chance: float
    what: dict[str, float]


@dataclass(frozen=True)
class SinkReport:
    """Rows of `report`, with the rule by which keys are sinks; prints as a table."""

    title: str
    rule: Sinks
    rows: tuple[SinkRow, ...]

    def __str__(self) -> str:
        """Table of rows, largest share first within a kind."""
        head = ("kind", "layer", "sinks a head", "peak / random key", "share of attention", "chance", "which keys")
        lines: list[tuple[str, ...]] = [head]
        order = {row.kind: place for place, row in reversed(list(enumerate(self.rows)))}
        for row in sorted(self.rows, key=lambda row: (order[row.kind], -row.share)):
            place = "".join(
                f" {name} {value}" for name, value in (("head", row.head), ("t", row.t)) if value is not None
            )
            numbers = (
                f"{value:.{digits}f} +-{spread:.{digits}f}"
                for value, spread, digits in (
                    (row.sinks, row.sinks_ci95, 2),
                    (row.ratio, row.ratio_ci95, 1),
                    (row.share, row.share_ci95, 3),
                )
            )
            which = ", ".join(f"{name} {part:.0%}" for name, part in row.what.items())
            lines.append((f"{row.kind}", f"{row.layer}{place}", *numbers, f"{row.chance:.3f}", which or "-"))
        widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
        table = ["   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([self.title, f"sinks: {self.rule}".partition(";")[0], *(line.rstrip() for line in table)])

    def to_frame(self) -> "pd.DataFrame":
        """Rows as a pandas frame; ``what`` as JSON."""
        import pandas as pd

        return pd.DataFrame([{**asdict(row), "what": json.dumps(row.what)} for row in self.rows])

    def to_json(self) -> dict[str, Any]:
        """Plain values; a number that is not finite is None."""
        rows = [{name: _plain(value) for name, value in asdict(row).items()} for row in self.rows]
        return {"title": self.title, "rule": asdict(self.rule), "rows": rows}


def report(
    trace: Trace,
    sinks: str | Sinks = "importance",
    *,
    kinds: str | Iterable[str] | None = None,
    by: str = "layer",
    branch: str = "cond",
    objects: Any = None,
) -> SinkReport:
    """Which keys are sinks, what they are, and the share of attention on them.

    Parameters
    ----------
    trace
        From `open_trace`.
    sinks
        Rule by which a key is a sink, or its name; see `Sinks`.
    kinds
        Kinds of attention; by default all that the store holds.
    by
        A row for each ``layer``, each ``head`` of a layer, or each ``t`` of a layer.
    branch
        Guidance branch.
    objects
        Mask of the object on the pictures that keys are patches of, as `aggregate` takes for keys, so that other
        patches are told as background. By default the annotations with the roles ``reference_object`` (kind
        ``image``) and ``object`` (``self``) where there are such.

    Returns
    -------
    `SinkReport`, computed now. Keys are told as ``bos``, ``word``, ``eos``, ``pad``, ``template``, ``cls``,
    ``register``; patches as ``corner``, else ``border`` (the outermost rows and columns), else ``background`` or
    ``object``, or ``inner`` where no mask tells; those of a video by their frame, the first or a later one.

    Raises
    ------
    UnknownNameError
        For an unknown name of any kind.

    Notes
    -----
    Reads the ``g2r`` summary only. Studies of other models report sinks on corner patches (absolute positions), on
    padding (rotary positions) and on the first frame (video): compare with what a store of yours shows.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> made = report(open_trace(simulate_store(runs=2, kinds=("text",))), "special")
    >>> [(row.kind, sorted(row.what)) for row in made.rows][0]
    ('text', ['bos', 'eos', 'pad'])
    """
    rule = Sinks(rule=sinks) if isinstance(sinks, str) else sinks
    if by not in ROWS:
        raise unknown_name("rows of the report", by, ROWS)
    if branch not in trace.branches:
        raise unknown_name("branch", branch, trace.branches, where=trace.where)
    wanted = trace.kinds if kinds is None else [kinds] if isinstance(kinds, str) else list(kinds)
    rows = [
        row
        for kind in wanted
        for part in pick_parts(trace, pick_kind(trace, kind), None, None)
        for row in _rows(trace, part, rule, by, branch, objects)
    ]
    return SinkReport(f"sinks of {trace.where}, branch {branch}", rule, tuple(rows))


def key_classes(trace: Trace, part: Part, branch: str, objects: Any = None) -> NDArray[np.str_]:
    """Tell what each key is, ``(run, key)``, or ``(1, key)`` where runs do not differ; names as in `report`."""
    leaf = part.leaf
    names = np.array(leaf.key_segments or [""] * leaf.keys, dtype=object)[None]
    y, x = (np.asarray(axis or [-1] * leaf.keys) for axis in (leaf.key_y, leaf.key_x))
    if leaf.has_tokens:
        tokens = trace.dataset(part.name)["token_segment"].sel(branch=branch).values.astype(object)
        names = np.where(tokens == "", names, tokens)
    patches = y >= 0
    if not patches.any():
        return names.astype(str)
    inside = np.full((1, leaf.keys), "inner", dtype=object)
    role = OBJECTS.get(leaf.kind)
    if objects is None and role is not None and role in names_by_role(trace):
        objects = annotation_of(trace, role)
    if objects is not None:
        key_part = KeyPart("reference") if leaf.kind == "joint" else KeyPart()
        cover = np.asarray(axis_weights(trace, part.name, "key", objects, (branch,), key_part))[:, 0]
        told = np.where(np.isnan(cover), "inner", np.where(cover > 0.5, "object", "background"))
        own = leaf.kind != "joint" or np.asarray(leaf.key_segments) == "reference"
        inside = np.where(own, told, "inner").astype(object)
    several = len(leaf.key_parts) > 1
    made = np.where(patches, inside, names).astype(object)
    for segment in leaf.key_parts:
        for picture in dict.fromkeys(leaf.key_picture):
            place = patches & (np.array(leaf.key_segments) == segment) & (np.asarray(leaf.key_picture) == picture)
            if not place.any():
                continue
            edges = [(axis == 0) | (axis == axis[place].max()) for axis in (y, x)]
            made[:, place & (edges[0] | edges[1])] = "border"
            made[:, place & edges[0] & edges[1]] = "corner"
            made[:, place] = np.char.add(made[:, place].astype(str), " patch")
            if several:
                made[:, place] = np.char.add(f"{segment} ", made[:, place].astype(str))
    frames = np.asarray(leaf.key_frame or [0] * leaf.keys)
    if frames.max() > 0:
        first = np.where(frames == 0, "first-frame ", "later-frame ")
        made = np.where(patches, np.char.add(first, made.astype(str)), made)
    return made.astype(str)


def _rows(trace: Trace, part: Part, rule: Sinks, by: str, branch: str, objects: Any) -> list[SinkRow]:
    """Rows of one leaf, some runs at a time."""
    axes = ["layer", *([by] if by != "layer" else [])]
    leaf = part.leaf
    size = len(part.layers) * leaf.heads * leaf.keys * (trace.calls if by == "t" else 1)
    step = max(1, BATCH // size)
    shared = None
    if rule.across_runs:
        (shared,) = dask.compute(rule_means(trace, part, (branch,), rule))
    made: dict[str, list[xr.DataArray]] = {}
    for start in range(0, len(trace.rows), step):
        place = range(start, min(start + step, len(trace.rows)))
        means = None if shared is None else shared.isel(run=list(place))
        for name, values in _numbers(trace.isel(place), part, rule, axes, branch, objects, means).items():
            made.setdefault(name, []).append(values)
    whole = {name: xr.concat(own, "run", join="outer") for name, own in made.items()}
    sizes = {dim: whole["share"].sizes[dim] for dim in axes} if whole else {}
    rows = []
    for chosen in (dict(zip(sizes, place, strict=True)) for place in np.ndindex(*sizes.values())):
        label = {dim: whole["share"][dim].values[index].item() for dim, index in chosen.items()}
        one = {name: own.isel(chosen).values for name, own in whole.items()}
        rows.append(_row(part, label, one))
    return rows if whole else []


def _numbers(
    trace: Trace, part: Part, rule: Sinks, axes: list[str], branch: str, objects: Any, means: xr.DataArray | None
) -> dict[str, xr.DataArray]:
    """Numbers of some runs, ``(run, *axes)``, in memory; those of a class of keys under ``key <class>``."""
    values = importance(trace, part, (branch,))
    values, means = dask.compute(
        values if "t" in axes else values.mean("t", skipna=False),
        rule_means(trace, part, (branch,), rule) if means is None else means,
    )
    kept = kept_keys(trace, part, (branch,), rule, means).compute().isel(branch=0, drop=True)
    values = values.isel(branch=0, drop=True)
    sink = 1 - (kept if "head" in kept.coords else kept.isel(head=0))

    def mean(array: xr.DataArray) -> xr.DataArray:
        if "t" in axes and "t" not in array.dims:
            array = array.expand_dims(t=values["t"])
        if "head" in axes and "head" not in array.dims:
            array = array.expand_dims(head=values["head"])
        return array.mean([dim for dim in ("t", "head") if dim in array.dims and dim not in axes], skipna=False)

    leveled = values.mean("head", skipna=False) if rule.by == "layer" and "head" not in axes else values
    ratio = leveled.max("key", skipna=False) / typical(leveled, rule.over)
    mass = values * sink
    number = (values > 0).sum("key").where(values.notnull().all("key"))
    made = {
        "sinks": mean(sink.sum("key", skipna=False)),
        "ratio": ratio.max("head", skipna=False) if "head" in ratio.dims and "head" not in axes else ratio,
        "share": mean(mass.sum("key", skipna=False)),
        "chance": mean(sink.sum("key", skipna=False) / number),
    }
    classes = key_classes(trace, part, branch, objects)
    for name in np.unique(classes):
        mask = xr.DataArray(np.broadcast_to(classes == name, (len(trace.rows), part.leaf.keys)), dims=("run", "key"))
        made[f"key {name}"] = mean((mass * mask).sum("key", skipna=False))
    return {name: own.drop_vars("run", errors="ignore").transpose("run", *axes) for name, own in made.items()}


def _row(part: Part, label: dict[str, Any], one: dict[str, NDArray[np.float32]]) -> SinkRow:
    numbers = {name: _interval(one[name]) for name in ("sinks", "ratio", "share")}
    whole = numbers["share"][0]
    # A class that some of the runs lack holds nothing there.
    parts = {name[4:]: float(np.nansum(own)) for name, own in one.items() if name.startswith("key ")}
    total = sum(parts.values())
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    what = {name: round(own / total, 4) for name, own in ordered if own > 0} if whole > 0 else {}
    return SinkRow(
        part.leaf.kind, part.name, label["layer"], label.get("head"), label.get("t"),
        int(np.isfinite(one["share"]).sum()), *numbers["sinks"], *numbers["ratio"], *numbers["share"],
        _interval(one["chance"])[0], what,
    )  # fmt: skip


def _interval(samples: NDArray[np.float32]) -> tuple[float, float]:
    """Mean over runs with data, and 1.96 standard errors."""
    values = samples[np.isfinite(samples)].astype(np.float64)
    if not len(values):
        return float("nan"), float("nan")
    spread = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return float(values.mean()), spread


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value

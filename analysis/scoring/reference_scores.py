"""How well attention finds where in the reference image each part of the picture comes from."""

from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.aggregation.aggregate import aggregate
from attlas.analysis.aggregation.key_parts import KeyPart
from attlas.analysis.aggregation.resample import resample
from attlas.analysis.aggregation.selection import pick_parts
from attlas.analysis.metrics import imacs, iou, pck, psnr
from attlas.analysis.normalise import threshold
from attlas.analysis.roles import annotation_of
from attlas.analysis.scoring.score_table import Score, ScoreTable, score_of
from attlas.analysis.sink_rule import Sinks, kept_keys, sinks_of
from attlas.analysis.trace import Trace
from attlas.schemas import Leaf
from attlas.schemas.errors import NotRecordedError, unknown_name

__all__ = [
    "PENALTY",
    "TAU",
    "object_map",
    "patch_targets",
    "reference_kind",
    "score_reference",
    "sram_peaks",
    "true_patches",
]

TAU, PENALTY = 0.4, 3.0


def score_reference(
    trace: Trace, *, kind: str = "image", layers: str | None = None, sinks: str | Sinks | None = None
) -> ScoreTable:
    """Score SRAM and R2G maps against the true correspondence and the masks of the object.

    Parameters
    ----------
    trace
        Store with attention to a reference image. Annotations are used by their roles, where there are such:
        ``correspondence``, ``object``, ``reference_object``, ``target``. Those named ``uv_lookup`` and
        ``former_correspondence`` are places like ``correspondence``: a baseline, and the truth before a swap.
    kind
        Kind of attention; of a joint sequence the reference's keys count.
    layers
        Layer pattern for the SRAM and for the rows named ``finest``; by default the finest query grid.
    sinks
        Keys to leave out of every map, as in `aggregate`.

    Returns
    -------
    `ScoreTable`, each score the mean over runs: PCK of the SRAM's maximum within 1 and 2 reference patches of the truth
    (a patch of the picture counts if most of it has a truth), beside look-ups that need no attention; IMACS and IoU
    of R2G maps over the reference object's patches; PSNR inside the object.

    Raises
    ------
    NotRecordedError
        If no annotation is there by which anything could be scored, or the store holds videos.

    Notes
    -----
    IMACS of G2R is shown but tells little: a model with random weights can reach that of a trained one, and leaving
    sinks out does not change that. PCK and R2G tell them apart.
    """
    scores: list[Score] = []
    left_out: list[str] = []
    finest = layers or _finest(trace, kind)
    rule = sinks_of(sinks)
    _picture_grid(pick_parts(trace, kind, finest, None)[0].leaf)
    for what, part in {"PCK": _correspondence, "IMACS": _consistency, "PSNR": _picture}.items():
        try:
            scores += part(trace, kind, finest, rule)
        except NotRecordedError as err:
            left_out.append(f"{what}: {err}")
    if not scores:
        raise NotRecordedError(f"{trace.where}: nothing to score a reference by\n" + "\n".join(left_out))
    title = f"reference maps of {trace.where}"
    settings: dict[str, Any] = {"runs": len(trace.rows), "layers": finest, "threshold": TAU, "penalty": PENALTY}
    settings |= {} if rule is None else {"sinks": f"left out: {rule}"}
    if any(part.leaf.keys == 1 and not part.leaf.partial for part in pick_parts(trace, kind, None, None)):
        settings["inert"] = "one key, whose attention is 1 everywhere: W_q and W_k never act on the picture"
    return ScoreTable(title, {score.name: score for score in scores}, settings, tuple(left_out))


def sram_peaks(
    trace: Trace,
    kind: str = "image",
    layers: str | None = None,
    *,
    branch: str = "cond",
    sinks: str | Sinks | None = None,
) -> xr.DataArray:
    """Find the reference patch that each query patch looks at most: the maximum of its SRAM over the chosen layers.

    Sinks, where they are left out, are no patch that could be found; what becomes of their mass plays no part.

    Returns
    -------
    ``(run, y, x, coordinate)``, float32, unit reference patches, in memory; y and x are the query grid.
    """
    parts = pick_parts(trace, kind, layers or _finest(trace, kind), None)
    leaf = parts[0].leaf
    total: Any = 0
    rule = sinks_of(sinks)
    for part in parts:
        kept: Any = 1
        if rule is not None:
            kept = kept_keys(trace, part, (branch,), rule).isel(branch=0, drop=True)
            kept = kept if "head" in kept.coords else kept.isel(head=0)
        if trace.holds(part.name, "attention_mean"):
            stored = trace.arrays(part.name, ["attention_mean"], branch)["attention_mean"]
            chosen = stored.isel(part.place).isel(branch=0).astype(np.float32)
            total = total + (chosen * kept).sum(("layer", "head"), skipna=False)
        else:
            full = trace.attention(kind, "g2r", part.name.partition("/")[2]).isel(part.place).sel(branch=branch)
            full = full * kept
            total = total + full.sum(("t", "layer", "head"), skipna=False) / np.float32(trace.calls)
    own = _part(kind).places(leaf)
    patches = own[np.asarray(leaf.key_y)[own] >= 0]
    found = (
        total.reset_coords(drop=True).drop_vars("key", errors="ignore").isel(key=patches).argmax("key", skipna=False)
    )
    places = patches[found.compute().values]
    places = np.stack([np.asarray(leaf.key_y)[places], np.asarray(leaf.key_x)[places]], -1).astype(np.float32)
    shaped = places.reshape(len(trace.rows), *_picture_grid(leaf), 2)
    return xr.DataArray(shaped, dims=("run", "y", "x", "coordinate"), coords={"run": list(trace.run_ids)})


def patch_targets(
    annotation: xr.DataArray, query_grid: tuple[int, int], key_grid: tuple[int, int], reference: tuple[int, int]
) -> xr.DataArray:
    """Tell the true reference patch of each query patch, from a correspondence in pixels.

    Parameters
    ----------
    annotation
        ``(run, image_y, image_x, coordinate)``: reference pixel (y, x), NaN where there is none.
    query_grid, key_grid
        Patches of the picture and of the reference.
    reference
        Rows and columns of the reference image.

    Returns
    -------
    ``(run, y, x, coordinate)``, float32, in memory, unit reference patches, not rounded: patch i has its centre at i.
    The truth at the centre of the query patch, which is that of the given pixels nearest to it; NaN where not more
    than half of its pixels have a truth.
    """
    values = annotation.values.astype(np.float32)
    size = values.shape[1:3]
    rows, columns = (np.array_split(np.arange(n), cells) for n, cells in zip(size, query_grid, strict=True))
    made = np.full((len(values), *query_grid, 2), np.nan, np.float32)
    for y, x in np.ndindex(*query_grid):
        pixels = values[:, rows[y]][:, :, columns[x]].reshape(len(values), -1, 2)
        offsets = np.stack(np.meshgrid(rows[y] - rows[y].mean(), columns[x] - columns[x].mean(), indexing="ij"), -1)
        far = (offsets.reshape(-1, 2) ** 2).sum(1)
        for run, own in enumerate(pixels):
            given = ~np.isnan(own).any(1)
            if 2 * int(given.sum()) > given.size:
                made[run, y, x] = own[given & (far == far[given].min())].mean(0)
    # Pixel i covers i .. i + 1, so its centre lies at i + 0.5; the same holds for patches.
    places = (made + 0.5) * np.divide(key_grid, reference, dtype=np.float32) - 0.5
    return xr.DataArray(places, dims=("run", "y", "x", "coordinate"), coords={"run": annotation["run"].values})


def reference_kind(trace: Trace) -> str:
    """Kind of attention whose keys are the reference's patches: ``joint`` where they stand in a joint sequence only."""
    joint = any(leaf.kind == "joint" and "reference" in leaf.key_parts for leaf in trace.leaves.values())
    return "joint" if joint and "image" not in trace.kinds else "image"


def true_patches(trace: Trace, kind: str = "image", layers: str | None = None) -> xr.DataArray:
    """Give the true reference patch of each query patch of the chosen layers; see `patch_targets`.

    Raises
    ------
    NotRecordedError
        If no annotation has the role ``correspondence``, or the keys are no patches.
    """
    grid, key_grid = _grids(trace, kind, layers or _finest(trace, kind))
    return _patches(trace, annotation_of(trace, "correspondence"), grid, key_grid)


def _grids(trace: Trace, kind: str, layers: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of the queries and of the reference's keys."""
    leaf = pick_parts(trace, kind, layers, None)[0].leaf
    key_grid = leaf.segment_grid(_part(kind).segment)
    if key_grid is None:
        raise NotRecordedError(f"keys of kind {kind!r} are no patches")
    return _picture_grid(leaf), key_grid


def _correspondence(trace: Trace, kind: str, layers: str, sinks: Sinks | None) -> list[Score]:
    grid, key_grid = _grids(trace, kind, layers)
    true = true_patches(trace, kind, layers)
    found = sram_peaks(trace, kind, layers, sinks=sinks)
    same = _same_place(grid, key_grid)
    looked_up, former = (
        _patches(trace, trace.annotations[name], grid, key_grid) if name in trace.annotations else None
        for name in ("uv_lookup", "former_correspondence")
    )
    scores = []
    for radius in (1, 2):
        within = f"within {radius} reference patch{'es' if radius > 1 else ''} of the truth"
        scores.append(_run_score(f"sram_pck{radius}", pck(found, true, radius), f"SRAM maximum {within}"))
        scores.append(_run_score(f"position_pck{radius}", pck(same, true, radius), "baseline: the same place"))
        if looked_up is not None:
            name, meaning = f"uv_lookup_pck{radius}", "baseline: look-up by body coordinates"
            scores.append(_run_score(name, pck(looked_up, true, radius), meaning))
        scores.append(_run_score(f"chance_pck{radius}", _chance(true, key_grid, radius), "baseline: any patch"))
    if former is not None:
        swapped = former.notnull().any(("y", "x", "coordinate"))
        for name, truth, meaning in (
            ("swapped_pck1", true, "reference swapped: against the picture that is shown"),
            ("swapped_former_pck1", former, "reference swapped: against the one before (low is good)"),
        ):
            scores.append(_run_score(name, pck(found, truth, 1).where(swapped), meaning))
    return scores


def object_map(
    trace: Trace,
    direction: str,
    *,
    kind: str = "image",
    layers: str | None = None,
    mask: str | None = None,
    reference_mask: str | None = None,
    over: str = "object",
    tau: float = TAU,
    sinks: str | Sinks | None = None,
) -> xr.DataArray:
    """Map of the object, soft-thresholded, at the size of the picture that it lies on.

    Parameters
    ----------
    direction
        ``r2g``: where the reference object's patches go, on the generated picture. ``g2r``: what the object's queries
        look at, on the reference.
    mask, reference_mask
        Names of annotations that say where the object is on the generated picture and on the reference; by default
        those with the roles ``object`` and ``reference_object``.
    over
        ``object``: mean over the object's patches of the other side; ``all``: over all of them, as I2AM eq. 7.
    tau
        Soft threshold after min-max.

    Returns
    -------
    ``(run, rows, columns)``, float32, unit 1, lazy.

    Raises
    ------
    NotRecordedError
        If a mask that is needed was not annotated: of the side that the map lies on, and of the other unless `over`
        is ``all``.
    """
    if over not in ("object", "all"):
        raise unknown_name("side to average over", over, ("object", "all"))
    sides = {"queries": ("object", mask), "keys": ("reference_object", reference_mask)}
    shown, other = ("queries", "keys") if direction == "r2g" else ("keys", "queries")
    own = annotation_of(trace, *sides[shown])
    chosen: dict[str, Any] = {other: annotation_of(trace, *sides[other])} if over == "object" else {}
    made = aggregate(trace, direction, kind=kind, layers=layers, segment=_part(kind).segment, sinks=sinks, **chosen)
    return threshold(resample(made, (own.shape[-2], own.shape[-1]), "bicubic"), tau, mode="soft")


def _consistency(trace: Trace, kind: str, layers: str, sinks: Sinks | None) -> list[Score]:
    mask = annotation_of(trace, "object")
    patches = pick_parts(trace, kind, layers, None)[0].leaf.segment_grid(_part(kind).segment) is not None
    over, keys = ("object", "the reference object's patches") if patches else ("all", "all keys")
    scores = []
    for name, chosen, words in (("finest", layers, f"layers {layers}"), ("all", None, "all layers")):
        soft = object_map(trace, "r2g", kind=kind, layers=chosen, over=over, sinks=sinks).compute()
        meaning = f"R2G over {keys}, {words}"
        scores.append(_run_score(f"r2g_imacs_{name}", imacs(soft, mask, penalty=PENALTY), f"IMACS, {meaning}"))
        scores.append(_run_score(f"r2g_iou_{name}", iou(soft, mask), f"IoU, {meaning}"))
    if not patches:
        return scores  # keys that are no patches have no place on the reference
    soft = object_map(trace, "g2r", kind=kind, layers=layers, sinks=sinks).compute()
    meaning = f"IMACS, G2R of the object's queries, layers {layers}"
    mask = annotation_of(trace, "reference_object")
    scores.append(_run_score("g2r_imacs_finest", imacs(soft, mask, penalty=PENALTY), meaning))
    return scores


def _picture(trace: Trace, kind: str, layers: str, sinks: Sinks | None) -> list[Score]:  # noqa: ARG001 - one signature
    value = psnr(trace.images, annotation_of(trace, "target"), annotation_of(trace, "object"))
    return [_run_score("object_psnr", value, "PSNR inside the object against the true picture, dB")]


def _patches(
    trace: Trace, places: xr.DataArray, query_grid: tuple[int, int], key_grid: tuple[int, int]
) -> xr.DataArray:
    """Give the true reference patch of each query patch, from places on the reference image."""
    shape = trace.reference_shape
    if shape is None:
        raise NotRecordedError(f"{trace.where} has no reference image")
    return patch_targets(places, query_grid, key_grid, shape)


def _same_place(query_grid: tuple[int, int], key_grid: tuple[int, int]) -> xr.DataArray:
    """Give the reference patch at the same relative place as each query patch."""
    places = (np.indices(query_grid) + 0.5) * (np.asarray(key_grid) / query_grid)[:, None, None] - 0.5
    return xr.DataArray(places.astype(np.float32), dims=("coordinate", "y", "x"))


def _chance(true: xr.DataArray, key_grid: tuple[int, int], radius: int) -> xr.DataArray:
    """Chance that a random reference patch lies within `radius` of the truth, mean over patches."""
    patches = xr.DataArray(np.indices(key_grid).reshape(2, -1).astype(np.float32), dims=("coordinate", "patch"))
    near = ((patches - true) ** 2).sum("coordinate", skipna=False) <= radius**2
    return near.mean("patch").where(true.notnull().all("coordinate")).mean(("y", "x"))


def _run_score(name: str, values: xr.DataArray, meaning: str) -> Score:
    return score_of(name, np.atleast_1d(values.values), meaning)


def _part(kind: str) -> KeyPart:
    """Keys that are the reference's: those of a joint sequence are of several parts."""
    return KeyPart("reference") if kind == "joint" else KeyPart()


def _picture_grid(leaf: Leaf) -> tuple[int, int]:
    """Rows and columns of the queries."""
    if len(leaf.query_grid) == 3:
        raise NotRecordedError(
            f"{leaf.kind}/{leaf.grid} is of a video of {leaf.query_grid[0]} latent frames; reference scores compare a "
            "picture with its truth"
        )
    return leaf.query_grid[0], leaf.query_grid[1]


def _finest(trace: Trace, kind: str) -> str:
    grids = [leaf.grid for leaf in trace.leaves.values() if leaf.kind == kind]
    if not grids:
        raise NotRecordedError(f"{trace.where} holds no attention of kind {kind!r}; kinds: {', '.join(trace.kinds)}")
    return grids[0]

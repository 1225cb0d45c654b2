"""Sections of the report: what a store of word maps shows, what a store with a reference shows, and the scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis import Trace, maps
from attlas.analysis.roles import annotation_of, names_by_role
from attlas.analysis.scoring.reference_scores import patch_targets
from attlas.analysis.words import has_word, spans, text_kind, word_keys
from attlas.dashboards.figures import GREEN, contoured, framed_patch, large, map_figure, spread_patches
from attlas.dashboards.labels import call_label, layer_labels, layer_order
from attlas.dashboards.landing import landing, middle
from attlas.dashboards.page import Figure, Section, Table

__all__ = ["reference_kind", "reference_section", "score_sections", "word_section"]

Row = tuple[str, Sequence[Figure | Table]]

TIME_GROUPS = 5
PATCHES = 4


def word_section(name: str, trace: Trace, runs: int) -> Section:
    """Pictures of the first runs, each with a word map for every annotated noun; strips of the first noun."""
    rows: list[Row] = []
    shown: tuple[Trace, str] | None = None
    for run in trace.run_ids[:runs]:
        one = trace.sel(run)
        prompt = str(one.runs["prompt"].values[0])
        image = one.images.isel(run=0).compute()
        figures = [Figure(large(image), "generated")]
        for noun in nouns(one):
            figures.append(Figure(_word_map(one, noun, image), f"word map of {noun}"))
            shown = shown or (one, noun)
        rows.append((f"{prompt} (run {run})" if prompt else f"run {run}", figures))
    if shown is not None:
        rows += _strips(*shown)
    text = (
        "Where the picture looks at each noun (DAAM, all layers, heads and calls), over the generated picture. "
        "The white line is the true outline of the object, where the store knows it."
    )
    return Section(f"{name}: word maps", text, rows)


def nouns(trace: Trace) -> list[str]:
    """Words of the only run's prompt under which a mask was annotated, in the prompt's order."""
    prompt = str(trace.runs["prompt"].values[0])
    names = [str(name) for name, array in trace.annotations.items() if array.dims == ("run", "image_y", "image_x")]
    return sorted((name for name in names if has_word(prompt, name)), key=lambda name: spans(prompt, name)[0])


def _word_map(trace: Trace, noun: str, image: xr.DataArray) -> Any:
    attention = _shown(maps.daam(trace, noun, variant="released"))
    mask = trace.annotations[noun].isel(run=0).values > 0
    return contoured(map_figure(image, attention), mask)


def _strips(trace: Trace, noun: str) -> list[Row]:
    """TLAM, HLAM and LLAM of one noun, softmax over queries: where its attention goes."""
    image = trace.images.isel(run=0).compute()
    kind = text_kind(trace)
    options: dict[str, Any] = {"kind": kind, "keys": word_keys(trace, noun)}
    # Few cells share one sum: maps of coarse layers would outshine those of the finest grid, which is shown alone.
    grid = next(leaf.grid for leaf in trace.leaves.values() if leaf.kind == kind)
    groups = min(TIME_GROUPS, trace.calls)
    by_time = _shown(maps.tlam(trace, "r2g", groups, layers=grid, **options))
    ends = zip(by_time["t_start"].values, by_time["t_stop"].values, strict=True)
    labels = [call_label(int(first), int(stop) - 1) for first, stop in ends]
    rows = [_strip(f"{noun} by time (TLAM, r2g, layers {grid})", by_time, image, labels)]
    if len({leaf.heads for leaf in trace.leaves.values() if leaf.kind == kind and leaf.grid == grid}) == 1:
        by_head = _shown(maps.hlam(trace, "r2g", layers=grid, **options))
        labels = [f"head {head}" for head in by_head["head"].values]
        rows.append(_strip(f"{noun} by head (HLAM, r2g, layers {grid})", by_head, image, labels))
    by_layer = _shown(maps.llam(trace, "r2g", **options))
    by_layer = by_layer.isel(layer=layer_order([str(path) for path in by_layer["layer"].values]))
    labels = layer_labels([str(path) for path in by_layer["layer"].values])
    return [*rows, _strip(f"{noun} by layer (LLAM, r2g)", by_layer, image, labels)]


def _shown(attention: xr.DataArray) -> xr.DataArray:
    """Compute maps of the only run, in a video of its middle frame."""
    return attention.isel(middle(attention)).compute()


def _strip(title: str, attention: xr.DataArray, image: xr.DataArray, labels: Sequence[str]) -> Row:
    first = attention.dims[0]
    figures = [
        Figure(map_figure(image, attention.isel({first: i})), label, width=104) for i, label in enumerate(labels)
    ]
    return title, figures


def reference_kind(trace: Trace) -> str | None:
    """Kind of attention whose keys are patches of a reference picture; None where there is none."""
    kinds = [kind for kind in ("image", "joint") if kind in trace.kinds]
    return next((kind for kind in kinds if landing(trace, kind).on_reference), None)


def reference_section(name: str, trace: Trace, runs: int) -> Section:
    """Pictures of the first runs: inputs, result, where the object's reference goes, and what patches look at."""
    rows: list[Row] = []
    for run in trace.run_ids[:runs]:
        rows += _reference_rows(trace.sel(run), run)
    text = (
        "First row: reference, true picture where it is known, generated picture, and where the reference goes in it "
        "(ULAM, softmax over queries; of the object's patches where their mask is known). Second row: a patch of "
        "the generated picture (white) and what it looks at in the reference (SRAM); the green frame is the true "
        "place. Layers of the finest grid, all heads and calls."
    )
    return Section(f"{name}: reference maps", text, rows)


def _reference_rows(trace: Trace, run: str) -> list[Row]:
    image, reference = trace.images.isel(run=0).compute(), trace.reference.isel(run=0).compute()
    roles = names_by_role(trace)
    figures = [Figure(large(reference), "reference")]
    if "target" in roles:
        figures.append(Figure(large(annotation_of(trace, "target").isel(run=0).compute()), "true picture"))
    keys: dict[str, Any] = {}
    if "reference_object" in roles:
        keys["keys"] = annotation_of(trace, "reference_object")
    # As in the strips of words, coarse layers would outshine the finest grid.
    kind = reference_kind(trace) or "image"
    grid = next(leaf.grid for leaf in trace.leaves.values() if leaf.kind == kind)
    unified = _shown(maps.ulam(trace, "r2g", kind=kind, layers=grid, **keys, **landing(trace, kind).arguments))
    figures += [Figure(large(image), "generated"), Figure(map_figure(image, unified), "goes to (ULAM, r2g)")]
    rows: list[Row] = [(f"run {run}", figures)]
    if "correspondence" in roles:
        rows.append(("", _patch_figures(trace, kind, image, reference)))
    return rows


def _patch_figures(trace: Trace, kind: str, image: xr.DataArray, reference: xr.DataArray) -> list[Figure]:
    leaf = next(leaf for leaf in trace.leaves.values() if leaf.kind == kind)
    part = landing(trace, kind)
    key_grid = leaf.segment_grid("reference")
    if key_grid is None or part.frame is not None:
        return []
    grid = (leaf.query_grid[0], leaf.query_grid[1])
    size = (reference.shape[0], reference.shape[1])
    true = patch_targets(annotation_of(trace, "correspondence"), grid, key_grid, size).isel(run=0)
    figures = []
    for patch in spread_patches(true.notnull().all("coordinate").values, PATCHES):
        place = true.isel(y=patch[0], x=patch[1]).values
        made = maps.sram(trace, patch, keep=(), kind=kind, layers=leaf.grid, **part.arguments)
        made = made.isel(run=0).compute()
        # A place between patches belongs to the one whose centre is nearest; the last centre is half a patch inside.
        row, column = (min(max(round(float(v)), 0), size - 1) for v, size in zip(place, key_grid, strict=True))
        marked = framed_patch(map_figure(reference, made), (row, column), key_grid, GREEN)
        figures.append(Figure(framed_patch(large(image), patch, grid), f"patch {patch}", width=120))
        figures.append(Figure(marked, "looks at", width=120))
    return figures


def score_sections(scores: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Section]:
    """One section of scores for each world, by its name: its store beside those of the same name with a suffix.

    `scores` maps a store's name to its tables as `ScoreTable.to_json` gives them. Names are compared up to the
    first hyphen: ``shapes-random`` stands beside ``shapes``.
    """
    worlds: dict[str, list[str]] = {}
    for name in scores:
        worlds.setdefault(name.partition("-")[0], []).append(name)
    sections = {}
    for world, names in worlds.items():
        merged = {name: _merged(scores[name]) for name in sorted(names, key=len)}
        measures = list(dict.fromkeys(measure for own in merged.values() for measure in own))
        rows = [_score_row(measure, merged) for measure in measures]
        notes = [f"{name}: {line}" for name in names for table in scores[name] for line in table.get("left_out", ())]
        note = "Mean over n samples, with half of the 95 % interval. " + ". ".join(notes)
        sections[world] = Section(f"{world}: scores", "", [("", [Table(rows, note=note.strip())])])
    return sections


def _merged(tables: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {name: score for table in tables for name, score in table["scores"].items()}


def _score_row(measure: str, merged: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, object]:
    known = [own[measure] for own in merged.values() if measure in own]
    row: dict[str, object] = {"score": measure}
    for name, own in merged.items():
        row[name] = _number(own[measure]) if measure in own else None
    counts = " / ".join(dict.fromkeys(str(score["n"]) for score in known))
    return {**row, "n": counts, "meaning": known[0]["meaning"]}


def _number(score: Mapping[str, Any]) -> str:
    value, spread = score.get("value"), score.get("ci95")
    if value is None or np.isnan(value):
        return "-"
    return f"{value:.3f}" if spread is None or np.isnan(spread) else f"{value:.3f} \u00b1 {spread:.3f}"

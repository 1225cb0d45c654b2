"""`attlas demo`: records, scores, reports, says what to do next; and the dashboard on its stores answers clicks."""

import json
import re

import numpy as np
import pytest
import torch
import xarray as xr
from browsing import browsing, serving, visiting
from playwright.sync_api import expect

from attlas.analysis import open_trace, recipes
from attlas.analysis.scoring.reference_scores import patch_targets, sram_peaks
from attlas.recorder import load_pipeline
from attlas.recorder.demo import shapes, tryon
from attlas.schemas import open_store, validate_store

pytestmark = pytest.mark.slow

DIMS = ("run", "branch", "t", "layer", "head", "query", "key")


def table(demo, store):
    """Scores of one store by name."""
    scores = json.loads((demo.folder / "scores.json").read_text())
    (tables,) = (made for path, made in scores.items() if path.endswith(f"/{store}.zarr"))
    return {name: score for one in tables for name, score in one["scores"].items()}


def test_it_says_where_things_are_and_how_to_go_on(demo):
    assert f"Report     {demo.folder / 'report.html'}" in demo.output
    assert f"Dashboard  attlas dashboard {demo.stores[0]} {demo.stores[1]}" in demo.output
    assert "random" in demo.output


def test_trained_maps_find_what_random_ones_do_not(demo):
    words, random_words = table(demo, "shapes"), table(demo, "shapes-random")
    assert words["colour_present"]["n"] >= demo.samples
    assert random_words["noun_iou"]["n"] >= demo.samples // 2
    assert words["noun_iou"]["value"] > 2 * random_words["noun_iou"]["value"]
    assert words["noun_iou"]["value"] > 5 * words["other_noun_iou"]["value"]
    places, random_places = table(demo, "tryon"), table(demo, "tryon-random")
    assert places["sram_pck1"]["value"] > 0.8
    assert random_places["sram_pck1"]["value"] < 0.15
    assert places["sram_pck1"]["n"] == demo.samples


def test_a_swapped_reference_moves_the_attention(demo):
    swapped = table(demo, "tryon-swapped")
    assert swapped["swapped_pck1"]["value"] > 0.8
    assert swapped["swapped_former_pck1"]["value"] < 0.15


def test_the_refined_model_and_its_control_are_scored_beside_the_base(demo):
    base, refined, control = (table(demo, name) for name in ("tryon", "tryon-refined", "tryon-control"))
    assert refined["sram_pck1"]["n"] == base["sram_pck1"]["n"] == demo.samples
    assert control["sram_pck1"]["n"] == demo.samples // 2
    for one in (refined, control):
        assert abs(one["sram_pck1"]["value"] - base["sram_pck1"]["value"]) < 0.1  # moved, not ruined
    # The same requests and noise, so that what differs is the weights.
    stores = [open_store(demo.folder / f"{name}.zarr") for name in ("tryon", "tryon-refined")]
    assert stores[0].run_ids == stores[1].run_ids
    starts = [store.group["reference_image"][:] for store in stores]
    np.testing.assert_array_equal(*starts)


def test_the_guided_store_has_both_branches_of_the_same_requests(demo):
    guided = open_store(demo.folder / "tryon-guided.zarr")
    assert guided.branches == ("uncond", "cond")
    assert guided.run_ids == open_store(demo.folder / "tryon.zarr").run_ids[:2]


def test_table_2_runs_on_the_demo(demo):
    result = recipes.run("i2am-table2", [open_trace(place) for place in table2_stores(demo)], progress=False, samples=1)
    (row,) = (row for row in result.tables[0].rows if row[0] == "ours: refined")
    assert row[-1].n == demo.samples


def table2_stores(demo):
    return [demo.folder / place for place in ("tryon.zarr", "tryon-refined.zarr", "baselines/tryon-control.zarr")]


def test_the_report_needs_no_network(demo):
    report = (demo.folder / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", report)
    assert not re.findall(r"url\(\s*['\"]?https?:|@import", report)
    assert report.count("data:image/png;base64,") >= 8


def test_stores_are_sound_and_plain_xarray_opens_them(demo):
    for path, leaf, variable in zip(
        demo.stores, ("text/16x16", "image/16x16"), ("log_attention", "query_vectors"), strict=True
    ):
        assert validate_store(path, deep=True) == []
        tree = xr.open_datatree(path, engine="zarr")
        assert tree[leaf][variable].dims[:6] == DIMS[:6]
        assert set(DIMS) <= set(tree[leaf].sizes)


@pytest.mark.parametrize("world", [shapes, tryon])
def test_pictures_are_bit_identical_without_the_recorder(demo, world):
    name = world.__name__.rsplit(".", 1)[1]
    store = open_store(demo.folder / f"{name}.zarr")
    pipe = load_pipeline(f"demo:{name}")
    for row, request in enumerate(world.requests(3)):
        arguments = {key: value for key, value in request.items() if key not in ("seed", "id", "annotations")}
        picture = pipe(**arguments, generator=torch.Generator().manual_seed(request["seed"])).images[0]
        np.testing.assert_array_equal(store.group["generated_image"][row], np.asarray(picture))


GRID = 16


@pytest.fixture(scope="module")
def visit(demo):
    with serving(*demo.stores) as url, browsing() as browser, visiting(browser, url) as made:
        yield made


def garment_patches(trace, run):
    """Patches of a run where the model is right, each with its true reference patch: (row, column), (row, column)."""
    one = trace.sel(run)
    true = patch_targets(one.annotations["correspondence"], (GRID, GRID), (GRID, GRID), (64, 64))[0].values
    found = sram_peaks(one)[0].values
    off = np.linalg.norm(true - found, axis=-1)
    # Not at the rim of the garment: its middle.
    rows, columns = np.nonzero(off <= 1)
    middle = np.argsort((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)[:3]
    return [((int(rows[i]), int(columns[i])), tuple(true[rows[i], columns[i]])) for i in middle]


@pytest.mark.browser
def test_a_click_on_the_garment_lights_up_its_true_place(demo, visit, tmp_path):
    trace = open_trace(demo.folder / "tryon.zarr")
    run = trace.run_ids[0]
    visit.open(f"?store=tryon.zarr&run={run}")
    for (row, column), true in garment_patches(trace, run):
        visit.click_patch("generated", row, column, GRID)
        expect(visit.readout).to_contain_text(f"generated patch ({row}, {column}): brightest reference patch (")
        said = visit.readout.inner_text().partition("brightest reference patch (")[2].partition(")")[0]
        place = np.array([int(number) for number in said.split(",")])
        assert np.abs(place - true).max() <= 2, f"patch {(row, column)} lit up {place}, the truth is {true}"
    visit.page.screenshot(path=tmp_path / "tryon.png", full_page=True)


@pytest.mark.browser
def test_a_word_lights_up_the_object_that_it_names(demo, visit, tmp_path):
    trace = open_trace(demo.folder / "shapes.zarr")
    # A prompt with one object, so that anything coloured is it: the model likes to draw an object twice.
    run = next(run for run, text in zip(trace.run_ids, trace.runs["prompt"].values, strict=True) if " and " not in text)
    noun = str(trace.runs["prompt"].sel(run=run).values).split()[-1]
    visit.open(f"?store=shapes.zarr&run={run}")
    visit.page.get_by_role("button", name=noun, exact=True).click()
    expect(visit.readout).to_contain_text(f"word '{noun}': brightest generated patch (")
    said = visit.readout.inner_text().partition("patch (")[2].partition(")")[0]
    row, column = (int(number) for number in said.split(","))
    around = trace.images.sel(run=run).values[
        max(0, row * 4 - 4) : row * 4 + 8, max(0, column * 4 - 4) : column * 4 + 8
    ]
    colour = around.max(-1).astype(int) - around.min(-1)
    assert colour.max() > 80, "the brightest place of the word map is grey background"
    visit.page.screenshot(path=tmp_path / "shapes.png", full_page=True)

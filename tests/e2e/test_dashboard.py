"""The dashboard on the demo's try-on store: a click on the garment lights up where it really comes from."""

import numpy as np
import pytest
from browsing import browsing, serving, visiting
from playwright.sync_api import expect

from attlas.analysis import open_trace
from attlas.analysis.reference_scores import patch_targets, sram_peaks

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.browser, pytest.mark.slow]

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

"""The dashboard in a real browser: mouse to answer, nothing from the network, markup stays text."""

import numpy as np
import pytest
from browsing import browsing, serving, visiting
from PIL import Image
from playwright.sync_api import expect

from attlas.schemas import simulate_store

pytestmark = pytest.mark.browser

HOSTILE = "a <img src=x onerror=alert(1)> disc & <b>cross</b>"
GRID = 8


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server over two stores, as a user starts it."""
    folder = tmp_path_factory.mktemp("stores")
    simulate_store(folder / "planted.zarr", runs=3, grid=(GRID, GRID), image_size=64, seed=2)
    simulate_store(folder / "hostile.zarr", runs=1, kinds=("text", "image"), prompt=HOSTILE)
    (folder / "zbroken.zarr").mkdir()
    (folder / "zbroken.zarr/zarr.json").write_text("{")
    with serving(folder) as address:
        yield address


@pytest.fixture(scope="module")
def window(url):
    """One window for all: a new one would load and compile the page's scripts again."""
    with browsing() as browser, visiting(browser, url) as made:
        yield made


@pytest.fixture
def visit(window):
    yield window
    assert window.foreign == []
    assert window.errors == []


def test_a_click_lights_up_the_true_place_and_back(visit, tmp_path):
    visit.open("?store=planted.zarr")
    for row, column in ((2, 1), (7, 7), (0, 3)):
        visit.click_patch("generated", row, column, GRID)
        # The planted truth: the reference patch mirrored left to right.
        expect(visit.readout).to_contain_text(
            f"generated patch ({row}, {column}): brightest reference patch ({row}, {GRID - 1 - column}), weight 0."
        )
    visit.click_patch("reference", 5, 2, GRID)
    expect(visit.readout).to_contain_text("reference patch (5, 2): brightest generated patch (5, 5)")
    visit.page.wait_for_url("**mode=reference**")
    visit.page.screenshot(path=tmp_path / "page.png", full_page=True)
    # The brightest place really is bright on the screen: inferno's end, nearly opaque. Drawing follows the words.
    for _ in range(50):
        seen = picture(visit, "generated", tmp_path)
        cell = seen.shape[0] // GRID
        lit = np.median(seen[5 * cell : 6 * cell, 5 * cell : 6 * cell].reshape(-1, 3).astype(int).sum(1))
        if lit > 500:
            break
        visit.page.wait_for_timeout(100)
    assert lit > 500


def picture(visit, side, folder):
    visit.page.locator(f".attlas-{side}").screenshot(path=folder / "pane.png")
    with Image.open(folder / "pane.png") as seen:
        return np.asarray(seen.convert("RGB"))


def test_everything_stands_in_its_place_and_nothing_scrolls_inside_the_page(visit):
    visit.open("?store=planted.zarr")
    for dim in ("t", "head", "layer"):
        expect(visit.page.locator(f".attlas-strip-{dim} canvas").first).to_be_visible()
    generated, reference = (visit.page.locator(f".attlas-{s}").bounding_box() for s in ("generated", "reference"))
    assert generated["y"] == reference["y"]
    assert (generated["width"], generated["height"]) == (reference["width"], reference["height"]) == (420, 420)
    assert reference["x"] > generated["x"] + generated["width"]
    assert visit.page.evaluate(SCROLLING) == []


SCROLLING = """() => {
  const found = []
  const walk = (node) => {
    if (node.shadowRoot) walk(node.shadowRoot)
    for (const child of node.children || []) {
      const style = getComputedStyle(child)
      const over = (style.overflowY + style.overflowX).match(/auto|scroll/)
      const bigger = child.scrollHeight > child.clientHeight + 1 || child.scrollWidth > child.clientWidth + 1
      if (over && bigger && child !== document.body) found.push(child.tagName + "." + child.className)
      walk(child)
    }
  }
  walk(document.body)
  return found
}"""
"""What scrolls inside the page."""


def test_a_word_is_asked_by_its_button(visit):
    visit.open("?store=planted.zarr")
    visit.page.get_by_role("button", name="disc", exact=True).click()
    expect(visit.readout).to_contain_text("word 'disc': brightest generated patch (2, ")
    expect(visit.page.get_by_role("button", name="disc", exact=True)).to_have_attribute("aria-pressed", "true")
    visit.page.wait_for_url("**word=disc**")


def test_another_run_is_picked_by_its_picture(visit):
    visit.open("?store=planted.zarr")
    visit.page.get_by_role("button", name="0002").click()
    visit.page.wait_for_url("**run=0002**")
    expect(visit.page.get_by_role("button", name="0002")).to_have_attribute("aria-pressed", "true")


def test_the_address_brings_a_view_back_and_so_does_the_back_button(visit):
    visit.open("?store=planted.zarr")
    visit.click_patch("generated", 2, 1, GRID)
    visit.page.wait_for_url("**row=2&column=1**")
    kept = visit.page.url
    visit.page.get_by_role("button", name="cross", exact=True).click()
    expect(visit.readout).to_contain_text("word 'cross'")
    visit.page.go_back()
    expect(visit.readout).to_contain_text("generated patch (2, 1)")
    visit.page.goto(kept)
    expect(visit.readout).to_contain_text("generated patch (2, 1): brightest reference patch (2, 6)")


def test_a_bad_address_and_a_broken_store_are_messages(visit):
    visit.open("?store=planted.zarr&run=77&word=dsc&direction=up")
    notice = visit.page.locator(".attlas-notice")
    for words in (
        "zbroken.zarr: zarr.json: it is no JSON",
        "unknown run '77'",
        "did you mean 'disc'",
        "unknown direction",
    ):
        expect(notice).to_contain_text(words)
    visit.click_patch("generated", 2, 1, GRID)
    expect(visit.readout).to_contain_text("brightest reference patch (2, 6)")
    expect(notice).to_be_hidden()


def test_a_prompt_of_markup_is_shown_as_text(visit):
    visit.open("?store=hostile.zarr")
    expect(visit.page.locator(".attlas-words")).to_contain_text(HOSTILE)
    assert visit.page.locator("img[src='x']").count() == 0
    visit.page.get_by_role("button", name="onerror").click()
    expect(visit.readout).to_contain_text("word 'onerror'")
    visit.page.get_by_role("button", name="Python of this view").click()
    expect(visit.page.locator(".attlas-code")).to_contain_text("maps.daam(trace, 'onerror'")


def test_a_file_is_saved(visit, tmp_path):
    visit.open("?store=planted.zarr")
    visit.click_patch("generated", 2, 1, GRID)
    expect(visit.readout).to_contain_text("generated patch (2, 1)")
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="Save PNG").click()
    download.value.save_as(tmp_path / "map.png")
    assert download.value.suggested_filename == "0000-patch-2-1-g2r.png"
    with Image.open(tmp_path / "map.png") as saved:
        assert saved.size == (512, 512)

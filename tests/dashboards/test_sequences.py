"""Stores of joint sequences and of videos on the page, in its Python, in files and in the report; no browser."""

import html
import re

import numpy as np
import panel as pn
import pytest
import xarray as xr

from attlas.analysis import maps, open_trace, scores
from attlas.dashboards.app import Page
from attlas.dashboards.data import STRIPS, Catalogue
from attlas.dashboards.report import report
from attlas.dashboards.state import BenchState
from attlas.schemas import simulate_store

pn.extension()

STORES = {
    "edit": {"kinds": ("joint",), "references": 1},
    "plain": {"kinds": ("joint",)},
    "several": {"kinds": ("joint",), "references": 2, "masked": True},
    "video": {"kinds": ("joint", "self"), "frames": 3, "references": 1},
    "words": {"kinds": ("joint",), "partial": True},
}


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences")
    for name, options in STORES.items():
        simulate_store(folder / f"{name}.zarr", runs=1, **options)
    return Catalogue([folder])


def text(component):
    return html.unescape(component.object.split(">", 1)[1].rsplit("<", 1)[0].replace("<br>", "\n"))


@pytest.mark.parametrize("name", STORES)
def test_every_store_opens_and_answers(sequences, name):
    made = Page(sequences, f"?store={name}.zarr")
    made.layout().get_root()
    bench = made.bench
    assert text(bench.readout)
    assert not bench.notice.visible
    bench.prompt.line.value = "cross"
    assert text(bench.readout).startswith("word 'cross': brightest generated patch (")
    assert all(strip.pane.visible for strip in bench.strips.values())
    bench.controls.widgets["direction"].value = "r2g"
    assert text(bench.readout).startswith("word 'cross'")
    assert not bench.notice.visible
    png, gif, netcdf = bench.downloads.buttons
    assert png.callback().read()[:4] == b"\x89PNG"
    assert gif.callback().read()[:6] == b"GIF89a"
    assert netcdf.callback().read()
    made.close()


@pytest.mark.parametrize("name", ["edit", "video", "several"])
def test_a_patch_looks_at_the_reference_and_back(sequences, name):
    made = Page(sequences, f"?store={name}.zarr")
    bench = made.bench
    bench.change(kind="joint")
    bench.generated.clicked(9.0, 30.0)
    told = text(bench.readout)
    if name == "several":
        # The picture that is shown is the first; these queries prefer the last.
        assert told.startswith("generated patch (3, 1): brightest reference patch (")
    else:
        assert told.startswith("generated patch (3, 1): brightest reference patch (3, 2), weight 0.")
    bench.reference.clicked(9.0, 30.0)
    assert (made.state.mode, made.state.direction, made.state.kind) == ("reference", "r2g", "joint")
    assert text(bench.readout).startswith("reference patch (3, 1): brightest generated patch (")
    bench.controls.widgets["direction"].value = "g2r"
    assert not bench.notice.visible
    made.close()


def test_without_a_reference_a_patch_looks_at_its_own_picture(sequences):
    made = Page(sequences, "?store=plain.zarr")
    made.bench.generated.clicked(9.0, 30.0)
    assert text(made.bench.readout).startswith("generated patch (3, 1): brightest generated patch (3, 1)")
    assert made.state.offered.modes == ("patch", "word", "map")
    made.close()


def test_a_store_of_the_words_keys_offers_no_patch(sequences):
    offer = sequences.offer("words.zarr", None)
    assert offer.modes == ("word", "map")
    assert offer.words["cond"] == ("a", "red", "disc", "and", "blue", "cross")


def test_words_whose_keys_are_not_kept_are_not_offered(tmp_path):
    store = simulate_store(tmp_path / "some.zarr", kinds=("text",), runs=1, partial=True)
    # The keys of "red" and "blue" alone.
    for name, row in (("token_start", [2, 17]), ("token_end", [5, 21])):
        store.group[f"text/4x4/{name}"][0, 1] = np.array([*row, *[-1] * 5], "i4")
    assert Catalogue([tmp_path]).offer("some.zarr", None).words["cond"] == ("red", "blue")


def test_a_video_shows_its_middle_frame(sequences):
    state = BenchState(sequences, "video.zarr")
    trace = open_trace(sequences.path("video.zarr"))
    state.change(word="disc")
    shown = sequences.answer(state.question, state.patch_grid).attention
    np.testing.assert_array_equal(shown, maps.daam(trace, "disc").isel(run=0, query_frame=1).compute())
    for dim in STRIPS:
        assert sequences.strip(state.question, state.patch_grid, dim).dims == (dim, "query_y", "query_x")
    state.change(mode="patch", kind="self", row=2, column=3)
    shown = sequences.answer(state.question, state.patch_grid).attention
    expected = maps.sram(trace, (1, 2, 3), kind="self", keep=(), reduce="mean").isel(run=0, key_frame=1)
    np.testing.assert_allclose(shown, expected.compute(), rtol=1e-6)


@pytest.mark.parametrize("name", ["edit", "several", "video"])
@pytest.mark.parametrize(
    "asked",
    [
        {"mode": "patch", "row": 1, "column": 2},
        {"mode": "patch", "row": 1, "column": 2, "direction": "r2g"},
        {"mode": "reference", "row": 1, "column": 2},
        {"mode": "reference", "row": 1, "column": 2, "direction": "g2r"},
        {"word": "disc", "direction": "r2g"},
    ],
    ids=str,
)
def test_the_shown_python_gives_the_shown_map(sequences, name, asked):
    state = BenchState(sequences, f"{name}.zarr")
    state.change(**({} if "word" in asked else {"kind": "joint"}) | asked)
    answer = sequences.answer(state.question, state.patch_grid)
    made = {}
    exec(compile(sequences.python(state), "<shown on the page>", "exec"), made)  # noqa: S102 - the code under test
    xr.testing.assert_identical(made["attention"], answer.attention)


def test_the_report_shows_words_and_references(sequences, tmp_path):
    traces = {name: open_trace(sequences.path(f"{name}.zarr")) for name in STORES}
    tables = {name: scores.score(trace) for name, trace in traces.items() if name == "edit"}
    written = report(traces, tables, tmp_path / "r.html").read_text()
    told = re.sub(r"<[^>]+>", "\n", written)
    for line in ("edit: word maps", "edit: reference maps", "video: word maps", "video: reference maps", "sram_pck1"):
        assert line in told, line
    assert "plain: reference maps" not in told
    pck = next(table.scores["sram_pck1"].value for table in tables["edit"] if "sram_pck1" in table.scores)
    assert pck == 1.0

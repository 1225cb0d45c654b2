"""Stores by name, answers and their cache, and the Python that the page shows."""

import os
import shutil

import numpy as np
import pytest
import xarray as xr

from attlas.analysis import open_trace
from attlas.dashboards.code import call
from attlas.dashboards.data import STRIPS, Catalogue, Kept
from attlas.dashboards.shelf import find_stores
from attlas.dashboards.state import BenchState
from attlas.schemas import simulate_store
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError
from attlas.schemas.root import ROOT, RootDocument
from attlas.schemas.storage import open_storage

HALF = 2e-3
"""Whole answers may come from the summary, which is kept in float16 (half a unit of its last place is 5e-4)."""

QUESTIONS = [
    {"row": 1, "column": 0},
    {"row": 1, "column": 0, "direction": "r2g"},
    {"row": 3, "column": 2, "kind": "self"},
    {"row": 3, "column": 2, "kind": "self", "direction": "r2g", "branch": "uncond"},
    {"mode": "reference", "row": 2, "column": 1},
    {"mode": "reference", "row": 2, "column": 1, "direction": "g2r"},
    {"word": "disc"},
    {"word": "disc", "direction": "r2g"},
]


def run(code):
    """The variables of a piece of Python."""
    made = {}
    exec(compile(code, "<shown on the page>", "exec"), made)  # noqa: S102 - the code under test
    return made


@pytest.mark.parametrize("asked", QUESTIONS, ids=str)
def test_the_shown_python_gives_the_shown_map(catalogue, state, asked):
    state.change(run="0001", threshold=0.25, **asked)
    answer = catalogue.answer(state.question, state.patch_grid)
    code = catalogue.python(state)
    made = run(code)
    xr.testing.assert_identical(made["attention"], answer.attention)
    assert "overlay(trace." + ("reference" if answer.side == "reference" else "images") in code
    assert "threshold=0.25" in code


def test_the_shown_python_names_the_papers_maps(catalogue, state):
    state.change(row=1, column=0)
    assert "maps.sram(trace, (1, 0)" in catalogue.python(state)
    state.change(mode="reference")
    assert "maps.reverse_sram(trace, (1, 0)" in catalogue.python(state)
    state.change(word="disc")
    assert "maps.daam(trace, 'disc'" in catalogue.python(state)


@pytest.mark.parametrize("row", range(4))
@pytest.mark.parametrize("column", range(4))
def test_a_patch_lights_up_its_mirrored_place(catalogue, state, row, column):
    # The simulated store's generated patches look at the reference place mirrored left to right.
    state.change(row=row, column=column)
    shown = catalogue.answer(state.question, state.patch_grid)
    assert shown.side == "reference"
    assert np.unravel_index(int(shown.attention.values.argmax()), (4, 4)) == (row, 3 - column)
    state.change(mode="reference")
    assert catalogue.answer(state.question, state.patch_grid).side == "generated"


def test_the_weight_is_the_mean_probability(catalogue, state):
    # By the definition: the mean over calls, layers and heads of the row of the softmax over keys.
    state.change(row=2, column=1)
    attention = open_trace(catalogue.path("full.zarr")).sel("0000").attention("image").sel(branch="cond").isel(run=0)
    row = attention.isel(query=9).mean(("t", "layer", "head")).compute()
    expected = row.sel(key=row["key_y"] >= 0).values.reshape(4, 4)
    shown = catalogue.answer(state.question, state.patch_grid).attention
    np.testing.assert_allclose(shown, expected, rtol=HALF)


@pytest.mark.parametrize("dim", STRIPS)
@pytest.mark.parametrize("asked", [QUESTIONS[0], QUESTIONS[5], QUESTIONS[6]], ids=str)
def test_a_strip_takes_the_answer_apart(catalogue, state, asked, dim):
    state.change(**asked)
    whole = catalogue.answer(state.question, state.patch_grid).attention
    strip = catalogue.strip(state.question, state.patch_grid, dim)
    assert strip.dims == (dim, *whole.dims)
    mean = strip.mean(dim)
    # A word map is a sum over calls, layers and heads, a patch map their mean.
    factor = float((whole / mean).mean())
    np.testing.assert_allclose(mean * factor, whole, rtol=HALF)
    assert factor == pytest.approx(12 if state.mode == "word" else 1, rel=HALF)


def test_a_strip_computed_by_itself_equals_one_from_the_cube(catalogue, state, monkeypatch):
    first = {dim: catalogue.strip(state.question, state.patch_grid, dim) for dim in STRIPS}
    monkeypatch.setattr("attlas.dashboards.data.CUBE_BYTES", 0)
    for dim in STRIPS:
        again = Catalogue([catalogue.path("full.zarr")]).strip(state.question, state.patch_grid, dim)
        np.testing.assert_allclose(again, first[dim], rtol=HALF)


def test_many_calls_become_ten_tiles(tmp_path):
    simulate_store(tmp_path / "long.zarr", runs=1, kinds=("image",), calls=23, layers=1, heads=1, grid=(2, 2))
    catalogue = Catalogue([tmp_path])
    state = BenchState(catalogue)
    strip = catalogue.strip(state.question, state.patch_grid, "t")
    # 23 calls in ten groups as even as can be: three of three, then seven of two.
    assert strip.sizes["t"] == 10
    assert strip["first"].values.tolist() == [0, 3, 6, 9, 11, 13, 15, 17, 19, 21]
    assert strip["last"].values.tolist() == [2, 5, 8, 10, 12, 14, 16, 18, 20, 22]


def test_a_summary_answers_all_but_the_time_strip(catalogue):
    state = BenchState(catalogue, "summary.zarr")
    assert catalogue.answer(state.question, state.patch_grid).attention.shape == (4, 4)
    for dim in ("head", "layer"):
        assert catalogue.strip(state.question, state.patch_grid, dim).sizes[dim] == 2
    with pytest.raises(NotRecordedError, match='detail="full"'):
        catalogue.strip(state.question, state.patch_grid, "t")
    state.change(mode="reference")
    with pytest.raises(NotRecordedError, match='detail="full"'):
        catalogue.answer(state.question, state.patch_grid)


def test_layers_of_several_grids(catalogue):
    state = BenchState(catalogue, "grids.zarr")
    assert (state.grid, state.patch_grid) == ("4x4", (4, 4))
    assert catalogue.strip(state.question, state.patch_grid, "head").sizes["head"] == 2
    state.change(grid="all")
    whole = catalogue.answer(state.question, state.patch_grid).attention
    assert whole.shape == (4, 4)
    xr.testing.assert_identical(run(catalogue.python(state))["attention"], whole)
    layers = catalogue.strip(state.question, state.patch_grid, "layer")
    assert layers["layer"].values.tolist() == ["image.2", "image.4"]
    with pytest.raises(InvalidValueError, match="layers have 2, 4 heads; choose one grid"):
        catalogue.strip(state.question, state.patch_grid, "head")
    state.change(word="disc")
    assert state.grid == "all"
    assert catalogue.strip(state.question, state.patch_grid, "layer").sizes["layer"] == 2


def test_an_answer_is_computed_once(catalogue, state, monkeypatch):
    first = catalogue.answer(state.question, state.patch_grid)
    monkeypatch.setattr("attlas.dashboards.data.call", None)
    assert catalogue.answer(state.question, state.patch_grid).attention is first.attention


def test_the_cache_is_bounded_and_drops_the_least_used():
    kept = Kept(room=30)
    for name in "abc":
        kept.get((name,), lambda: (object(), 10))
    kept.get(("a",), lambda: (None, 10))
    kept.get(("d",), lambda: (object(), 10))
    assert [key[0] for key in kept.values] == ["c", "a", "d"]
    kept.get(("huge",), lambda: (object(), 99))
    assert [key[0] for key in kept.values] == ["huge"]
    kept.forget("huge")
    assert not kept.values


def test_a_run_recorded_later_is_seen_after_a_refresh(tmp_path):
    simulate_store(tmp_path / "s.zarr", runs=1, kinds=("image",))
    catalogue = Catalogue([tmp_path])
    state = BenchState(catalogue)
    old = catalogue.answer(state.question, state.patch_grid).attention
    shutil.rmtree(tmp_path / "s.zarr")
    simulate_store(tmp_path / "s.zarr", runs=2, kinds=("image",), seed=5)
    storage = open_storage(tmp_path / "s.zarr")
    later = RootDocument.read(storage).with_attributes(created="2030-01-01T00:00:00+00:00")
    storage.put(ROOT, later.to_bytes())
    catalogue.refresh()
    assert catalogue.offer("s.zarr", None).runs == ("0000", "0001")
    assert not np.array_equal(catalogue.answer(state.question, state.patch_grid).attention, old)


def test_pictures_are_in_memory_and_none_where_there_is_no_reference(catalogue):
    image = catalogue.picture("full.zarr", "0002")
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8
    assert isinstance(image.data, np.ndarray)
    assert catalogue.picture("full.zarr", "0002", "reference").shape == (32, 32, 3)
    assert catalogue.picture("words.zarr", "0000", "reference") is None


def test_names_and_problems_of_what_is_found(folder, tmp_path):
    (tmp_path / "a").mkdir()
    shutil.copytree(folder / "words.zarr", tmp_path / "a/words.zarr")
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr/zarr.json").write_text("{")
    (tmp_path / "other.zarr").mkdir()
    (tmp_path / "other.zarr/zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "void").mkdir()
    paths = [folder / "words.zarr", tmp_path / "a", tmp_path, tmp_path / "nothing", "s3://bucket/far.zarr"]
    found, problems = find_stores([*paths, tmp_path / "notes.txt", tmp_path / "void", tmp_path / "other.zarr"])
    assert list(found) == [f"{folder.name}/words.zarr", "a/words.zarr", "far.zarr"]
    assert problems[0].startswith(f"{tmp_path}/broken.zarr: zarr.json: it is no JSON (Expecting property name")
    assert [problem.removeprefix(str(tmp_path)) for problem in problems[1:]] == [
        "/nothing: nothing is there",
        "/notes.txt: a file; a store or a folder of stores is accepted",
        "/void: no attlas store in this folder",
        "/other.zarr: a zarr store, but not of attlas",
    ]


def test_unknown_stores_and_runs_are_refused(catalogue):
    with pytest.raises(UnknownNameError, match="unknown store 'ful.zarr'; did you mean 'full.zarr'"):
        catalogue.trace("ful.zarr")
    with pytest.raises(UnknownNameError, match="unknown run '9'"):
        catalogue.trace("full.zarr", "9")


def test_the_call_is_lazy(catalogue, state):
    one = catalogue.trace("full.zarr", "0000")
    made = call(state.question, state.patch_grid, one, ("layer",)).lazy(one)
    assert made.chunks is not None
    assert made.dims == ("layer", "key_y", "key_x")


def test_what_stands_where_a_store_should_never_stops_the_search(folder, tmp_path):
    os.mkfifo(tmp_path / "pipe.zarr")
    (tmp_path / "fifo.zarr").mkdir()
    os.mkfifo(tmp_path / "fifo.zarr" / ROOT)
    (tmp_path / "huge.zarr").mkdir()
    with (tmp_path / "huge.zarr" / ROOT).open("wb") as file:
        file.truncate(2**27)
    (tmp_path / "deep.zarr").mkdir()
    (tmp_path / "deep.zarr" / ROOT).write_text("[" * 100_000)
    shutil.copytree(folder / "words.zarr", tmp_path / "words.zarr")
    found, problems = find_stores([tmp_path])
    assert {"words.zarr"} <= set(found) <= {"words.zarr", "huge.zarr"}
    assert any(problem.startswith(f"{tmp_path}/deep.zarr: zarr.json: it is no JSON") for problem in problems)
    assert any("fifo.zarr" in problem for problem in problems)
    with pytest.raises(InvalidValueError, match=r"(?s)'huge\.zarr' cannot be shown: .*134217728 bytes"):
        Catalogue([tmp_path]).trace("huge.zarr")


def test_a_pattern_is_its_stores(folder, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(folder / "words.zarr", tmp_path / f"{name}.zarr")
    found, problems = find_stores([str(tmp_path / "*.zarr"), str(tmp_path / "none*")])
    assert found == {"a.zarr": str(tmp_path / "a.zarr"), "b.zarr": str(tmp_path / "b.zarr")}
    assert problems == [f"no store matches {tmp_path}/none*"]

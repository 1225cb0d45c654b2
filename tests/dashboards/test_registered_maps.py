"""Registered maps as questions: state and address, answers, strips, code, and what fails."""

import numpy as np
import pytest
import xarray as xr

from attlas.analysis import map_function, maps, open_trace, registry
from attlas.dashboards.data import Catalogue
from attlas.dashboards.state import BenchState
from attlas.schemas import simulate_store
from attlas.schemas.errors import InvalidValueError, UnknownNameError


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "a.zarr"
    simulate_store(path, runs=2, kinds=("image", "text"))
    return path


@pytest.fixture
def catalogue(path, monkeypatch):
    known = registry._MAPS
    known.load()
    monkeypatch.setattr(known, "entries", dict(known.entries))

    @map_function("squared", meaning="square of the layers")
    def squared(trace, direction="r2g", branch="cond"):
        return maps.llam(trace, direction, branch=branch) ** 2

    @map_function("broken")
    def broken(trace):
        raise KeyError("no such leaf")

    @map_function("flat")
    def flat(trace):
        return xr.DataArray(np.zeros(len(trace.rows)), dims="run")

    @map_function("needs-a-word")
    def needs_a_word(trace, word):
        return maps.daam(trace, word)

    return Catalogue([path])


@pytest.fixture
def state(catalogue):
    return BenchState(catalogue)


def test_maps_that_need_no_more_than_a_trace_are_offered(state):
    assert state.offered.maps == ("ulam", "squared", "broken", "flat")
    assert state.mode == "patch"


def test_a_map_is_asked_and_left_again(state):
    state.change(map="squared")
    asked = state.question
    assert (asked.mode, asked.map, asked.patch, asked.word, asked.direction) == ("map", "squared", None, None, "r2g")
    state.change(word="disc")
    assert (state.mode, state.question.map) == ("word", None)
    state.change(mode="map")
    assert state.question.map == "squared"
    state.change(row=0, column=1)
    assert (state.mode, state.question.map, state.question.patch) == ("patch", None, (0, 1))
    with pytest.raises(UnknownNameError, match="unknown map 'square'; did you mean 'squared'"):
        state.change(map="square")


def test_the_address_holds_the_map(catalogue, state):
    state.change(map="squared", direction="g2r", run="0001")
    address = state.address()
    assert (address["mode"], address["map"]) == ("map", "squared")
    assert not {"row", "column", "word"} & address.keys()
    other = BenchState(catalogue)
    assert other.read(address) == []
    assert other.question == state.question
    state.change(row=0)
    assert "map" not in state.address()


def test_the_answer_is_the_mean_over_what_is_not_a_place(catalogue, state, path):
    state.change(map="squared")
    answer = catalogue.answer(state.question, state.patch_grid)
    expected = (maps.llam(open_trace(path).isel([0]), "r2g") ** 2).mean("layer").isel(run=0)
    np.testing.assert_allclose(answer.attention, expected, rtol=1e-6)
    assert answer.side == "generated"
    state.change(direction="g2r")
    assert catalogue.answer(state.question, state.patch_grid).side == "reference"


def test_strips_are_those_of_the_map_own_axes(catalogue, state, path):
    state.change(map="squared")
    strip = catalogue.strip(state.question, state.patch_grid, "layer")
    assert strip.dims == ("layer", "query_y", "query_x")
    with pytest.raises(InvalidValueError, match="'squared' is not taken apart by head"):
        catalogue.strip(state.question, state.patch_grid, "head")


def test_the_code_reproduces_the_answer(catalogue, state):
    state.change(map="squared", run="0001")
    source = catalogue.python(state)
    assert "map_of('squared').function(trace, direction='r2g', branch='cond').mean(['layer'])" in source
    scope = {}
    exec(source, scope)  # noqa: S102 - the page's own code
    answer = catalogue.answer(state.question, state.patch_grid)
    np.testing.assert_array_equal(scope["attention"], answer.attention)


@pytest.mark.parametrize(
    ("name", "message"),
    [("broken", "map 'broken' fails here: KeyError: 'no such leaf'"), ("flat", "'flat' returned run 1")],
)
def test_a_map_that_does_not_fit_says_so(catalogue, state, name, message):
    state.change(map=name)
    with pytest.raises(InvalidValueError, match=message):
        catalogue.answer(state.question, state.patch_grid)


def test_the_page_offers_and_shows_it(catalogue):
    from attlas.dashboards.views.bench import Bench

    bench = Bench(catalogue, BenchState(catalogue))
    choice = bench.controls.widgets["map"]
    assert list(choice.options.values()) == ["", "ulam", "squared", "broken", "flat"]
    choice.value = "squared"
    assert bench.state.mode == "map"
    assert "squared" in bench.readout.object
    choice.value = "broken"
    assert "fails here" in bench.notice.object
    bench.close()

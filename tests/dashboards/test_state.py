"""State: what it offers, what moves with what, what is refused, and the address bar."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attlas.dashboards.data import Catalogue
from attlas.dashboards.state import BenchState, Offer
from attlas.schemas.errors import InvalidValueError, UnknownNameError


class Shelf:
    """Offers without a store: two stores whose runs, words, kinds and grids differ."""

    stores = ("cats", "dogs")

    def offer(self, store, run):
        if store == "dogs":
            return Offer(("d0",), ("cond",), {"text": {"8x8": (8, 8)}}, {}, {"cond": ("dog",)})
        words = {"uncond": (), "cond": ("cat", "mat") if run in (None, "c0") else ("hat",)}
        grids = {"image": {"16x12": (16, 12), "8x6": (8, 6)}, "self": {"16x12": (16, 12)}, "text": {"8x8": (8, 8)}}
        return Offer(("c0", "c1"), ("uncond", "cond"), grids, {"image": (10, 20), "self": (16, 12)}, words)


@pytest.fixture
def shelf():
    return BenchState(Shelf())


def test_it_begins_with_the_first_run_and_a_patch_in_the_middle(shelf):
    asked = shelf.question
    assert (asked.store, asked.run, asked.mode, asked.kind, asked.grid) == ("cats", "c0", "patch", "image", "16x12")
    assert (asked.direction, asked.branch, asked.patch, asked.word) == ("g2r", "cond", (8, 6), None)


def test_a_store_without_patches_asks_a_word(shelf):
    shelf.change(store="dogs")
    assert (shelf.mode, shelf.kind, shelf.run, shelf.word) == ("word", "text", "d0", "dog")
    assert shelf.question.patch is None


def test_choosing_a_word_asks_it_and_choosing_a_patch_asks_that(shelf):
    shelf.change(word="Mat")
    assert (shelf.mode, shelf.question.word, shelf.kind) == ("word", "mat", "text")
    shelf.change(row=3, column=4)
    assert (shelf.mode, shelf.question.patch, shelf.kind) == ("patch", (3, 4), "image")


def test_each_mode_has_its_papers_direction_until_another_is_chosen(shelf):
    shelf.change(mode="reference")
    assert shelf.direction == "r2g"
    shelf.change(direction="g2r")
    assert (shelf.mode, shelf.direction) == ("reference", "g2r")
    shelf.change(mode="patch", direction="r2g")
    assert shelf.direction == "r2g"


def test_a_patch_keeps_its_place_when_the_grid_changes(shelf):
    shelf.change(row=15, column=2)
    shelf.change(grid="8x6")
    assert shelf.question.patch == (7, 1)
    shelf.change(grid="16x12")
    assert shelf.question.patch == (15, 3)
    shelf.change(mode="reference")
    assert shelf.patch_grid == (10, 20)
    assert shelf.question.patch == (9, 5)


def test_another_run_moves_the_word_that_it_lacks(shelf):
    shelf.change(word="cat")
    shelf.change(run="c1")
    assert shelf.word == "hat"


def test_a_branch_without_words_is_not_offered_for_a_word(shelf):
    shelf.change(branch="uncond")
    shelf.change(mode="word")
    assert shelf.branch == "cond"
    with pytest.raises(UnknownNameError, match="unknown branch 'uncond'"):
        shelf.change(branch="uncond")


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"store": "cat"}, UnknownNameError, "unknown store 'cat'; did you mean 'cats'"),
        ({"run": "c9"}, UnknownNameError, "unknown run 'c9'; did you mean"),
        ({"mode": "click"}, UnknownNameError, "unknown mode 'click'; accepted: 'patch', 'reference', 'word'"),
        ({"kind": "text"}, UnknownNameError, "unknown kind 'text'; accepted: 'image', 'self'"),
        ({"grid": "9x9"}, UnknownNameError, "unknown grid '9x9'"),
        ({"direction": "g2g"}, UnknownNameError, "unknown direction 'g2g'; did you mean"),
        ({"word": "cot"}, UnknownNameError, "unknown word 'cot'; did you mean 'cat'"),
        ({"colours": "jet"}, UnknownNameError, "unknown colour map 'jet'"),
        ({"row": 16}, InvalidValueError, "row is 16; 0 to 15 is accepted"),
        ({"column": -1}, InvalidValueError, "column is -1; 0 to 11 is accepted"),
        ({"threshold": 1.2}, InvalidValueError, "threshold is 1.2; 0 to 1 is accepted"),
        ({"opacity": -0.1}, InvalidValueError, "opacity is -0.1; 0 to 1 is accepted"),
        ({"colour": "x"}, UnknownNameError, "unknown parameter 'colour'; did you mean 'colours'"),
    ],
)
def test_what_is_not_accepted_is_refused_and_changes_nothing(shelf, values, error, message):
    before = shelf.address()
    with pytest.raises(error, match=message):
        shelf.change(opacity=0.5, **values) if "opacity" not in values else shelf.change(**values)
    assert shelf.address() == before


def test_watchers_see_a_whole_change_once(shelf):
    seen = []
    shelf.param.watch(lambda *events: seen.append({e.name: e.new for e in events}), list(BenchState.ADDRESSED))
    shelf.change(store="dogs")
    assert len(seen) == 1
    assert seen[0]["word"] == "dog"
    assert seen[0]["kind"] == "text"


def test_parameters_are_set_by_change_alone(shelf):
    with pytest.raises(TypeError, match="Constant"):
        shelf.run = "c1"


@given(
    moves=st.lists(
        st.one_of(
            st.fixed_dictionaries({"run": st.sampled_from(["c0", "c1"])}),
            st.fixed_dictionaries({"mode": st.sampled_from(["patch", "reference", "word"])}),
            st.fixed_dictionaries({"row": st.integers(0, 5), "column": st.integers(0, 5)}),
            st.fixed_dictionaries({"threshold": st.floats(0, 1), "shared": st.booleans()}),
            st.fixed_dictionaries({"direction": st.sampled_from(["g2r", "r2g"])}),
        ),
        max_size=6,
    )
)
def test_an_address_brings_the_same_state_back(moves):
    first = BenchState(Shelf())
    for move in moves:
        first.change(**move)
    second = BenchState(Shelf())
    assert second.read(first.address()) == []
    assert second.question == first.question
    assert np.isclose(second.threshold, first.threshold, atol=1e-5)
    assert second.shared == first.shared


def test_a_bad_address_says_each_thing_once_and_takes_the_rest(shelf):
    problems = shelf.read(
        {"run": "c1", "direction": "up", "row": "three", "column": "5", "shared": "perhaps", "zoom": "2"}
    )
    assert sorted(problems) == [
        "row is 'three'; a number is accepted",
        "shared is 'perhaps'; true or false is accepted",
        "unknown direction 'up'; accepted: 'g2r', 'r2g'",
        "unknown parameter 'zoom' in the address",
    ]
    assert (shelf.run, shelf.column) == ("c1", 5)


def test_real_stores_offer_what_they_hold(catalogue):
    offer = catalogue.offer("full.zarr", "0001")
    assert offer.runs == ("0000", "0001", "0002")
    assert offer.modes == ("patch", "reference", "word", "map")
    assert offer.kinds("patch") == ("image", "self")
    assert offer.words == {"uncond": (), "cond": ("a", "red", "disc", "and", "blue", "cross")}
    assert offer.nouns == ("cross", "disc")
    assert catalogue.offer("words.zarr", None).modes == ("word", "map")
    assert BenchState(catalogue, "words.zarr").word == "disc"
    grids = catalogue.offer("grids.zarr", None).grids
    assert list(grids["image"]) == ["4x4", "2x2", "all"]
    assert list(grids["text"]) == ["all", "4x4", "2x2"]


def test_a_store_that_is_no_more_asked_about_by_patches_says_so(catalogue):
    state = BenchState(catalogue, "words.zarr")
    with pytest.raises(InvalidValueError, match="choose a word of the prompt"):
        state.grid_of("patch")


def test_a_store_without_a_run_is_refused(tmp_path):
    from attlas.schemas import simulate_store

    simulate_store(tmp_path / "empty.zarr", runs=0)
    with pytest.raises(InvalidValueError, match="'empty.zarr' has no complete run"):
        BenchState(Catalogue([tmp_path]))

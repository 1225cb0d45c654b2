import numpy as np
import pytest
import xarray as xr

from attlas.analysis import heads, maps, open_trace
from attlas.schemas import simulate_store
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError


@pytest.fixture(scope="module")
def trace():
    return open_trace(simulate_store(runs=2, kinds=("text",)))


@pytest.fixture
def constructed():
    """Two samples and four heads: left half of the object, right half, all else, and one that is lacking."""
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 2:6, 2:6] = masks[1, 1:5, 3:7] = True
    drawn = np.zeros((2, 2, 2, 8, 8), "f4")
    for sample, left in ((0, 2), (1, 3)):
        drawn[sample, 0, 0] = masks[sample] * (np.arange(8) < left + 2)
        drawn[sample, 0, 1] = masks[sample] * (np.arange(8) >= left + 2)
        drawn[sample, 1, 0] = ~masks[sample]
        drawn[sample, 1, 1] = np.nan
    dims = ("sample", "layer", "head", "query_y", "query_x")
    made = xr.DataArray(drawn, dims=dims, coords={"layer": ["a", "b"], "head": [0, 1]})
    return made, xr.DataArray(masks, dims=("sample", "image_y", "image_x"))


def test_heads_by_themselves(constructed):
    scores = heads.score_heads(*constructed)
    assert scores.dims == ("layer", "head")
    # Each half covers half of the object; the opposite covers none of it; the lacking head has no score.
    np.testing.assert_allclose(scores, [[0.5, 0.5], [0, np.nan]])
    assert heads.rank(scores) == [("a", 0), ("a", 1), ("b", 0)]
    assert heads.top(scores, 2) == [("a", 0), ("a", 1)]
    with pytest.raises(InvalidValueError, match="top 4 of 3 heads; 1 to 3"):
        heads.top(scores, 4)


def test_greedy_finds_the_halves_that_make_a_whole_and_stops(constructed):
    assert heads.greedy(*constructed) == [("a", 0), ("a", 1)]
    assert heads.greedy(*constructed, limit=1) == [("a", 0)]
    np.testing.assert_allclose(heads.set_iou(*constructed, [("a", 0), ("a", 1)]), [1, 1])
    with pytest.raises(InvalidValueError, match="limit = 0"):
        heads.greedy(*constructed, limit=0)


def test_a_set_of_heads(constructed):
    # All three heads cover every cell alike: a constant map has no cell above any threshold.
    np.testing.assert_allclose(heads.set_iou(*constructed), [0, 0])
    np.testing.assert_allclose(heads.set_iou(*constructed, [("a", 1)], rule="max"), [0.5, 0.5])
    with pytest.raises(InvalidValueError, match="heads is empty"):
        heads.set_iou(*constructed, [])
    with pytest.raises(UnknownNameError, match="unknown head 'b:1'"):
        heads.set_iou(*constructed, [("b", 1)])
    with pytest.raises(InvalidValueError, match="the maps of all heads are NaN"):
        heads.score_heads(constructed[0] * np.nan, constructed[1])


def test_samples_are_the_nouns_that_were_drawn(trace):
    assert heads.noun_samples(trace) == [("0000", "cross"), ("0000", "disc"), ("0001", "cross"), ("0001", "disc")]
    assert heads.noun_samples(trace, ["disc"]) == [("0000", "disc"), ("0001", "disc")]
    with pytest.raises(NotRecordedError, match="no prompt holds a noun whose mask was annotated"):
        heads.noun_samples(trace, ["ring"])


def test_a_noun_that_is_not_in_the_prompt_or_not_in_the_picture_does_not_count(tools):
    leaf = tools.leaf_of("text", (4, 4), keys=8, encoding="dense")

    def given(row):
        mask = np.zeros((16, 16), bool)
        mask[:8] = row != 2
        return {"teddy_bear": mask}

    store, _ = tools.make_store((leaf,), runs=3, prompts=["a teddy bear", "a bear", "teddy bear"], annotations=given)
    assert heads.noun_samples(open_trace(store)) == [("run0", "teddy bear")]


def test_head_maps_are_word_maps(trace):
    samples = heads.noun_samples(trace)
    made = heads.head_maps(trace, samples)
    assert made.dims == ("sample", "layer", "head", "query_y", "query_x")
    assert made["word"].values.tolist() == ["cross", "disc"] * 2
    expected = maps.daam(trace, "disc", keep=("layer", "head"), variant="released").compute()
    np.testing.assert_allclose(made.isel(sample=3), expected.sel(run="0001"), rtol=1e-6)
    masks = heads.noun_masks(trace, samples)
    assert masks.dtype == bool
    np.testing.assert_array_equal(masks[3], trace.annotations["disc"].sel(run="0001").compute() == 1)


def test_chosen_heads_go_into_any_map(trace):
    samples = heads.noun_samples(trace)
    made, masks = heads.head_maps(trace, samples), heads.noun_masks(trace, samples)
    chosen = heads.top(heads.score_heads(made, masks), 2)
    by_map = maps.daam(trace, "disc", variant="released", heads=chosen).compute().sel(run="0000")
    by_hand = sum(made.isel(sample=1).sel(layer=layer, head=head) for layer, head in chosen) / 2
    np.testing.assert_allclose(by_map, by_hand, rtol=1e-5, atol=1e-7)

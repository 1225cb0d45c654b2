import numpy as np
import pytest
import xarray as xr

from attlas.analysis import heads, maps
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError

LAYERS = ["a", "b"]


@pytest.fixture
def scores():
    return xr.DataArray([[0.1, 0.4], [0.3, np.nan]], {"layer": LAYERS, "head": [0, 1]}, ("layer", "head"))


@pytest.fixture
def drawn():
    """Two runs of two words and four heads: the object, its left half, all else (whatever the word), one lacking."""
    masks = np.zeros((4, 8, 8), bool)
    for place, (top, left) in enumerate(((2, 2), (1, 3), (4, 0), (0, 4))):
        masks[place, top : top + 4, left : left + 4] = True
    made = np.zeros((4, 2, 2, 8, 8), "f4")
    made[:, 0, 0], made[:, 1, 0] = masks, ~masks
    made[:, 0, 1] = masks & (np.cumsum(masks, -1) <= 2)
    made[:, 1, 1] = np.nan
    dims = ("sample", "layer", "head", "query_y", "query_x")
    labels = {"run": ("sample", ["r0", "r0", "r1", "r1"]), "word": ("sample", ["cat", "dog"] * 2)}
    of_maps = xr.DataArray(made, {"layer": LAYERS, "head": [0, 1], **labels}, dims)
    return of_maps, xr.DataArray(masks, labels, ("sample", "image_y", "image_x"))


def test_top_bottom_and_fractions(scores):
    np.testing.assert_array_equal(heads.select(scores, top=1), [[0, 1], [0, np.nan]])
    np.testing.assert_array_equal(heads.select(scores, bottom=2), [[1, 0], [1, np.nan]])
    np.testing.assert_array_equal(heads.select(scores, top=0.6), [[0, 1], [1, np.nan]])
    np.testing.assert_array_equal(heads.select(scores), [[1, 1], [1, np.nan]])
    np.testing.assert_allclose(heads.select(scores, top=2, weights="soft"), [[0, 0.4], [0.3, np.nan]], rtol=1e-6)
    assert heads.select(scores, top=0.6).attrs["chosen"] == "top 0.6: 2 heads"


def test_random_choices_differ_by_seed_only(scores):
    chosen = [heads.select(scores, random=1, seed=seed).values for seed in range(12)]
    np.testing.assert_array_equal(chosen[3], heads.select(scores, random=1, seed=3))
    assert {tuple(np.flatnonzero(own == 1)) for own in chosen} == {(0,), (1,), (2,)}
    orders = heads.random_rankings(scores, 4)
    assert all(sorted(order) == [("a", 0), ("a", 1), ("b", 0)] for order in orders)
    assert len({tuple(order) for order in orders}) > 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top": 0}, "top=0 takes 0 of 3 heads; 1 to 3"),
        ({"bottom": 0.1}, "bottom=0.1 takes 0 of 3 heads"),
        ({"top": 4}, "top=4 takes 4 of 3 heads"),
        ({"top": 1.5}, "top=1.5 takes 4 of 3 heads"),
        ({"top": 1, "random": 1}, "top and random are given; choose one"),
        ({"concept": "cat"}, r"concept 'cat' is named, but the scores have dims \('layer', 'head'\)"),
    ],
)
def test_a_choice_of_nothing(scores, given, message):
    with pytest.raises(InvalidValueError, match=message):
        heads.select(scores, **given)


def test_concepts_and_weights_by_name(scores):
    both = xr.concat([scores, -scores], "concept").assign_coords(concept=["cat", "dog"])
    np.testing.assert_array_equal(heads.select(both, "dog", top=1), [[1, 0], [0, np.nan]])
    with pytest.raises(InvalidValueError, match="scores are of 2 concepts; name one: cat, dog"):
        heads.select(both, top=1)
    with pytest.raises(UnknownNameError, match="unknown concept 'cats'"):
        heads.select(both, "cats", top=1)
    with pytest.raises(InvalidValueError, match="soft weights of 3 chosen heads reach from -0.4"):
        heads.select(both, "dog", weights="soft")
    with pytest.raises(UnknownNameError, match="unknown weights 'even'"):
        heads.select(both, "cat", weights="even")
    with pytest.raises(InvalidValueError, match="no head has a score"):
        heads.select(scores * np.nan)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_all_heads_are_the_mean_over_all_heads(worded, variant):
    relevance = heads.relevance(worded.trace, {"animal": "cat", "colour": "red"})
    every = heads.select(relevance, "animal", top=1.0)
    assert int(every.sum()) == 7
    all_heads = maps.daam(worded.trace, "red", variant=variant).compute()
    np.testing.assert_array_equal(maps.daam(worded.trace, "red", variant=variant, heads=every), all_heads)


def test_soft_weights_weigh_the_mean(worded):
    scores = heads.relevance(worded.trace, {"animal": "cat", "colour": "red"})
    soft = heads.select(scores, "colour", top=3, weights="soft")
    made = maps.daam(worded.trace, "red", variant="released", heads=soft).compute()
    by_head = maps.daam(worded.trace, "red", variant="released", keep=("layer", "head")).compute()
    # A head's mean over t is summed again; layers and heads are weighed.
    expected = (by_head * soft.fillna(0)).sum(("layer", "head"), min_count=1) / float(soft.sum())
    np.testing.assert_allclose(made, expected, rtol=1e-5)


def test_agreement_is_correlation_with_the_standardised_mean(drawn):
    of_maps, _ = drawn
    made = heads.agreement(of_maps)
    flat = of_maps.values.reshape(4, 4, 64)[:, :3].astype("f8")
    scaled = (flat - flat.mean(-1, keepdims=True)) / flat.std(-1, keepdims=True)
    shared = scaled.mean(1)
    expected = [np.mean([np.corrcoef(flat[s, h], shared[s])[0, 1] for s in range(4)]) for h in range(3)]
    np.testing.assert_allclose(made.values.ravel()[:3], expected, rtol=1e-5)
    assert np.isnan(made.values[1, 1])
    assert heads.rank(made)[-1] == ("b", 0)


def test_iou_of_the_first_k_heads(drawn):
    of_maps, masks = drawn
    order = [("a", 0), ("a", 1), ("b", 0)]
    made = heads.curve(of_maps, masks, {"good": order, "bad": order[::-1], "dogs": {"cat": order, "dog": order[2:]}})
    assert made.dims == ("ranking", "rule", "k", "sample")
    assert made["k"].values.tolist() == [1, 2, 3]
    np.testing.assert_allclose(made.sel(ranking="good", k=1), 1)
    np.testing.assert_allclose(made.sel(ranking="bad", k=1), 0)
    # At all heads the order does not matter, and it is the map of all heads.
    np.testing.assert_allclose(made.sel(ranking="good", k=3), made.sel(ranking="bad", k=3))
    np.testing.assert_allclose(made.sel(ranking="good", k=3, rule="minmax"), heads.set_iou(of_maps, masks))
    words = made.sel(ranking="dogs", k=2, rule="max")
    assert words.notnull().values.tolist() == [True, False, True, False]
    two = made.sel(ranking="good", k=2, rule="max")
    np.testing.assert_allclose(two, heads.set_iou(of_maps, masks, order[:2], rule="max"))


def test_bad_curves(drawn):
    of_maps, masks = drawn
    with pytest.raises(InvalidValueError, match="no ranking is given"):
        heads.curve(of_maps, masks, {})
    with pytest.raises(InvalidValueError, match="k = 0 of 3 heads"):
        heads.curve(of_maps, masks, {"one": [("a", 0)]}, [0])
    with pytest.raises(InvalidValueError, match="ranking 'one' has no order for word 'dog', only for cat"):
        heads.curve(of_maps, masks, {"one": {"cat": [("a", 0)]}}, [1])
    with pytest.raises(UnknownNameError, match="unknown head 'b:1'"):
        heads.curve(of_maps, masks, {"one": [("b", 1)]}, [1])


def test_the_interval_is_over_runs():
    values = xr.DataArray([[0.0, 0.2, 0.5, 0.5]], {"run": ("sample", ["a", "a", "b", "b"])}, ("k", "sample"))
    made = heads.intervals(values)
    assert made.attrs["runs"] == 2
    np.testing.assert_allclose(made["mean"], [0.3])
    # Two runs of 0.1 and 0.5: standard error 0.2, Student's t of one degree of freedom 12.706.
    np.testing.assert_allclose(made["high"] - made["mean"], [12.706 * 0.2], rtol=1e-4)
    assert np.isnan(heads.intervals(values[:, :2])["low"]).all()
    with pytest.raises(InvalidValueError, match="level = 95"):
        heads.intervals(values, 95)


CONCEPTS = {"animal": ["cat", "dog"], "colour": ["red", "blue"], "baby": "puppy"}


def test_what_the_heads_answer_at_the_place_of_a_word(worded, computes):
    with computes(1):  # the weights of chosen words' tokens are read with the labels
        report = heads.misinterpretation(worded.trace, CONCEPTS, baseline=False, draw="all")
    share = report["concept_share"].compute()
    assert share.dims == ("run", "word", "concept")
    assert share["word"].values.tolist() == ["cat", "dog", "red", "blue"]
    assert share["own"].values.tolist() == ["animal", "animal", "colour", "colour"]
    told = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 1, 1, 0]], bool)
    np.testing.assert_array_equal(share.notnull().all("concept"), told)
    np.testing.assert_allclose(share.sum("concept").values[told], 1, rtol=1e-6)
    # The share is the number of the 7 heads whose largest share the concept has, where the map is high.
    place = maps.daam(worded.trace, "cat", variant="released").compute().sel(run="run0")
    own = heads.answers(worded.trace, CONCEPTS, tally="share", draw="all", queries=place >= 0.5 * place.max())
    won = own.sel(run="run0").fillna(-1).argmax("concept").where(own.sel(run="run0").notnull().all("concept"))
    expected = [float((won == concept).sum()) / 7 for concept in range(3)]
    np.testing.assert_allclose(share.sel(run="run0", word="cat"), expected, rtol=1e-6)
    margin, answer = report["margin"].compute(), report["answer"].compute()
    np.testing.assert_allclose(margin.sel(run="run0", word="cat"), expected[0] - max(expected[1:]), atol=1e-6)
    assert answer.sel(run="run0", word="cat") == int(np.argmax(expected))
    assert answer.sel(run="run1", word="cat") == -1


def test_answers_relative_to_what_a_head_always_says(worded):
    report = heads.misinterpretation(worded.trace, CONCEPTS, draw="all").compute()
    np.testing.assert_allclose(report["concept_share"].sum("concept").values[~np.isnan(report["margin"].values)], 1)
    one = xr.zeros_like(heads.answers(worded.trace, CONCEPTS).isel(run=0, concept=0, drop=True)).compute()
    one.loc[{"layer": "text2.0.attn", "head": 2}] = 1.0
    single = heads.misinterpretation(worded.trace, CONCEPTS, heads=one, draw="all")["concept_share"].compute()
    assert set(np.unique(single.values[~np.isnan(single.values)])) == {0.0, 1.0}
    words = report["word"].values.tolist()
    by_word = xr.concat([one, *[xr.ones_like(one)] * 3], "word").assign_coords(word=words)
    mixed = heads.misinterpretation(worded.trace, CONCEPTS, heads=by_word, draw="all")["concept_share"].compute()
    np.testing.assert_allclose(mixed.sel(word=words[0]), single.sel(word=words[0]))
    np.testing.assert_allclose(mixed.sel(word=words[1:]), report["concept_share"].sel(word=words[1:]), rtol=1e-6)


def test_what_cannot_be_reported(worded):
    trace = worded.trace
    with pytest.raises(InvalidValueError, match="word 'cat' belongs to two concepts, 'a' and 'b'"):
        heads.misinterpretation(trace, {"a": "cat", "b": ["cat"]})
    with pytest.raises(NotRecordedError, match="no prompt has any of the words puppy"):
        heads.misinterpretation(trace, CONCEPTS, words=["puppy"])
    with pytest.raises(UnknownNameError, match="unknown word 'cow' in the concepts"):
        heads.misinterpretation(trace, CONCEPTS, words=["cow"])
    with pytest.raises(UnknownNameError, match="unknown region 'maps'"):
        heads.misinterpretation(trace, CONCEPTS, region="maps")
    nothing = heads.select(heads.relevance(trace, CONCEPTS), "animal", top=1) * 0
    with pytest.raises(InvalidValueError, match="no head that answers has a weight"):
        heads.misinterpretation(trace, CONCEPTS, heads=nothing)

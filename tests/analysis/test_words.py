import numpy as np
import pytest

from attlas.analysis import open_trace, words
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError


def found(trace, word, **options):
    made = words.word_tokens(trace, word, **options)
    assert made.dims == ("run", "branch", "key")
    assert made.dtype == bool
    return [np.flatnonzero(row).tolist() for row in made.values[:, 0]]


@pytest.fixture
def trace(tools):
    leaf = tools.leaf_of("text", (2, 2), keys=10, encoding="dense")
    return open_trace(tools.make_store((leaf,), prompts=["A cat, a catalogue and a Cat", "no animal here"])[0])


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("a cat", "a", [(0, 1)]),
        ("A cat and a CAT", "cat", [(2, 5), (12, 15)]),
        ("catalogue concatenate", "cat", []),
        ("a red  disc", "red disc", [(2, 11)]),
        ("teddy-bear, teddy bear", "teddy bear", [(12, 22)]),
        ("what? (why)", "(why)", [(6, 11)]),
        ("naïve café", "café", [(6, 10)]),
        ("red red red", "red red", [(0, 7)]),
    ],
)
def test_whole_words_in_any_case(text, word, expected):
    assert words.spans(text, word) == expected


def test_all_occurrences_and_no_pieces_of_words(trace):
    # Tokens: <bos> A cat, a catalogue and a Cat
    assert found(trace, "cat") == [[2, 7], []]
    assert found(trace, "a") == [[1, 3, 6], []]
    assert found(trace, "CATALOGUE") == [[4], []]
    assert found(trace, "a  cat") == [[1, 2, 6, 7], []]


def test_a_word_of_several_tokens(tools):
    leaf = tools.leaf_of("text", (2, 2), keys=8, encoding="dense")
    tokens = [("a", 0, 1), ("tri", 2, 5), ("angle", 5, 10), (",", 10, 11), ("triangles", 12, 21)]
    store, _ = tools.make_store((leaf,), prompts=["a triangle, triangles"], runs=1, tokens=tokens)
    assert found(open_trace(store), "triangle") == [[2, 3]]
    assert found(open_trace(store), "triangles") == [[5]]


def test_an_unknown_word_names_close_ones(trace):
    with pytest.raises(UnknownNameError, match="unknown word 'catalog' in the prompts of .*; did you mean 'catalogue'"):
        words.word_tokens(trace, "catalog")
    with pytest.raises(UnknownNameError, match="unknown branch 'con'"):
        words.word_tokens(trace, "cat", branch="con")
    with pytest.raises(InvalidValueError, match="the word is empty"):
        words.word_tokens(trace, "  ")


def test_a_word_that_was_cut_off(tools):
    leaf = tools.leaf_of("text", (2, 2), keys=4, encoding="dense")
    store, _ = tools.make_store((leaf,), prompts=["one two three four"], runs=1)
    with pytest.raises(InvalidValueError, match="'four' stands in the prompt beyond the 4 tokens that the model sees"):
        words.word_tokens(open_trace(store), "four")


def test_no_text_keys(tools):
    store, _ = tools.make_store((tools.leaf_of("self", (2, 2)),), runs=1, prompts=["a cat"])
    with pytest.raises(NotRecordedError, match="keys of leaf self/2x2 are no tokens"):
        words.word_tokens(open_trace(store), "cat")


def test_other_branches_are_searched_in_the_negative_prompt(tools):
    leaf = tools.leaf_of("text", (2, 2), keys=6, encoding="dense")
    store, _ = tools.make_store((leaf,), runs=0)
    row = store.claim("one", prompt="a cat", request='{"negative_prompt": "blurry dog"}')
    store.write_clock(row, steps=range(3), timesteps=range(3), sigmas=range(3))
    tools.write_words(store, "text/2x2", row, 0, "blurry dog")
    tools.write_words(store, "text/2x2", row, 1, "a cat")
    store.complete_run(row)
    trace = open_trace(store)
    assert found(trace, "dog", branch="uncond") == [[2]]
    assert found(trace, "cat") == [[2]]
    with pytest.raises(UnknownNameError, match="unknown word 'cat'"):
        words.word_tokens(trace, "cat", branch="uncond")


def test_one_occurrence(trace):
    assert found(trace, "cat", occurrence=0) == [[2], []]
    assert found(trace, "cat", occurrence=1) == [[7], []]
    with pytest.raises(
        InvalidValueError, match="occurrence 2 of word 'cat', which stands 2 times .*0 to 1 is accepted"
    ):
        words.word_tokens(trace, "cat", occurrence=2)
    with pytest.raises(InvalidValueError, match="occurrence -1 of word 'cat'"):
        words.word_tokens(trace, "cat", occurrence=-1)


def test_punctuation_is_a_word(tools):
    leaf = tools.leaf_of("text", (2, 2), keys=8, encoding="dense")
    tokens = [("cat", 0, 3), (",", 3, 4), ("dog", 5, 8), (".", 8, 9)]
    store, _ = tools.make_store((leaf,), prompts=["cat, dog."], runs=1, tokens=tokens)
    assert found(open_trace(store), ",") == [[2]]
    assert found(open_trace(store), ".") == [[4]]
    assert found(open_trace(store), "cat,") == [[1, 2]]


def test_a_word_in_two_chunks(tools):
    leaf = tools.leaf_of("text", (2, 2), keys=6, encoding="dense")
    store, _ = tools.make_store((leaf,), runs=0)
    row = store.claim("one", prompt="a cat")
    store.write_clock(row, steps=range(3), timesteps=range(3), sigmas=range(3))
    store.write_tokens(
        "text/2x2", row, 1,
        tokens=["<bos>", "a", "cat", "_a", "_cat", "</s>"], segments=["bos", "word", "word", "word", "word", "eos"],
        starts=[-1, 0, 2, 0, 2, -1], ends=[-1, 1, 5, 1, 5, -1], chunks=[0, 0, 0, 1, 1, 1],
    )  # fmt: skip
    store.complete_run(row)
    trace = open_trace(store)
    assert found(trace, "cat") == [[2, 4]]
    assert found(trace, "cat", chunk=0) == [[2]]
    assert found(trace, "cat", chunk=1) == [[4]]
    assert np.flatnonzero(words.text_keys(trace, chunk=1)["text/2x2"].values).tolist() == [3, 4]
    with pytest.raises(InvalidValueError, match="have no chunk 2; 0, 1 is accepted"):
        words.word_tokens(trace, "cat", chunk=2)

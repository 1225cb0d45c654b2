"""Where the characters of a pipeline's text come from in the prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attlas.recorder.labels.wording import Wording


def origin(made, word):
    """Place in the prompt of the first `word` in the text."""
    first = made.text.index(word)
    return made.span(first, first + len(word))


@pytest.mark.parametrize(
    ("prompt", "text", "word", "place"),
    [
        ("  A Red CAT ", "a red cat", "cat", (8, 11)),
        ("a cat &amp; a dog", "a cat & a dog", "dog", (14, 17)),
        ("see http://x.org/y, a cat", "see , a cat", "cat", (22, 25)),
        ("a cat", "a small cat", "cat", (2, 5)),
        ("a cat", "a small cat", "small", (-1, -1)),
        ("a cat", "two dogs", "dogs", (-1, -1)),
        ("\u4e00\u53ea\u732b, X", "\u4e00\u53ea\u732b", "\u732b", (2, 3)),
        # Lower case of this letter is two characters.
        ("a \u0130zmir cat", "a \u0130zmir cat".lower(), "cat", (8, 11)),
        ("a \u0130zmir cat", "a \u0130zmir cat".lower(), "zmir", (2, 7)),
    ],
)
def test_words_that_survive_keep_their_place(prompt, text, word, place):
    assert origin(Wording.of(prompt).rewritten(text), word) == place


def test_a_template_comes_from_nowhere():
    made = Wording.of("a cat").wrapped("Draw a cat: ", " Be kind.")
    assert made.span(5, 10) == (-1, -1)
    assert made.span(12, 17) == (0, 5)
    assert not made.is_own(5, 10)
    assert made.is_own(10, 13)
    assert not made.is_own(17, 20)


def test_learned_words_within_words():
    made = Wording.of("a <t>ish <t><u>").expanded(["<t>", "<t>_1", "<u>"], "a <t> <t>_1ish <t> <t>_1<u>")
    assert origin(made, "<t>_1ish") == (2, 8)
    assert origin(made, "<u>") == (12, 15)


def test_other_converters_are_followed_word_by_word():
    made = Wording.of("a toy cat").expanded(["<t>", "<t>_1"], "a red ball cat")
    assert origin(made, "ball") == (-1, -1)
    assert origin(made, "cat") == (6, 9)


@given(
    st.text(st.sampled_from("ab ,C\u4e2d\u0130'"), max_size=12),
    st.text(st.sampled_from("ab ,C\u4e2d\u0130'"), max_size=12),
)
def test_what_survives_reads_the_same(prompt, text):
    made = Wording.of(prompt).rewritten(text)
    assert made.text == text
    last = 0
    for place, (start, end) in enumerate(made.origins):
        if start >= 0:
            assert start >= last or end >= last  # never backwards
            last = start
            assert end > start + 1 or text[place].lower() == prompt[start:end].lower()
    whole = Wording.of(prompt).rewritten(prompt)
    assert [start for start, _ in whole.origins] == list(range(len(prompt)))

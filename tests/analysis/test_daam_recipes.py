"""DAAM's recipes on a small store: their tables say what the functions behind them say."""

import numpy as np
import pytest

from attlas.analysis import open_trace, recipes
from attlas.analysis.recipes import daam_speech, daam_table
from attlas.analysis.recipes.prompt_words import DEMO_WORDS, missing_nouns, phrases
from attlas.analysis.scoring.word_coverage import by_speech, word_coverage
from attlas.analysis.segmentation import segmentation
from attlas.recorder.demo.shapes.words import COLOURS, NOUNS
from attlas.schemas import simulate_store

PROMPT = "a red disc and a blue cross"


@pytest.fixture(scope="module")
def store():
    made = simulate_store(runs=2, kinds=("text",), prompt=PROMPT)
    made.group["annotations/cross"][1] = 0  # asked for, and not drawn
    return made


@pytest.fixture(scope="module")
def trace(store):
    return open_trace(store)


def test_the_word_list_is_the_demos():
    tagged = {tag: {word for word, own in DEMO_WORDS.items() if own == tag} for tag in set(DEMO_WORDS.values())}
    assert tagged == {"NOUN": set(NOUNS), "ADJ": set(COLOURS), "DET": {"a"}, "CCONJ": {"and"}}


def test_the_demos_grammar():
    found = {(PROMPT[slice(*head)], PROMPT[slice(*own)], relation) for head, own, relation in phrases(PROMPT)}
    assert found == {
        ("disc", "a", "det"), ("disc", "red", "amod"), ("disc", "cross", "conj:and"),
        ("cross", "and", "cc"), ("cross", "a", "det"), ("cross", "blue", "amod"),
    }  # fmt: skip


def test_what_was_not_drawn(trace):
    first, second = missing_nouns(trace).values()
    assert (first, second) == ([], ["cross"])


def test_fig1_has_every_word(trace):
    made = recipes.run("daam-fig1", [trace], progress=False, samples=1)
    (table,) = made.tables
    assert table.column("word") == PROMPT.split()
    assert all(0 <= value <= 1 for value in table.column("coverage, paper"))
    assert [value is None for value in table.column("IoU with its mask, paper")] == [
        word not in NOUNS for word in PROMPT.split()
    ]
    (figure,) = made.figures.values()
    assert sum(bool(axes.images) for axes in figure.axes) == 2 * 8 + 1  # two rows of picture and words, and the bar


def test_fig4_has_relations_and_what_is_missing(trace):
    made = recipes.run("daam-fig4", [trace], progress=False)
    overlap, nouns = made.tables
    rows = {(row[0], row[1]): row for row in overlap.rows}
    row = rows["released notebook, > 0.15", "amod"]
    assert row[2] == 4
    assert row[-3:] == (14.690878, 45.062720, 19.051720)
    assert rows["paper, >= 0.4 max", "amod"][-3:] == (None, None, None)
    assert rows["paper, >= 0.4 max", "unrelated"][2] == 2 * (7 * 6 // 2 - 6)
    assert [(row[0], row[1]) for row in nouns.rows] == [("drawn", 3), ("not drawn", 1)]


def test_fig5_is_the_coverage_of_each_part_of_speech(trace):
    made = recipes.run("daam-fig5", [trace], progress=False)
    (table,) = made.tables
    for name, options in daam_speech.RULES.items():
        wanted = by_speech(word_coverage(trace, DEMO_WORDS, **options))
        for row in table.rows:
            if row[0] == name:
                assert row[3] == pytest.approx(float(wanted["coverage"].sel(pos=row[1])))
                assert row[-1] == daam_speech.PAPER[row[1]]
    assert any("order" in note for note in made.notes)


def test_table1_is_the_segmentation(trace):
    made = recipes.run("daam-table1", [trace], progress=False)
    (table,) = made.tables
    for name, options in daam_table.RULES.items():
        scored = segmentation(trace, taus=daam_table.TAUS, **options)
        ours = [row for row in table.rows if row[0] == name]
        np.testing.assert_allclose([row[3] for row in ours], 100 * scored["iou"].mean("sample"), atol=1e-3)
        np.testing.assert_allclose([row[6] for row in ours], [row[3] for row in ours], atol=1e-3)
    paper = {row[1]: row[-2:] for row in table.rows if row[0] == "paper's map, >= tau max"}
    assert paper == daam_table.PAPER
    assert [row[0].split()[0] for row in table.rows[-3:]] == ["random", "whole", "the"]

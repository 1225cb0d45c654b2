"""Recipes and statistics of heads on a small store whose first head sees what is drawn."""

from dataclasses import replace

import numpy as np
import pytest

from attlas.analysis import heads, open_trace, recipes, registry
from attlas.schemas.errors import NotRecordedError

PROMPTS = ["a cat", "a dog", "a cat a dog", "a dog", "a cat", "a dog a cat"]


def given(row):
    """A mask of each noun of the prompt; the last cat is not drawn."""
    masks = {}
    for word in ("cat", "dog"):
        if word in PROMPTS[row]:
            mask = np.zeros((16, 16), bool)
            mask[4 * (row % 3) : 4 * (row % 3) + 6, 8 * (word == "dog") : 8 * (word == "dog") + 7] = (row, word) != (
                5,
                "cat",
            )
            masks[word] = mask
    return masks


@pytest.fixture(scope="module")
def trace(tools):
    leaf = replace(tools.leaf_of("text", (4, 4), heads=3, keys=7, layers=2), features=5)
    store, _ = tools.make_store((leaf,), runs=6, prompts=PROMPTS, annotations=given)
    tools.add_vocabulary(store, {"cat": ["cat"], "dog": ["dog"], "red": ["red"]})
    return open_trace(store)


def test_the_curve_ranks_on_one_half_and_scores_on_the_other(trace):
    made = recipes.run("selective-curve", [trace], progress=False, orders=3, fraction=0.5)
    table = made.tables[0]
    rows = dict(zip(table.column("heads"), table.rows, strict=True))
    assert table.column("k") == [6, *[3] * 9]
    samples = heads.noun_samples(trace)
    train, test = (
        [place for place, (run, _) in enumerate(samples) if (run in trace.run_ids[:3]) == first]
        for first in (True, False)
    )
    maps, masks = heads.head_maps(trace, samples), heads.noun_masks(trace, samples)
    chosen = heads.top(heads.score_heads(maps.isel(sample=train), masks.isel(sample=train)), 3)
    for name, own in (("all heads (DAAM)", None), ("masks, top", chosen)):
        iou = heads.set_iou(maps.isel(sample=test), masks.isel(sample=test), own)
        by_run = iou.groupby("run").mean()
        np.testing.assert_allclose(rows[name][2].value, float(by_run.mean()), rtol=1e-6)
    np.testing.assert_allclose(
        rows["masks, top"][3].value, rows["masks, top"][2].value - rows["all heads (DAAM)"][2].value, atol=1e-7
    )
    assert rows["HRV, top"][4] == 0.7765
    assert list(made.figures) == ["mean IoU of the first k heads"]
    assert any("Not comparable" in note for note in made.notes)


def test_words_drawn_as_asked_against_others(trace):
    made = recipes.run("selective-misinterpretation", [trace], progress=False, fraction=0.5, shown=1)
    table, lowest = made.tables
    assert [row[:3] for row in table.rows[:2]] == [
        ("all heads", "drawn as asked", 7),
        ("all heads", "drawn otherwise or not at all", 1),
    ]
    assert lowest.column("margin") == sorted(lowest.column("margin"))
    wrong = [row for row in lowest.rows if row[-1] == "otherwise"]
    assert [(row[0], row[2]) for row in wrong] == [("run5", "cat")]
    concepts = {"cat": "cat", "dog": "dog"}
    report = heads.misinterpretation(trace, concepts).compute()
    np.testing.assert_allclose(wrong[0][4], report["concept_share"].sel(run="run5", word="cat", concept="cat"))


def test_recipes_need_masks_and_a_vocabulary(tools, trace):
    store, _ = tools.make_store((tools.leaf_of("text", (4, 4), keys=7),), runs=4, prompts=PROMPTS, annotations=given)
    with pytest.raises(NotRecordedError, match="has no vocabulary"):
        recipes.run("selective-curve", [open_trace(store)], progress=False)
    with pytest.raises(NotRecordedError, match="both halves of the runs need masks"):
        recipes.run("selective-curve", [trace.isel([0])], progress=False)


def test_statistics_of_heads(trace, computes):
    iou = registry.statistic_of("head_iou").function(trace)
    assert iou.dims == ("run", "layer", "head")
    samples = heads.noun_samples(trace)
    own = heads.head_ious(heads.head_maps(trace, samples), heads.noun_masks(trace, samples))
    both = [place for place, (run, _) in enumerate(samples) if run == "run2"]
    np.testing.assert_allclose(iou.sel(run="run2"), own.isel(sample=both).mean("sample"), rtol=1e-6)
    with computes(0):
        share = registry.statistic_of("concept_share").function(trace)
    assert share["concept"].values.tolist() == ["cat", "dog", "red"]
    np.testing.assert_allclose(share.sum("concept"), 1, rtol=1e-6)

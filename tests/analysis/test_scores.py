"""Scores of stores whose attention is known by construction."""

import json
import math

import numpy as np
import pytest

from attlas.analysis import open_trace, scores
from attlas.analysis.scoring.reference_scores import patch_targets, sram_peaks
from attlas.analysis.scoring.score_table import score_of
from attlas.schemas import Annotation, simulate_store
from attlas.schemas.errors import NotRecordedError, UnknownNameError

SHARP = 12.0
"""Logit of the one preferred key; e^12 leaves less than 0.1 % to a hundred others."""


def fill(store, tools, row, name, preferred):
    """Write a leaf whose queries look at `preferred` (layer, head, query), in every branch and call."""
    leaf = store.leaves[name]
    lead = (len(store.branches), store.calls)
    k = np.broadcast_to(SHARP * np.eye(leaf.keys), (*lead, len(leaf.layers), leaf.heads, leaf.keys, leaf.keys))
    q = np.broadcast_to(np.eye(leaf.keys)[preferred], (*lead, *preferred.shape, leaf.keys))
    tools.write_leaf(store, name, row, q, k)


def build(tools, leaf, prompts, preferred, annotations):
    store, _ = tools.make_store((leaf,), runs=0, calls=2)
    (name,) = store.leaves
    for row, prompt in enumerate(prompts):
        store.claim(f"run{row}", prompt=prompt, capacity=len(prompts) - row)
        store.write_clock(row, steps=[0, 1], timesteps=[9, 1], sigmas=[9, 1])
        store.write_image(row, np.full((16, 16, 3), 100, np.uint8))
        if leaf.kind == "text":
            tools.write_words(store, name, row, 1, prompt)
        fill(store, tools, row, name, preferred(row))
        store.write_annotations(row, annotations(row))
        store.complete_run(row)
    store.finish()
    return open_trace(store)


@pytest.fixture
def words(tools):
    """Head 0 looks at the right noun everywhere, head 1 at the other one; four runs, masks wander."""
    leaf = tools.leaf_of("text", (8, 8), keys=5, channels=5)

    def masks(row):
        disc, cross = np.zeros((2, 8, 8), bool)
        disc[row : row + 4, 0:4] = cross[row : row + 4, 4:8] = True
        return disc, cross

    def preferred(row):
        disc, cross = (mask.ravel() for mask in masks(row))
        return np.stack([1 * disc + 2 * cross, 2 * disc + 1 * cross])[None]

    def annotations(row):
        return {name: mask.repeat(2, 0).repeat(2, 1) for name, mask in zip(("disc", "cross"), masks(row), strict=True)}

    return build(tools, leaf, ["disc cross"] * 4, preferred, annotations)


def test_word_scores(words):
    table = scores.score_words(words)
    # Both heads together light up both objects alike: half of what is lit is the noun's.
    assert table["noun_iou"].value == pytest.approx(0.5, abs=0.06)
    assert table["noun_iou_max_rule"].value == pytest.approx(0.5, abs=0.06)
    assert table["noun_iou_paper"].value == pytest.approx(0.5, abs=0.01)
    assert table["other_noun_iou"].value == pytest.approx(table["noun_iou"].value, abs=0.06)
    assert table["noun_iou"].n == 8
    assert table["whole_picture_iou"].value == pytest.approx(0.25)
    assert table["ceiling_iou"].value == 1
    # Chosen on run0 and run1, scored on run2 and run3.
    assert table["held_out_iou_greedy"].n == 4
    assert table["held_out_iou_greedy"].value > 0.9
    assert table["held_out_iou_all"].value == pytest.approx(0.5, abs=0.06)
    assert table.settings["greedy_heads"] == "text8.0.attn:0"


def test_a_higher_threshold_changes_the_score(words):
    assert scores.score_words(words, tau=0.9)["noun_iou"].value != scores.score_words(words)["noun_iou"].value
    assert scores.score_words(words, ["disc"])["noun_iou"].n == 4


def test_one_run_is_scored_without_choosing_heads(words):
    table = scores.score_words(words.isel([0]))
    assert table["noun_iou"].n == 2
    assert "held_out_iou_all" not in table
    assert table.settings["heads"] == "not chosen: that needs two runs"


@pytest.fixture
def reference(tools):
    """Every query looks at the reference patch mirrored left to right; run1's reference was swapped."""
    leaf = tools.leaf_of("image", (8, 8), key_grid=(8, 8), cls=True, channels=65)
    y, x = np.indices((16, 16)).astype("f4")
    inside = (y >= 4) & (y < 12) & (x >= 4) & (x < 12)

    def preferred(row):
        rows, columns = np.divmod(np.arange(64), 8)
        return np.broadcast_to(1 + rows * 8 + 7 - columns, (1, 2, 64))

    def annotations(row):
        mirrored, same = np.stack([y, 15 - x], -1), np.stack([y, x], -1)
        near = np.stack([y + 2, 15 - x], -1)  # one patch of 2 pixels lower
        given = {
            "dress": Annotation(inside, "object"),
            "shown": Annotation(inside, "reference_object"),
            "lies": Annotation(np.where(inside[..., None], mirrored, np.nan), "correspondence"),
            "uv_lookup": near,
            "true": Annotation(np.full((16, 16, 3), 151, np.uint8), "target"),
        }
        if row == 1:
            given["former_correspondence"] = np.where(inside[..., None], same, np.nan).astype("f4")
        return given

    return build(tools, leaf, ["", ""], preferred, annotations)


def test_reference_scores(reference):
    table = scores.score_reference(reference)
    assert table["sram_pck1"].value == table["sram_pck2"].value == 1
    assert table["sram_pck1"].n == 2
    # At the same place the truth is 7 - 2x away: of columns 2..5 only 3 and 4 are within 1, and within 2.
    assert table["position_pck1"].value == table["position_pck2"].value == 0.5
    assert table["uv_lookup_pck1"].value == 1
    assert table["chance_pck1"].value == pytest.approx(5 / 64, abs=1e-6)
    # A disc of 13 cells, cut at no edge: the truth lies in rows and columns 2 to 5.
    assert table["chance_pck2"].value == pytest.approx(13 / 64, abs=1e-6)
    assert (table["swapped_pck1"].value, table["swapped_pck1"].n) == (1, 1)
    assert (table["swapped_former_pck1"].value, table["swapped_former_pck1"].n) == (0.5, 1)
    assert table["r2g_imacs_finest"].value > 0.7
    assert table["r2g_iou_all"].value > 0.7
    assert table["g2r_imacs_finest"].value > 0.7
    # 51 levels off: 20 log10(255 / 51) dB.
    assert table["object_psnr"].value == pytest.approx(20 * math.log10(5), abs=1e-3)
    assert table.left_out == ()


def test_peaks_from_the_summary_and_from_the_full_array(reference, monkeypatch):
    by_summary = sram_peaks(reference)
    monkeypatch.setattr(type(reference), "holds", lambda self, leaf, name: name == "query_vectors")
    np.testing.assert_array_equal(sram_peaks(reference), by_summary)
    assert by_summary.sel(run="run0", y=3, x=1).values.tolist() == [3, 6]


def test_true_patches_are_those_at_the_centre_where_most_is_covered():
    import xarray as xr

    pixels = np.full((1, 4, 4, 2), np.nan, "f4")
    pixels[0, :2, :2] = [[[6, 0], [6, 1]], [[7, 0], [7, 1]]]  # the reference patch at row 3, column 0
    pixels[0, 0, 2:] = [[0, 6], [1, 7]]  # three of four are enough: row 0, column 3
    pixels[0, 1, 2] = [0.5, 6.5]
    pixels[0, 3, :2] = [5, 5]  # half is not
    array = xr.DataArray(pixels, dims=("run", "image_y", "image_x", "coordinate"))
    made = patch_targets(array, (2, 2), (4, 4), (8, 8))
    np.testing.assert_array_equal(made[0], [[[3, 0], [0, 3]], [[np.nan, np.nan], [np.nan, np.nan]]])


def test_all_scores_of_a_store_and_their_forms():
    tables = scores.score(open_trace(simulate_store(runs=2)))
    about = ["word maps", "reference maps", "numbers"]
    assert [table.title for table in tables] == [f"{subject} of the store in memory" for subject in about]
    assert tables[2]["quality"].n == 2
    text = str(tables[1])
    assert "sram_pck1" in text
    assert "n=2" in text
    assert "not scored: PSNR: no annotation of the store in memory has the role 'target'" in text
    plain = json.loads(json.dumps(tables[0].to_json()))
    assert plain["scores"]["noun_iou"]["n"] == 4
    dataset = tables[0].to_dataset()
    assert dataset["value"].sel(score="noun_iou") == tables[0]["noun_iou"].value
    with pytest.raises(UnknownNameError, match="unknown score 'nounn_iou' in word maps .*did you mean 'noun_iou'"):
        tables[0]["nounn_iou"]


def test_a_summary_is_scored_as_far_as_it_goes():
    table = scores.score_reference(open_trace(simulate_store(runs=2, detail="summary")))
    assert table["sram_pck1"].n == 2
    assert "r2g_imacs_finest" not in table
    assert any("do not tell r2g of chosen keys" in reason for reason in table.left_out)


def test_nothing_to_score(tools):
    store, _ = tools.make_store((tools.leaf_of("image", (4, 4)),), runs=1)
    with pytest.raises(
        NotRecordedError,
        match="nothing to score a reference by\nPCK: no annotation .* the role 'correspondence'",
    ):
        scores.score(open_trace(store))
    with pytest.raises(NotRecordedError, match="holds no attention of kind 'text'|no prompt holds a noun"):
        scores.score_words(open_trace(store))
    with pytest.raises(NotRecordedError, match="no annotation is a number"):
        scores.score(open_trace(simulate_store(runs=1, kinds=("self",))))


def test_spread_is_that_of_the_mean():
    # Standard deviation of 1, 2, 3 is 1: 1.96 / sqrt(3) = 1.13161.
    made = score_of("x", [1, 2, 3, math.nan], "")
    assert (made.value, made.n, made.ci95) == (2, 3, 1.131607)
    assert math.isnan(score_of("x", [], "").value)
    assert math.isnan(score_of("x", [1.0], "").ci95)


def test_masks_of_another_store_stand_in_for_those_of_a_model_that_draws_nothing(words):
    empty = simulate_store(runs=1, kinds=("text",), prompt="disc cross")
    empty.group["annotations/disc"][...] = 0
    with pytest.raises(NotRecordedError, match="no prompt holds a noun"):
        scores.score_words(open_trace(empty).isel([0]), ["disc"])
    full = open_trace(simulate_store(runs=2, kinds=("text",), prompt="disc cross"))
    table = scores.score_words(open_trace(empty), ["disc"], truth=full)
    assert table["noun_iou"].n == 1
    with pytest.raises(NotRecordedError, match="no run of the same id"):
        scores.score_words(words, truth=full)

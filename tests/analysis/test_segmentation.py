"""Word maps against masks: IoU, pooled IoU, average precision by brute force, baselines."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from attlas.analysis import maps, open_trace
from attlas.analysis.recipes.daam_table import _area
from attlas.analysis.scoring.precision import assigned_iou, instance_precision, pixel_precision
from attlas.analysis.segmentation import ceiling, pooled_iou, random_hard, segmentation
from attlas.analysis.statistics.words import coverage, intensity, noun_iou
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError

SIZE = 8
LEXICON = {"disc": "NOUN", "cross": "NOUN", "a": "DET"}


def masks_of(row):
    rng = np.random.default_rng(row)
    disc, cross = np.zeros((2, SIZE, SIZE), bool)
    disc[row : row + 3, 1:4] = True
    cross[...] = rng.random((SIZE, SIZE)) < 0.3
    return {"disc": disc, "cross": cross if row < 2 else np.zeros_like(cross)}


@pytest.fixture(scope="module")
def trace(tools):
    leaves = (tools.leaf_of("text", (4, 4), keys=6), tools.leaf_of("text", (2, 2), keys=6))
    store, _ = tools.make_store(
        leaves, runs=4, prompts=["a disc cross", "cross disc", "a disc cross", "a"], spread=3.0, annotations=masks_of,
        image=(SIZE, SIZE), calls=2,
    )  # fmt: skip
    return open_trace(store)


def large_maps(trace, variant):
    """Map of each noun at the picture's size, by run and noun."""
    made = {}
    for word in ("disc", "cross"):
        own = maps.resample(
            maps.daam(trace, word, variant=variant), (SIZE, SIZE), "nearest" if variant == "paper" else "bicubic"
        )
        made |= {(run, word): values.astype("f8") for run, values in zip(trace.run_ids, own.values, strict=True)}
    return made


def high_by_hand(values, tau, rule):
    if rule == "max":
        return values >= tau * values.max()
    return (values - values.min()) / (np.ptp(values) + 1e-8) > tau


@pytest.mark.parametrize(
    ("variant", "rule", "used"), [("paper", None, "max"), ("released", None, "minmax"), ("released", "max", "max")]
)
def test_every_noun_with_a_mask_is_scored(trace, variant, rule, used):
    table = segmentation(trace, taus=[0.3, 0.6], variant=variant, rule=rule)
    assert list(zip(table["run"].values, table["word"].values, strict=True)) == [
        ("run0", "cross"), ("run0", "disc"), ("run1", "cross"), ("run1", "disc"), ("run2", "disc")
    ]  # fmt: skip
    assert table.attrs["variant"] == variant
    assert table.attrs["rule"].startswith(used)
    large = large_maps(trace, variant)
    for place, (run, word) in enumerate(zip(table["run"].values, table["word"].values, strict=True)):
        mask, values = masks_of(int(run[-1]))[word], large[run, word]
        for step, tau in enumerate((0.3, 0.6)):
            high = high_by_hand(values, tau, used)
            own = table.isel(tau=step, sample=place)
            assert float(own["iou"]) == pytest.approx((high & mask).sum() / (high | mask).sum(), abs=1e-6)
            assert (int(own["intersection"]), int(own["union"])) == ((high & mask).sum(), (high | mask).sum())
            assert float(own["confidence"]) == pytest.approx(values[high].mean() / values.max(), rel=1e-4)
        assert float(table["whole"][place]) == pytest.approx(mask.mean())
        assert float(table["pixel_precision"][place]) == pytest.approx(brute_pixels(values, mask), rel=1e-6)
    pooled = pooled_iou(table).sel(word="disc").values
    discs = table["word"].values == "disc"
    np.testing.assert_allclose(
        pooled, table["intersection"].values[:, discs].sum(1) / table["union"].values[:, discs].sum(1)
    )


def brute_pixels(values, mask):
    """Sum over thresholds of precision times gain in recall."""
    total, before = 0.0, 0.0
    for limit in np.unique(values)[::-1]:
        chosen = values >= limit
        recall = (chosen & mask).sum() / mask.sum()
        total += (chosen & mask).sum() / chosen.sum() * (recall - before)
        before = recall
    return total


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12))
def test_pixel_precision_is_the_sum_over_thresholds(cells):
    values, mask = (np.array(own) for own in zip(*cells, strict=True))
    made = pixel_precision(values.astype("f4"), mask)
    if mask.any():
        assert float(made) == pytest.approx(brute_pixels(values, mask))
    else:
        assert np.isnan(made)


def brute_coco(ious, ranks, limit):
    """Highest precision at recalls of at least 0, 0.01, ..., 1; equal ranks stand together."""
    points = []
    for cut in sorted(set(ranks), reverse=True):
        right = [iou >= limit for iou, rank in zip(ious, ranks, strict=True) if rank >= cut]
        points.append((sum(right) / len(right), sum(right) / len(ious)))
    return np.mean([max((p for p, r in points if r >= step / 100 - 1e-9), default=0.0) for step in range(101)])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3)), min_size=1, max_size=9))
def test_instance_precision_is_cocos(samples):
    ious, ranks = zip(*samples, strict=True)
    wanted = np.mean([brute_coco(ious, ranks, limit) for limit in (0.5, 0.75)])
    assert instance_precision(ious, ranks, thresholds=(0.5, 0.75)) == pytest.approx(wanted)


def test_instance_precision_by_hand():
    assert instance_precision([0.96, 0.97]) == 1
    # Two of four right at 0.5 and nothing known of their rank: precision 0.5 at recalls 0 to 0.5.
    assert instance_precision([0.6, 0.6, 0.1, np.nan], thresholds=[0.5]) == pytest.approx(0.5 * 51 / 101)
    # The label "b" has none right.
    assert instance_precision([1.0, 0.0], labels=["a", "b"]) == 0.5
    assert np.isnan(instance_precision([]))
    with pytest.raises(InvalidValueError, match="labels has 1 entries for 2 samples"):
        instance_precision([0.1, 0.2], labels=["a"])
    with pytest.raises(InvalidValueError, match=r"maps \(2,\) and masks \(3,\) differ"):
        pixel_precision([1.0, 2.0], [True, False, True])


def test_labels_are_assigned_by_their_sums():
    # One picture speaks for x-dog (0.8), two for x-cat (0.5 + 0.5): the sum decides, the mean is over the pairs taken.
    ious = [0.5, 0.5, 0.8, 0.1, np.nan]
    made, pairs = assigned_iou(ious, ["x", "x", "x", "y", "y"], ["cat", "cat", "dog", "dog", "cat"])
    assert made == pytest.approx((0.5 + 0.5 + 0.1) / 3)
    assert pairs == {"x": "cat", "y": "dog"}
    assert np.isnan(assigned_iou([], [], [])[0])
    with pytest.raises(InvalidValueError, match="true has 0 entries for 1 IoUs"):
        assigned_iou([0.5], ["x"], [])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_area_under_the_share_that_reaches_an_iou_is_the_mean_iou(ious):
    # The first release sums, from the best down, each fall in IoU times the share before it, and adds the last IoU.
    ranked = sorted(ious, reverse=True)
    falls = np.diff([1.0, *ranked])
    released = sum(-fall * place / len(ranked) for place, fall in enumerate(falls)) + ranked[-1]
    assert released == pytest.approx(np.mean(ious), abs=1e-9)
    assert _area(np.array(ious)) == pytest.approx(np.mean(ious), abs=1e-9)


def test_baselines():
    masks = xr.DataArray(np.zeros((40, 32, 32), bool), dims=("sample", "image_y", "image_x"))
    masks[:, 8:16, 16:24] = True
    drawn = random_hard(masks, seed=2)
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.01)
    inside = masks.values & (drawn.values > 0)
    share = 1 / 16
    found = inside.sum() / (masks.values | (drawn.values > 0)).sum()
    assert found == pytest.approx(share / (1 + share), abs=0.004)  # 3 standard errors
    np.testing.assert_array_equal(random_hard(masks, seed=2), drawn)
    np.testing.assert_array_equal(ceiling(masks, (32, 32)), masks)
    coarse = torch.from_numpy(masks.values[0].astype("f4").reshape(8, 4, 8, 4).mean((1, 3)))[None, None]
    large = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic", align_corners=False)[0, 0].numpy()
    np.testing.assert_array_equal(ceiling(masks, (8, 8))[0], (large - large.min()) / np.ptp(large) > 0.5)


def test_nothing_to_segment(trace, tools):
    with pytest.raises(InvalidValueError, match="taus is empty"):
        segmentation(trace, taus=[])
    with pytest.raises(NotRecordedError, match="no prompt holds a noun"):
        segmentation(trace.sel("run3"))
    with pytest.raises(NotRecordedError, match="no run of the same id"):
        segmentation(trace.sel("run3"), truth=trace.sel("run0"))


def test_iou_of_nouns_as_a_statistic(trace, computes):
    with computes(0):
        lazy = noun_iou(trace, variant="released")
    made = lazy.compute()
    assert made.dims == ("run", "word")
    table = segmentation(trace, taus=[0.4], variant="released")
    for place, (run, word) in enumerate(zip(table["run"].values, table["word"].values, strict=True)):
        assert float(made.sel(run=run, word=word)) == pytest.approx(float(table["iou"][0, place]), abs=1e-6)
    # run2's cross has no mask, run3 names no noun.
    assert np.isnan(made.sel(run="run2", word="cross"))
    assert np.isnan(made.sel(run="run3")).all()
    with pytest.raises(UnknownNameError, match="unknown noun 'ring' in the masks of"):
        noun_iou(trace, nouns=["ring"])


def test_coverage_as_a_statistic_knows_its_words(trace):
    for made in (coverage(trace, tagger=LEXICON), intensity(trace, tagger=LEXICON)):
        assert made.dims == ("run", "word")
        assert made["pos"].values[3].tolist() == ["DET", "", ""]
        assert made["text"].values[1].tolist() == ["cross", "disc", ""]
    nouns = coverage(trace, tagger=LEXICON).groupby("pos").mean()
    assert set(nouns["pos"].values) >= {"NOUN", "DET"}

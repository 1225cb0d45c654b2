import numpy as np
import pytest
import xarray as xr

from attlas.analysis import metrics
from attlas.schemas.errors import InvalidValueError, UnknownNameError

MASK = np.array([[1, 1, 0], [0, 0, 0]], bool)


def grid(values, dims=("y", "x")):
    return xr.DataArray(np.asarray(values, "f4"), dims=dims)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 3.0, 7.5])
def test_imacs_exact_cases(penalty):
    score = {
        "mask": float(metrics.imacs(grid(MASK), MASK, penalty=penalty)),
        "opposite": float(metrics.imacs(grid(~MASK), MASK, penalty=penalty)),
        "ones": float(metrics.imacs(grid(np.ones((2, 3))), MASK, penalty=penalty)),
        "zeros": float(metrics.imacs(grid(np.zeros((2, 3))), MASK, penalty=penalty)),
    }
    assert score == {"mask": 1, "opposite": -penalty, "ones": 1 - penalty, "zeros": 0}


def test_imacs_by_hand_with_the_papers_penalty():
    # Inside (0.5 + 0.9) / 2 = 0.7; outside (0.2 + 0 + 0 + 0.2) / 4 = 0.1; 0.7 - 3 * 0.1 = 0.4
    assert float(metrics.imacs(grid([[0.5, 0.9, 0.2], [0, 0, 0.2]]), MASK)) == pytest.approx(0.4)


def test_imacs_is_linear_in_the_penalty():
    values = grid(np.random.default_rng(0).uniform(size=(2, 3)))
    zero, one, five = (float(metrics.imacs(values, MASK, penalty=p)) for p in (0, 1, 5))
    assert five == pytest.approx(zero + 5 * (one - zero), abs=1e-6)


@pytest.mark.parametrize("mask", [np.zeros((2, 3), bool), np.ones((2, 3), bool), -np.ones((2, 3), np.int8)])
def test_imacs_of_an_empty_full_or_unknown_mask_is_nan(mask):
    assert np.isnan(metrics.imacs(grid(MASK), mask))


def test_masks_per_run_and_maps_per_layer(computes):
    masks = xr.DataArray(
        np.stack([MASK, ~MASK]).astype("i1"), dims=("run", "image_y", "image_x"), coords={"run": ["a", "b"]}
    ).chunk({"run": 1})
    values = grid(np.stack([MASK, MASK]), ("run", "query_y", "query_x")).assign_coords(run=["a", "b"], query_y=[0, 1])
    with computes(0):
        made = metrics.imacs(values.expand_dims(layer=2).chunk({"run": 1}), masks)
    assert dict(made.sizes) == {"layer": 2, "run": 2}
    np.testing.assert_array_equal(made.compute().sel(run="b"), [-3, -3])
    assert made.attrs == {"units": "1", "long_name": "IMACS", "penalty": 3.0}


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(InvalidValueError, match="the mask is 3x2 and the map 2x3 .*resample the map first"):
        metrics.imacs(grid(MASK), MASK.T)
    with pytest.raises(InvalidValueError, match="got 1 dims"):
        metrics.iou(grid(MASK), np.ones(3))


def test_iou_by_hand():
    # 2 in the mask, 2 in the map, 1 in both: 1 / 3.
    assert float(metrics.iou(grid([[1, 0, 1], [0, 0, 0]]), MASK)) == pytest.approx(1 / 3)
    assert float(metrics.iou(grid(MASK), MASK)) == 1
    assert float(metrics.iou(grid(~MASK), MASK)) == 0
    assert float(metrics.iou(grid([[0.1, 7, 0], [0, 0, 0]]), MASK)) == 1  # above 0 is in
    empty = np.zeros((2, 3))
    assert float(metrics.iou(grid(empty), MASK)) == 0
    assert np.isnan(metrics.iou(grid(empty), empty))
    assert np.isnan(metrics.iou(grid(MASK), -np.ones((2, 3), np.int8)))
    assert np.isnan(metrics.iou(grid([[np.nan, 1, 1], [0, 0, 0]]), MASK))


def test_the_whole_picture_scores_the_objects_share():
    assert float(metrics.iou(grid(np.ones((2, 3))), MASK)) == pytest.approx(MASK.mean())


def test_coverage_by_hand():
    assert float(metrics.coverage(grid([[1, 0, 2], [0, 0, 0]]))) == pytest.approx(2 / 6)
    assert np.isnan(metrics.coverage(grid([[np.nan, 0]])))


def test_peak_takes_the_first_of_equals(computes):
    values = grid(
        [[[0, 3, 3], [1, 2, 0]], [[0, 0, 0], [0, 0, 5]], [[0, np.nan, 0], [9, 0, 0]]], ("run", "key_y", "key_x")
    )
    with computes(0):
        made = metrics.peak(values.chunk({"run": 1}))
    assert made.dims == ("run", "coordinate")
    np.testing.assert_array_equal(made.compute(), [[0, 1], [1, 2], [np.nan, np.nan]])


def test_pck_by_hand():
    true = xr.DataArray([[[0, 0], [5, 5], [2, 2], [np.nan, np.nan]]], dims=("run", "point", "coordinate"))
    found = xr.DataArray([[[1, 1], [5, 7], [2, 2], [0, 0]]], dims=("run", "point", "coordinate"))
    # Offsets: 1 diagonally, 2, 0, and one point without truth.
    assert metrics.pck(found, true, 1).values.tolist() == pytest.approx([1 / 3])
    assert metrics.pck(found, true, 2).values.tolist() == [1]
    assert metrics.pck(found, true, 1, distance="chebyshev").values.tolist() == pytest.approx([2 / 3])
    assert np.isnan(metrics.pck(found, true * np.nan, 1))
    with pytest.raises(UnknownNameError, match="unknown distance 'euclid'; did you mean 'euclidean'"):
        metrics.pck(found, true, 1, distance="euclid")


def test_the_box_of_the_largest_part():
    values = np.zeros((6, 7))
    values[0, 0] = 1
    values[2:5, 3:5] = 0.5
    assert metrics.box(grid(values)) == (2, 3, 5, 5)
    assert metrics.box(grid(np.zeros((2, 2)))) is None
    with pytest.raises(InvalidValueError, match="a box is of one map"):
        metrics.box(grid(np.zeros((1, 2, 2)), ("run", "y", "x")))


def test_box_iou_by_hand():
    assert metrics.box_iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert metrics.box_iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert metrics.box_iou((0, 0, 1, 1), (5, 5, 6, 6)) == 0
    # A box against the whole picture scores its share of the area.
    assert metrics.box_iou((0, 0, 10, 10), (2, 2, 5, 4)) == pytest.approx(6 / 100)
    assert np.isnan(metrics.box_iou((0, 0, 0, 0), (0, 0, 0, 0)))


def test_a_score_tells_of_which_map_it_is():
    values = grid(MASK).assign_attrs(units="1", direction="r2g", inert=True, threshold="minmax 0.4 soft")
    for made in (metrics.imacs(values, MASK), metrics.iou(values, MASK), metrics.coverage(values)):
        assert {"direction": "r2g", "inert": True, "threshold": "minmax 0.4 soft"}.items() <= made.attrs.items()
    assert metrics.peak(values).attrs["units"] == "cell"

"""The refine losses against plain loops, their exact cases, bounds, gradients, and what they refuse."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attlas.analysis.papers.attention_losses import LOSSES, centres, cwg_loss, dcml_loss, patch_coordinates, tv_loss
from attlas.schemas.errors import InvalidValueError, UnknownNameError

sizes = st.integers(1, 4)
grids = st.tuples(sizes, sizes, sizes, sizes)


def random_attention(shape, seed=0, lead=()):
    flat = torch.from_numpy(np.random.default_rng(seed).normal(size=(*lead, *shape[:2], shape[2] * shape[3])) * 2)
    return flat.softmax(-1).reshape(*lead, *shape)


def by_loops(attention, queries, places, sigma=1.0):
    """All three, as the equations are written, over the queries that count: sums, counts, and the mean of eq. 21."""
    height, width, rows, columns = attention.shape
    centre = np.zeros((height, width, 2))
    for i, j, k, m in np.ndindex(*attention.shape):
        centre[i, j] += attention[i, j, k, m] * places[k, m]
    wrong = pairs = step = neighbours = near = 0.0
    for i in range(height):
        for j in range(width):
            if not queries[i, j]:
                continue
            for k in range(j + 1, width):
                if queries[i, k]:
                    pairs += 1
                    wrong += max(0.0, centre[i, j, 0] - centre[i, k, 0])
            for k in range(i + 1, height):
                if queries[k, j]:
                    pairs += 1
                    wrong += max(0.0, centre[i, j, 1] - centre[k, j, 1])
            for other in ((i, j + 1), (i + 1, j)):
                if other[0] < height and other[1] < width and queries[other]:
                    neighbours += 1
                    step += ((centre[other] - centre[i, j]) ** 2).sum()
            for k, m in np.ndindex(rows, columns):
                far = ((centre[i, j] - places[k, m]) ** 2).sum()
                near += math.exp(-far / (2 * sigma**2)) * attention[i, j, k, m]
    return {"dcml": (wrong, pairs), "tv": (step, neighbours), "cwg": (-near, queries.sum())}


@pytest.mark.parametrize("own_places", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_they_are_the_equations(masked, own_places):
    shape = (4, 3, 2, 5)
    attention = random_attention(shape)
    rng = np.random.default_rng(1)
    queries = rng.random(shape[:2]) < 0.7 if masked else np.ones(shape[:2], bool)
    x, y = np.meshgrid(np.arange(5.0), np.arange(2.0))
    places = rng.normal(size=(2, 5, 2)) if own_places else np.stack([x, y], -1)
    expected = by_loops(attention.numpy(), queries, places)
    given_places = torch.from_numpy(places) if own_places else None
    for name, loss in LOSSES.items():
        total, count = expected[name]
        mask = torch.from_numpy(queries) if masked else None
        paper = total / count / 10 if name == "cwg" else total
        assert float(loss(attention, mask, given_places)) == pytest.approx(paper, rel=1e-12)
        assert float(loss(attention, mask, given_places, reduction="mean")) == pytest.approx(total / count, rel=1e-12)


def test_leading_dims_are_each_taken_alone_and_masks_broadcast():
    attention = random_attention((3, 4, 4, 3), lead=(2, 5))
    mask = torch.from_numpy(np.random.default_rng(3).random((5, 3, 4)) < 0.6)
    places = patch_coordinates(4, 3, attention) + torch.arange(5.0)[:, None, None, None]
    for loss in LOSSES.values():
        whole = loss(attention, mask, places)
        assert whole.shape == (2, 5)
        one = loss(attention[1, 3], mask[3], places[3])
        assert float(whole[1, 3]) == pytest.approx(float(one), rel=1e-12)


@given(st.integers(1, 6), st.data())
@settings(max_examples=40, deadline=None)
def test_any_monotone_warp_is_in_order(side, data):
    """One-hot attention to (row, column) = (r(i), c(j)) with rising r and c."""
    rows, columns = (
        sorted(data.draw(st.lists(st.integers(0, 6), min_size=side, max_size=side), label=axis)) for axis in "yx"
    )
    attention = torch.zeros(side, side, 7, 7)
    for i in range(side):
        for j in range(side):
            attention[i, j, rows[i], columns[j]] = 1
    assert float(dcml_loss(attention)) == 0
    turned = dcml_loss(attention.flip(1))
    wrong = sum(columns[k] - columns[j] for j in range(side) for k in range(j, side)) * side
    assert float(turned) == wrong


def test_the_identity_is_in_order_and_a_flip_is_not():
    looks = torch.eye(16).reshape(4, 4, 4, 4)
    assert float(dcml_loss(looks)) == 0
    # 4 rows x (3 pairs 1 apart, 2 pairs 2 apart, 1 pair 3 apart)
    assert float(dcml_loss(looks.flip(0))) == float(dcml_loss(looks.flip(1))) == 4 * 10
    assert float(dcml_loss(looks.flip(0, 1))) == 80
    # Turned coordinates put a turned reference in order again.
    assert float(dcml_loss(looks.flip(1), coordinates=patch_coordinates(4, 4).flip(1))) == 0


def test_all_are_least_where_every_query_looks_at_one_patch():
    """The losses alone do not tell a good layer: this one tells nothing from anything."""
    collapsed = torch.zeros(4, 4, 4, 4)
    collapsed[..., 1, 2] = 1
    assert float(dcml_loss(collapsed)) == float(tv_loss(collapsed)) == 0
    assert float(cwg_loss(collapsed, reduction="mean")) == -1


def test_equal_centres_have_no_variation():
    attention = random_attention((1, 1, 3, 4)).expand(5, 6, 3, 4)
    assert float(tv_loss(attention)) == pytest.approx(0, abs=1e-28)
    assert float(tv_loss(torch.eye(9).reshape(3, 3, 3, 3))) == 12


def test_one_hot_at_the_centre_is_the_least_that_concentration_gives():
    looks = torch.eye(12, dtype=torch.float64).reshape(3, 4, 3, 4)
    assert float(cwg_loss(looks, reduction="mean")) == -1
    assert float(cwg_loss(looks)) == -1 / 12
    for seed in range(5):
        assert float(cwg_loss(random_attention((3, 4, 3, 4), seed), reduction="mean")) > -1


@given(grids, st.integers(0, 10_000), st.floats(0.1, 9.0))
@settings(max_examples=60, deadline=None)
def test_bounds(shape, seed, sigma):
    attention = random_attention(shape, seed)
    found = centres(attention)
    assert found.min() >= 0
    assert (found[..., 0] <= shape[3] - 1 + 1e-12).all()
    assert (found[..., 1] <= shape[2] - 1 + 1e-12).all()
    assert float(dcml_loss(attention)) >= 0
    assert float(tv_loss(attention)) >= 0
    assert -1 - 1e-12 <= float(cwg_loss(attention, sigma=sigma, reduction="mean")) < 0


def test_keys_beside_the_patches():
    """A row of which half lies on CLS: the centre is that of the rest, and the concentration is halved."""
    attention = random_attention((2, 2, 3, 3))
    torch.testing.assert_close(centres(attention / 2), centres(attention))
    torch.testing.assert_close(centres(attention / 2, renormalise=False), centres(attention) / 2)
    assert float(cwg_loss(attention / 2)) == pytest.approx(float(cwg_loss(attention)) / 2)
    nothing = centres(torch.zeros(1, 1, 2, 2))
    assert nothing.tolist() == [[[0.0, 0.0]]]


def test_the_printed_variant_divides_by_the_number_of_patches():
    attention = random_attention((3, 3, 4, 5))
    torch.testing.assert_close(centres(attention, variant="printed"), centres(attention) / 20)
    assert float(dcml_loss(attention, variant="printed")) == pytest.approx(float(dcml_loss(attention)) / 20)
    assert float(tv_loss(attention, variant="printed")) == pytest.approx(float(tv_loss(attention)) / 400)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["paper", "mean"])
def test_gradients(name, reduction):
    logits = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 3, 6))).requires_grad_()
    mask = torch.tensor([[True, True, True], [True, False, True]])

    def function(values):
        return LOSSES[name](values.softmax(-1).reshape(2, 3, 2, 3), mask, reduction=reduction)

    assert torch.autograd.gradcheck(function, (logits,))
    (gradient,) = torch.autograd.grad(function(logits), logits)
    assert gradient.abs().sum() > 0
    assert gradient[1, 1].abs().sum() == 0  # the query that does not count


def test_float32_stays_float32_and_follows_float64():
    exact = random_attention((8, 8, 8, 8))
    for loss in LOSSES.values():
        rounded = loss(exact.float())
        assert rounded.dtype == torch.float32
        assert float(rounded) == pytest.approx(float(loss(exact)), rel=1e-5)


def test_nothing_that_counts_is_no_number():
    attention, none = random_attention((3, 3, 2, 2)), torch.zeros(3, 3)
    assert math.isnan(cwg_loss(attention, none))
    for loss in (dcml_loss, tv_loss):
        assert float(loss(attention, none)) == 0
        assert math.isnan(loss(attention, none, reduction="mean"))


def test_what_is_refused():
    attention = random_attention((3, 3, 2, 2))
    with pytest.raises(InvalidValueError, match="attention must be"):
        centres(torch.ones(3, 4))
    with pytest.raises(InvalidValueError, match=r"coordinates must end in .* \(2, 2, 2\); got shape \(3, 2, 2\)"):
        dcml_loss(attention, coordinates=torch.zeros(3, 2, 2))
    with pytest.raises(
        InvalidValueError, match=r"queries is a mask of \(3, 4\) and the attention has queries \(3, 3\)"
    ):
        tv_loss(attention, torch.ones(3, 4))
    with pytest.raises(UnknownNameError, match="unknown variant 'print'"):
        tv_loss(attention, variant="print")
    with pytest.raises(UnknownNameError, match="unknown reduction 'total'"):
        dcml_loss(attention, reduction="total")
    with pytest.raises(InvalidValueError, match="sigma must be above 0; got 0"):
        cwg_loss(attention, sigma=0)

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

from attlas.analysis.blockwise import kernels
from attlas.analysis.blockwise.fused import Ask, several_means, share_of
from attlas.analysis.blockwise.matrices import LogAttention
from attlas.analysis.blockwise.room import Room

AXIS = {"g2r": -1, "r2g": -2}


@pytest.fixture
def logits():
    return np.random.default_rng(3).normal(scale=4, size=(2, 3, 7, 5))


def tensor(values):
    return torch.tensor(values, dtype=torch.float32)


def mean(logits, direction, onto, weights=None):
    """One weighted mean of the attention, from ln of the softmax over keys and its logsumexp."""
    flat = logits.reshape(-1, *logits.shape[-2:])
    if weights is not None:
        length = logits.shape[-2 if onto == "key" else -1]
        weights = share_of(weights.expand(*logits.shape[:-2], length).reshape(-1, length))
    matrices = LogAttention(flat.log_softmax(-1), flat.logsumexp(-1), False, Room("cpu"))
    (made,) = several_means(matrices, [Ask(direction, onto, weights)])
    return made.reshape(*logits.shape[:-2], -1)


@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_attention_is_the_softmax_over_its_axis(logits, direction):
    made = kernels.attention(tensor(logits), direction)
    assert made.dtype == torch.float32
    np.testing.assert_allclose(made.numpy(), softmax(logits, AXIS[direction]), rtol=2e-5, atol=1e-7)


def test_both_directions_by_hand():
    # exp(S) = [[1, 3], [1, 1]]: rows give 1/4 3/4 and 1/2 1/2; columns give 1/2 1/2 and 3/4 1/4.
    logits = tensor([[0, np.log(3)], [0, 0]])
    np.testing.assert_allclose(kernels.attention(logits.clone(), "g2r"), [[0.25, 0.75], [0.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(kernels.attention(logits.clone(), "r2g"), [[0.5, 0.75], [0.5, 0.25]], rtol=1e-6)
    np.testing.assert_allclose(mean(logits, "g2r", "key"), [3 / 8, 5 / 8], rtol=1e-6)
    np.testing.assert_allclose(mean(logits, "r2g", "query"), [5 / 8, 3 / 8], rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("onto", ["key", "query"])
@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_mean_over_either_axis(logits, direction, onto, weighted):
    full = softmax(logits, AXIS[direction])
    if onto == "query":
        full = full.swapaxes(-1, -2)
    weights = (
        np.random.default_rng(1).uniform(size=(2, 3, full.shape[-2])) if weighted else np.ones((2, 3, full.shape[-2]))
    )
    expected = np.einsum("abij,abi->abj", full, weights / weights.sum(-1, keepdims=True))
    made = mean(tensor(logits), direction, onto, tensor(weights) if weighted else None)
    np.testing.assert_allclose(made, expected, rtol=3e-5, atol=1e-8)


def test_no_weight_at_all_is_nan_and_one_hot_is_a_row(logits):
    one = torch.zeros(7)
    assert mean(tensor(logits), "g2r", "key", one).isnan().all()
    one[4] = 2.5
    row = mean(tensor(logits), "g2r", "key", one)
    np.testing.assert_allclose(row, softmax(logits, -1)[..., 4, :], rtol=2e-5)


def test_a_masked_key_has_no_share_in_either_direction(logits):
    masked = logits.copy()
    masked[..., 2] = -np.inf
    rest = np.delete(logits, 2, -1)
    r2g = kernels.attention(tensor(masked), "r2g").numpy()
    assert (r2g[..., 2] == 0).all()
    np.testing.assert_allclose(np.delete(r2g, 2, -1), softmax(rest, -2), rtol=3e-5, atol=1e-7)


def test_nan_is_never_skipped(logits):
    broken = tensor(logits)
    broken[0, 0, 1, 1] = torch.nan
    assert mean(broken, "g2r", "key")[0, 0].isnan().all()
    assert mean(broken, "g2r", "key")[0, 1].isfinite().all()


def test_logits_from_either_encoding_in_float32():
    rng = np.random.default_rng(5)
    q, k = (rng.normal(size=(2, n, 4)).astype("f2") for n in (6, 3))
    expected = q.astype("f8") @ k.astype("f8").swapaxes(-1, -2)
    made = kernels.logits_from_factors(torch.tensor(q), torch.tensor(k))
    assert made.dtype == torch.float32
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)
    lse = logsumexp(expected, axis=-1)
    dense = LogAttention(tensor(expected - lse[..., None]), tensor(lse), False, Room("cpu")).logits(0, slice(None))
    np.testing.assert_allclose(dense, expected, atol=1e-5)


def test_sums_are_not_in_float16():
    # 1e5 equal logits: each share is 1e-5, below float16's normal range, and their sum must still be 1.
    stored = LogAttention(torch.zeros(1, 1, 100_000, dtype=torch.float16), torch.zeros(1, 1), False, Room("cpu"))
    logits = stored.logits(0, slice(None))
    assert kernels.attention(logits, "g2r").sum().item() == pytest.approx(1, abs=1e-4)


def test_blocks_cover_every_matrix_once(monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK_ELEMENTS", 100)
    places = list(kernels.blocks(11, 5, 7))
    assert [number for place in places for number in range(11)[place]] == list(range(11))
    assert max(place.stop - place.start for place in places) == 2
    assert list(kernels.blocks(2, 50, 50)) == [slice(0, 1), slice(1, 2)]

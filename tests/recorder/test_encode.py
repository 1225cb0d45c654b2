"""The encoder's arithmetic against plain softmaxes in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attlas.recorder import encode as module
from attlas.recorder.encode import encode


def plain(query, key, mask=None):
    logits = query.double() @ key.double().transpose(1, 2)
    if mask is not None:
        logits = logits + mask.double()
    attention = logits.softmax(2)
    over_queries = logits.softmax(1).nan_to_num(0.0)
    return logits.logsumexp(2), logits.log_softmax(2), attention, attention.mean(1), over_queries.mean(2)


def check(query, key, mask=None):
    total = torch.zeros(query.shape[0], query.shape[1], key.shape[1])
    out = encode(query, key, mask, dense=True, total=total)
    logsumexp, log_attention, attention, g2r, r2g = plain(query, key, mask)
    np.testing.assert_allclose(out.logsumexp, logsumexp, atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(out.g2r, g2r, atol=2e-6)
    np.testing.assert_allclose(out.r2g, r2g, atol=2e-6)
    np.testing.assert_allclose(total, attention, atol=2e-5)
    np.testing.assert_allclose(out.log_attention.double(), log_attention, rtol=1e-3, atol=1e-3)
    return out


@given(
    heads=st.integers(1, 5),
    queries=st.integers(1, 20),
    keys=st.integers(1, 20),
    spread=st.floats(0.01, 12),
    block=st.sampled_from([1, 50, 10_000]),
    seed=st.integers(0, 2**16),
)
def test_any_logits_in_any_blocks(heads, queries, keys, spread, block, seed):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(heads, queries, 6, generator=generator) * spread
    key = torch.randn(heads, keys, 6, generator=generator)
    before, module.BLOCK = module.BLOCK, block
    try:
        check(query, key)
    finally:
        module.BLOCK = before


@pytest.mark.parametrize("which", ["query", "key"])
def test_a_row_or_column_far_below_the_maximum_is_still_exact(which):
    query, key = torch.zeros(1, 4, 2), torch.zeros(1, 5, 2)
    query[..., 0] = 1
    key[0, :, 0] = torch.arange(5.0)
    if which == "query":
        query[0, 0, 0] = 200  # the others lie 800 below its largest logit, where float32 exp is 0
    else:
        key[0, 1:, 0] = 200
    check(query, key)


@pytest.mark.parametrize("value", [-10_000.0, float("-inf")])
def test_a_mask_takes_keys_out(value):
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(3, 6, 4, generator=generator), torch.randn(3, 5, 4, generator=generator)
    mask = torch.zeros(3, 1, 5)
    mask[:, :, 3:] = value
    out = encode(query, key, mask, dense=True)
    np.testing.assert_allclose(out.log_attention.exp()[..., 3:], 0)
    np.testing.assert_allclose(out.g2r[:, 3:], 0)
    if value == float("-inf"):
        check(query, key, mask)
        # Three of five keys have a softmax over queries; the two that nobody can see count as 0.
        np.testing.assert_allclose(out.r2g.sum(1), 3 / 5, atol=1e-6)
    else:
        np.testing.assert_allclose(out.r2g.sum(1), 1, atol=1e-5)


def test_nan_stays_nan():
    query = torch.zeros(1, 3, 2)
    query[0, 1] = float("nan")
    out = encode(query, torch.ones(1, 4, 2), None, dense=False)
    assert torch.isnan(out.logsumexp[0, 1])
    assert out.log_attention is None

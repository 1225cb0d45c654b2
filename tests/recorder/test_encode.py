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
    return logits.logsumexp(2), logits.log_softmax(2), attention, over_queries


def zeros(*shape):
    return torch.zeros(shape), torch.zeros(shape)


def check(query, key, mask=None):
    totals = zeros(query.shape[0], query.shape[1], key.shape[1])
    out = encode(query, key, mask, dense=True, totals=totals)
    logsumexp, log_attention, attention, over_queries = plain(query, key, mask)
    np.testing.assert_allclose(out.logsumexp, logsumexp, atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(out.g2r, attention.mean(1), atol=2e-6)
    np.testing.assert_allclose(out.r2g, over_queries.mean(2), atol=2e-6)
    np.testing.assert_allclose(totals[0], attention, atol=2e-5)
    np.testing.assert_allclose(totals[1], over_queries, atol=2e-5)
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


def test_totals_add_up_over_calls_and_change_nothing_else():
    generator = torch.Generator().manual_seed(3)
    query, key = torch.randn(4, 3, 30, 5, generator=generator), torch.randn(4, 3, 7, 5, generator=generator)
    totals = zeros(3, 30, 7)
    for call in range(4):
        with_totals = encode(query[call], key[call], None, dense=True, totals=totals)
        without = encode(query[call], key[call], None, dense=True)
        for name in ("log_attention", "logsumexp", "g2r", "r2g"):
            np.testing.assert_array_equal(getattr(with_totals, name), getattr(without, name))
    logits = (query.double() @ key.double().transpose(2, 3)).numpy()
    exponential = np.exp(logits)
    np.testing.assert_allclose(totals[0], (exponential / exponential.sum(-1, keepdims=True)).sum(0), rtol=1e-5)
    np.testing.assert_allclose(totals[1], (exponential / exponential.sum(-2, keepdims=True)).sum(0), rtol=1e-5)


def test_nan_stays_nan():
    query = torch.zeros(1, 3, 2)
    query[0, 1] = float("nan")
    out = encode(query, torch.ones(1, 4, 2), None, dense=False)
    assert torch.isnan(out.logsumexp[0, 1])
    assert out.log_attention is None


def test_a_nan_in_any_block_is_seen(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 8)
    query = torch.zeros(1, 9, 2)
    query[0, 7] = float("nan")
    out = encode(query, torch.ones(1, 4, 2), None, dense=False)
    assert torch.isnan(out.logsumexp[0, 7])
    assert torch.isfinite(out.logsumexp[0, :7]).all()


EXTREMES = {"flat": 0.0, "usual": 1.0, "sharp": 30.0, "past float32's exp": 300.0}


@pytest.mark.parametrize("spread", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("others", [0, 7])
@pytest.mark.parametrize("whole", [0, 2**24])
def test_blocks_of_queries_change_nothing(monkeypatch, spread, masked, others, whole):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(2, 23, 4, generator=generator) * spread
    key, rest = torch.randn(2, 6, 4, generator=generator), torch.randn(2, others, 4, generator=generator)
    mask = None
    if masked:
        mask = torch.zeros(2, 23, 6)
        mask[:, :, 2] = float("-inf")
        mask[:, :11, 4] = float("-inf")
    logits = query.double() @ torch.cat([key, rest], 1).double().transpose(1, 2)
    logits[..., :6] += 0 if mask is None else mask
    attention = logits.softmax(2)[..., :6]
    over_queries = logits[..., :6].softmax(1).nan_to_num(0.0)
    # Logits of a thousand have four digits behind the point in float32.
    close = {"atol": 2e-6 if spread < 100 else 2e-4}
    monkeypatch.setattr(module, "WHOLE", whole)
    for block in (2**19, 60, 1):
        monkeypatch.setattr(module, "BLOCK", block)
        totals = zeros(2, 23, 6)
        out = encode(query, key, mask, dense=True, totals=totals, rest=rest if others else None)
        np.testing.assert_allclose(out.logsumexp, logits.logsumexp(2), atol=1e-4, rtol=1e-5)
        np.testing.assert_allclose(out.g2r, attention.mean(1), **close)
        np.testing.assert_allclose(out.r2g, over_queries.mean(2), **close)
        np.testing.assert_allclose(totals[0], attention, atol=10 * close["atol"])
        np.testing.assert_allclose(totals[1], over_queries, atol=10 * close["atol"])
        want = logits.log_softmax(2)[..., :6].clamp(min=-60_000)
        np.testing.assert_allclose(out.log_attention.double().clamp(min=-60_000), want, rtol=1e-3, atol=2e-3)


def test_a_channel_of_minus_infinity_takes_a_key_out():
    query, key = torch.randn(2, 9, 4), torch.randn(2, 5, 4)
    query[..., -1], key[..., -1] = 1.0, 0.0
    key[:, 3, -1] = float("-inf")
    totals = zeros(2, 9, 5)
    out = encode(query, key, None, dense=True, totals=totals)
    left = [0, 1, 2, 4]
    _, _, attention, over_queries = plain(query, key[:, left])
    np.testing.assert_allclose(out.log_attention.exp()[..., left], attention, atol=2e-3)
    np.testing.assert_allclose(out.g2r[:, left], attention.mean(1), atol=2e-6)
    np.testing.assert_allclose(out.g2r[:, 3], 0)
    np.testing.assert_allclose(out.r2g, over_queries.mean(2) * 4 / 5, atol=2e-6)
    np.testing.assert_allclose(totals[1][..., left], over_queries, atol=2e-6)
    assert (totals[1][..., 3] == 0).all()


@pytest.mark.parametrize("size", [4096, 4100])
def test_a_large_head_never_needs_its_whole_matrix(size):
    query, key = torch.randn(1, size, 4), torch.randn(1, size, 4)
    with torch.profiler.profile(profile_memory=True) as profile:
        out = encode(query, key, None, dense=False)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= 64 * 2**20
    logits = query[0].double() @ key[0].double().T
    np.testing.assert_allclose(out.g2r[0], logits.softmax(1).mean(0), atol=1e-6)
    np.testing.assert_allclose(out.r2g[0], logits.softmax(0).mean(1), atol=1e-6)


def test_the_logarithm_may_go_into_an_array_of_the_caller():
    shard = torch.full((2, 3, 4, 5), -1.0, dtype=torch.float16)
    query, key = torch.randn(3, 4, 2), torch.randn(3, 5, 2)
    out = encode(query, key, None, dense=shard[1])
    assert out.log_attention.data_ptr() == shard[1].data_ptr()
    np.testing.assert_array_equal(shard[1], encode(query, key, None, dense=True).log_attention)
    assert (shard[0] == -1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_numbers_are_computed_with_in_float32(dtype):
    query, key = torch.randn(2, 8, 4).to(dtype), torch.randn(2, 5, 4).to(dtype)
    out = encode(query, key, None, dense=False)
    np.testing.assert_array_equal(out.g2r, encode(query.float(), key.float(), None, dense=False).g2r)

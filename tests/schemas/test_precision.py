"""Rounding keeps what each precision promises: the error of the attention, in both directions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attlas.schemas import PRECISIONS, Leaf, round_factors, round_values
from attlas.schemas.errors import UnknownNameError
from attlas.schemas.precision import ERROR, GRIDS, LOGIT_NOISE

HEADS, CHANNELS = 4, 8

# Tokens of the query, keys, and whether K is stored for every call, by kind.
KINDS = {"text": (64, 20, False), "image": (64, 65, False), "self": (64, 64, True), "joint": (84, 84, True)}


def softmax(logits, axis):
    exponential = np.exp(logits - logits.max(axis, keepdims=True))
    return exponential / exponential.sum(axis, keepdims=True)


def errors(query, key, log_attention, logits):
    """Mean L1 error of the softmax over keys and over queries, float64, against the unrounded Q and K."""
    true = query.astype(float) @ np.swapaxes(key.astype(float), -1, -2)
    over_keys = np.abs(softmax(true, -1) - np.exp(log_attention)).sum(-1).mean()
    over_queries = np.abs(softmax(true, -2) - softmax(logits, -2)).sum(-2).mean()
    return over_keys, over_queries


def vectors(kind, spread, seed):
    """Random Q and K of smooth tokens and heads of unlike strength; logits have about this spread."""
    queries, keys, vary = KINDS[kind]
    rng = np.random.default_rng(seed)
    strength = rng.uniform(0.3, 3, (2, HEADS, 1, 1))
    query = strength * rng.normal(size=(2, HEADS, queries, CHANNELS)) + rng.normal(size=(2, HEADS, 1, CHANNELS))
    key = rng.normal(size=(2, HEADS, keys, CHANNELS)) / strength + rng.normal(size=(2, HEADS, 1, CHANNELS))
    scale = spread / (query @ np.swapaxes(key, -1, -2)).std()
    return (query * scale).astype("f4"), key.astype("f4"), vary


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
@given(spread=st.sampled_from([0.1, 0.5, 1, 2, 4]), gain=st.sampled_from([1 / 64, 1, 16]), seed=st.integers(0, 2**16))
def test_error_of_the_attention_in_both_encodings_and_directions(precision, kind, spread, gain, seed):
    query, key, vary = vectors(kind, spread, seed)
    true = query.astype(float) @ np.swapaxes(key.astype(float), -1, -2)
    normaliser = np.log(np.exp(true).sum(-1))
    lse = round_values(normaliser.astype("f4"), "logsumexp", precision).astype(float)
    dense = round_values((true - normaliser[..., None]).astype("f2"), "log_attention", precision).astype(float)
    found = errors(query, key, dense, dense + lse[..., None])
    assert max(found) <= ERROR[precision], f"dense {found}"

    # What one factor gains the other may lose: the same attention, and the same error.
    stored = round_factors(query * np.float32(gain), key / np.float32(gain), precision, keys_vary=vary)
    logits = stored[0].astype("f2").astype(float) @ np.swapaxes(stored[1].astype("f2").astype(float), -1, -2)
    found = errors(query, key, np.log(softmax(logits, -1)), logits)
    assert max(found) <= ERROR[precision], f"factors {found}"


@pytest.mark.parametrize("precision", sorted(LOGIT_NOISE))
@pytest.mark.parametrize("vary", [False, True])
@given(spread=st.sampled_from([0.1, 1, 4, 16]), seed=st.integers(0, 2**16))
def test_noise_of_the_logits_stays_below_its_bound_in_every_head(precision, vary, spread, seed):
    query, key, _ = vectors("self", spread, seed)
    stored = round_factors(query, key, precision, keys_vary=vary)
    noise = stored[0].astype(float) @ np.swapaxes(stored[1].astype(float), -1, -2)
    noise -= query.astype(float) @ np.swapaxes(key.astype(float), -1, -2)
    # The bound is of an expectation: few tokens leave some scatter.
    assert np.sqrt((noise**2).mean((-2, -1))).max() <= 1.25 * LOGIT_NOISE[precision]
    assert vary or stored[1] is key


@given(arrays(np.float16, 20, elements=st.floats(-100, 0, width=16)), st.sampled_from(["balanced", "small"]))
def test_log_attention_lies_on_a_grid_of_constant_step(values, precision):
    grid = GRIDS[precision]["log_attention"]
    rounded = round_values(values, "log_attention", precision)
    error = np.abs(rounded.astype(float) - values.astype(float))
    assert (error <= grid.step / 2).all()
    normal = np.abs(values) > 1e-4  # below lie float16's subnormals, whose step is fixed
    assert (error <= np.abs(values.astype(float)) * 2.0 ** -(grid.bits + 1))[normal].all()
    assert (round_values(rounded, "log_attention", precision) == rounded).all()


@given(arrays(np.float32, 20, elements=st.floats(0, 1, width=32)), st.sampled_from(PRECISIONS))
def test_means_keep_their_bits(values, precision):
    rounded = round_values(values, "g2r", precision)
    normal = values > 1e-30
    error = np.abs(rounded.astype(float) - values.astype(float))[normal]
    assert (error <= values.astype(float)[normal] * 2.0 ** -(GRIDS[precision]["g2r"].bits + 1)).all()
    assert (round_values(rounded, "g2r", precision) == rounded).all()


@given(arrays(np.float32, 20, elements=st.floats(-200, 200, width=32)), st.sampled_from(PRECISIONS))
def test_logsumexp_errs_by_half_a_step(values, precision):
    rounded = round_values(values, "logsumexp", precision)
    assert (np.abs(rounded.astype(float) - values) <= GRIDS[precision]["logsumexp"].step / 2).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("spread", [1, 6])
def test_a_softmax_over_thousands_of_queries_errs_as_promised(precision, spread):
    """Both along the queries of a key and, however little a patch gets, along its keys."""
    variable = Leaf("text", (64, 64), 1, 4, ("a",), 30).variable("attention_mean_r2g")
    logits = spread * np.random.default_rng(0).normal(size=(4096, 30))
    over_queries = np.exp(logits) / np.exp(logits).sum(0)
    stored = round_values((over_queries / variable.scale).astype("f2"), variable.name, precision)
    error = np.abs(stored.astype(float) * variable.scale - over_queries)
    assert error.sum(0).mean() <= ERROR[precision] / 2
    assert (error.sum(1) / over_queries.sum(1)).mean() <= ERROR[precision] / 2
    plain = round_values(over_queries.astype("f2"), variable.name, precision).astype(float)
    if spread == 6:
        # Without the scale a patch loses its keys.
        assert (np.abs(plain - over_queries).sum(1) / over_queries.sum(1)).mean() > ERROR["exact"]


@given(st.integers(1, 3 * 2**15), st.sampled_from(PRECISIONS))
def test_numbers_are_rounded_one_by_one_however_many(size, precision):
    values = np.random.default_rng(size).normal(size=(size, 2)).astype("f4")[:, 0]
    rounded = round_values(values, "g2r", precision)
    step = 2.0 ** (np.frexp(values)[1] - 1.0 - GRIDS[precision]["g2r"].bits)
    np.testing.assert_array_equal(rounded, np.rint(values / step) * step)


@pytest.mark.parametrize("variable", ["log_attention", "attention_mean", "attention_mean_r2g"])
def test_nan_infinity_and_the_largest_value_survive(variable):
    values = np.array([np.nan, -np.inf, np.inf, 65504, 0], "f2")
    np.testing.assert_array_equal(round_values(values, variable, "small"), values)


@pytest.mark.parametrize("variable", ["g2r", "logsumexp"])
def test_nan_and_infinity_survive_in_float32(variable):
    values = np.array([np.nan, -np.inf, np.inf, 0], "f4")
    np.testing.assert_array_equal(round_values(values, variable, "small"), values)


def test_factors_without_length_stay_finite_and_nan_stays():
    query = np.array([[65504, 1e-7], [0, -65504]], "f4")
    rounded = round_factors(query, np.zeros((3, 2), "f4"), "small", keys_vary=True)
    assert np.isfinite(rounded[0].astype("f2")).all()
    assert not rounded[1].any()
    rounded = round_factors(np.array([[np.nan, 1.0]], "f4"), np.ones((1, 2), "f4"), "small", keys_vary=True)
    assert np.isnan(rounded[0]).tolist() == [[True, False]]
    assert rounded[1].tolist() == [[1, 1]]


def test_exact_changes_no_float16_and_others_are_left_alone():
    values = np.linspace(-9, 0, 100).astype("f2")
    assert round_values(values, "log_attention", "exact") is values
    assert round_values(values, "query_vectors", "small") is values
    factors = values[:, None].astype("f4"), values[:, None].astype("f4")
    assert all(a is b for a, b in zip(round_factors(*factors, "exact", keys_vary=True), factors, strict=True))
    with pytest.raises(UnknownNameError, match="unknown precision 'exakt'; did you mean 'exact'"):
        round_values(values, "log_attention", "exakt")
    with pytest.raises(UnknownNameError, match="unknown precision 'exakt'"):
        round_factors(*factors, "exakt", keys_vary=True)


def test_a_mask_of_the_keys_takes_no_part_in_the_steps():
    rng = np.random.default_rng(0)
    query, key = (rng.normal(size=(2, 16, 8)).astype(np.float32) for _ in range(2))
    mask = np.where(np.arange(16) > 11, -np.inf, 0).astype(np.float32)[None, :, None].repeat(2, axis=0)
    plain = round_factors(query, key, "balanced", keys_vary=True)
    masked = round_factors(
        np.concatenate([query, np.ones_like(query[..., :1])], -1),
        np.concatenate([key, mask], -1),
        "balanced",
        keys_vary=True,
        masked=True,
    )
    for own, other in zip(plain, masked, strict=True):
        np.testing.assert_array_equal(other[..., :-1], own)
    assert np.abs(plain[0] - query).max() > 0
    np.testing.assert_array_equal(masked[1][..., -1:], mask)

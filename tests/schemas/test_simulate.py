"""Simulated stores hold what their arrays say, by a derivation that shares no code."""

import numpy as np
import pytest
import xarray as xr

from attlas.schemas import open_store, simulate_store


def softmax(logits, axis):
    exponential = np.exp(logits - np.max(logits, axis, keepdims=True, initial=-1e30))
    return exponential / np.maximum(exponential.sum(axis, keepdims=True), 1e-300)


@pytest.mark.parametrize("masked", [False, True])
def test_both_means_are_those_of_the_stored_q_and_k(masked, tmp_path):
    encoding = {"text": "factors", "joint": "factors"}
    simulate_store(tmp_path / "s.zarr", kinds=("text", "joint"), encoding=encoding, masked=masked, grid=(3, 5))
    for leaf, geometry in open_store(tmp_path / "s.zarr").leaves.items():
        made = xr.open_dataset(tmp_path / "s.zarr", group=leaf, engine="zarr", consolidated=False)
        q, k = made["query_vectors"].values.astype("f8"), made["key_vectors"].values.astype("f8")
        k = k if geometry.keys_vary else k[:, :, None]
        with np.errstate(invalid="ignore"):
            logits = np.einsum("rbtlhqc,rbtlhkc->rbtlhqk", q, np.broadcast_to(k, (*q.shape[:5], *k.shape[5:])))
        np.testing.assert_allclose(made["attention_mean"], softmax(logits, -1).mean(2), atol=1e-3)
        over_queries = softmax(logits, -2).mean(2)
        # 15 queries: stored times 8, so half a step of the smallest float16 numbers is 2**-25 / 8.
        np.testing.assert_allclose(made["attention_mean_r2g"], over_queries, rtol=6e-4, atol=2**-27)
        if masked:
            assert (over_queries.sum(-2) == 0).any()


def test_values_are_kept_on_request_and_change_nothing_else():
    plain = simulate_store(kinds=("text", "self"), runs=2)
    store = simulate_store(kinds=("text", "self"), runs=2, values=True)
    for leaf in ("text/4x4", "self/4x4"):
        before, after = plain.group[leaf], store.group[leaf]
        assert set(after.array_keys()) - set(before.array_keys()) == {"value_vectors", "output_projection"}
        for name, array in before.arrays():
            np.testing.assert_array_equal(array[...], after[name][...], err_msg=name)
    # run branch layer head key channel; V of self-attention changes with t.
    assert store.group["text/4x4/value_vectors"].shape == (2, 2, 2, 2, 10, 8)
    assert store.group["self/4x4/value_vectors"].shape == (2, 2, 3, 2, 2, 16, 8)
    assert store.group["text/4x4/output_projection"].shape == (2, 2 * 8, 12)
    for name in ("value_vectors", "output_projection"):
        drawn = store.group[f"text/4x4/{name}"][...].astype("f4")
        assert drawn.std() == pytest.approx(1, abs=0.1)
    # Of thousands of float16 numbers a few are the same by chance.
    runs = store.group["self/4x4/value_vectors"][...]
    assert (runs[0] == runs[1]).mean() < 0.01
    assert (runs[:, :, 0] == runs[:, :, 1]).mean() < 0.01
    other = simulate_store(kinds=("text",), seed=1, values=True).group["text/4x4/output_projection"][...]
    assert (other == store.group["text/4x4/output_projection"][...]).mean() < 0.01
    assert store.leaves["text/4x4"].value_channels == 8


def test_everything_computed():
    node = simulate_store(runs=2, calls=4, layers=3).group["text/4x4"]
    assert node["computed"].shape == (2, 2, 4, 3)
    assert node["computed"][...].all()

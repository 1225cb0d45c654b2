"""What the writer makes of copied calls: branches together or one by one, keys that only the softmax counts."""

import numpy as np
import pytest
import torch

from attlas.recorder.copies import copy_out
from attlas.recorder.scribe import Copied, Scribe
from attlas.schemas import Leaf, Manifest, create_store
from attlas.schemas.errors import ObservationError

MANIFEST = Manifest("m", "0", "p", {}, {"precision": "exact"})
CALLS = 5


def make(encoding, **more):
    leaf = Leaf("text", (2, 3), 2, 4, ("a", "b"), 5, encoding=encoding, **more)
    return create_store(None, MANIFEST, [leaf], ("uncond", "cond"), CALLS, (16, 24))


def drawn(pictures=1, rest=0):
    """Q (call, layer, branch, picture, head, query, channel); K (layer, branch, ...), and keys that are not kept."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(CALLS, 2, 2, pictures, 2, 6, 4, generator=generator)
    key = torch.randn(2, 2, pictures, 2, 5 + rest, 4, generator=generator)
    return query, key[..., :5, :], key[..., 5:, :] if rest else None


def written(store, query, key, rest=None, *, apart=False, rows=(0,), held=False):
    for row in rows:
        if row is not None:
            assert store.claim(f"{row}") == row
    scribe = Scribe(store, rows)
    for t in range(CALLS):
        for branch in (slice(0, 1), slice(1, 2)) if apart else (slice(0, 2),):
            for layer, path in enumerate("ab"):
                parts = [query[t, layer, branch], key[layer, branch]]
                parts = [copy_out(part) for part in parts] if held else parts
                others = None if rest is None else rest[layer, branch]
                scribe.write(Copied(path, "text", t, t, *parts, None, branch=branch.start, rest=others))
    scribe.finish()
    store.complete_runs([row for row in rows if row is not None])
    # Spare rows have no chunks.
    return store.lenient["text/2x3"]


@pytest.mark.parametrize("encoding", ["dense", "factors", "both", "none"])
@pytest.mark.parametrize("held", [False, True])
def test_branches_may_come_one_by_one(encoding, held):
    query, key, _ = drawn()
    together = written(make(encoding), query, key)
    apart = written(make(encoding), query, key, apart=True, held=held)
    names = {name for name, array in together.arrays() if (array.metadata.dimension_names or ("",))[0] == "run"}
    assert {"g2r", "r2g", "attention_mean", "attention_mean_r2g", "computed"} <= names
    for name in names:
        np.testing.assert_array_equal(together[name][0], apart[name][0], err_msg=name)


def values(node, name, row):
    """Numbers of a row times what their array says, as xarray gives them."""
    array = node[name]
    return array[row].astype("f8") * array.attrs.get("scale_factor", 1)


def test_every_number_is_the_softmax_of_its_own_branch_and_picture():
    query, key, _ = drawn(pictures=3)
    node = written(make("dense"), query, key, rows=(0, None, 1))
    # (call, layer, branch, picture, head, query, key) -> the store's order
    logits = torch.einsum("tlbphqc,lbphkc->pbtlhqk", query.double(), key.double())
    attention = logits.softmax(-1)
    for row, picture in enumerate((0, 2)):
        np.testing.assert_allclose(np.exp(node["log_attention"][row].astype("f8")), attention[picture], atol=2e-3)
        np.testing.assert_allclose(node["logsumexp"][row], logits[picture].logsumexp(-1), atol=2e-3)
        np.testing.assert_allclose(node["g2r"][row], attention[picture].mean(-2), atol=1e-4)
        np.testing.assert_allclose(node["r2g"][row], logits[picture].softmax(-2).mean(-1), atol=1e-4)
        np.testing.assert_allclose(node["attention_mean"][row], attention[picture].mean(1), atol=1e-3)
        over_queries = logits[picture].softmax(-2).mean(1)
        np.testing.assert_allclose(values(node, "attention_mean_r2g", row), over_queries, rtol=1e-3)


def test_keys_that_are_not_kept_count_in_the_softmax():
    query, key, rest = drawn(rest=7)
    node = written(make("dense", partial=True), query, key, rest, apart=True)
    logits = torch.einsum("tlbphqc,lbphkc->pbtlhqk", query.double(), torch.cat([key, rest], -2).double())[0]
    attention = logits.softmax(-1)[..., :5]
    np.testing.assert_allclose(np.exp(node["log_attention"][0].astype("f8")), attention, atol=2e-3)
    np.testing.assert_allclose(node["logsumexp"][0], logits.logsumexp(-1), atol=2e-3)
    np.testing.assert_allclose(node["g2r"][0], attention.mean(-2), atol=1e-4)
    over_queries = logits[..., :5].softmax(-2)
    np.testing.assert_allclose(node["r2g"][0], over_queries.mean(-1), atol=1e-4)
    np.testing.assert_allclose(values(node, "attention_mean_r2g", 0), over_queries.mean(1), rtol=1e-3)


def test_a_masked_key_has_no_softmax_over_queries():
    query, key, _ = drawn()
    query[..., -1], key[..., -1] = 1, 0
    key[0, 1, ..., 3, -1] = -torch.inf
    node = written(make("dense", masked=True), query, key)
    logits = torch.einsum("tlbphqc,lbphkc->pbtlhqk", query.double(), key.double())[0]
    expected = logits.softmax(-2).nan_to_num(0.0).mean(1)
    assert (expected[1, 0, ..., 3] == 0).all()
    np.testing.assert_allclose(values(node, "attention_mean_r2g", 0), expected, rtol=1e-3)


@pytest.mark.parametrize("rows", [(0,), (0, 1)])
def test_what_computed_is_said_of_every_branch_call_and_layer(rows):
    query, key, _ = drawn(pictures=len(rows))
    node = written(make("none"), query, key, rows=rows)
    assert node["computed"].shape[1:] == (2, CALLS, 2)
    assert node["computed"][: len(rows)].all()


@pytest.mark.parametrize("encoding", ["dense", "factors", "none"])
def test_branches_of_passes_are_in_shards_of_their_own(encoding):
    query, key, _ = drawn()
    shared = written(make(encoding), query, key, apart=True)
    store = make(encoding, separate_branches=True)
    seen = []
    write = store.write
    store.write = lambda *place, **starts: (seen.append((place[1], starts.get("branch0"))), write(*place, **starts))
    own = written(store, query, key, apart=True)
    for name in {name for name, _ in shared.arrays()} - {"head", "query", "key"}:
        np.testing.assert_array_equal(shared[name][:1], own[name][:1], err_msg=name)
    data = [entry for entry in seen if entry[0] != "computed"]
    assert {start for _, start in data} == {0, 1}
    assert own["g2r"].shards[1] == 1
    # The shard of a branch is written when its last call has come, before the other branch's pass.
    means = [start for name, start in data if name == "attention_mean"]
    assert means == [0, 1]


def test_keys_that_change_in_one_branch_alone_are_noticed():
    store = make("factors")
    scribe = Scribe(store, [store.claim("x")])
    query, key, _ = drawn()
    for branch in (0, 1):
        scribe.write(Copied("a", "text", 0, 0, query[0, 0, [branch]], key[0, [branch]], None, branch=branch))
    scribe.write(Copied("a", "text", 1, 1, query[1, 0, [0]], key[0, [0]], None, branch=0))
    with pytest.raises(ObservationError, match="keys of a changed at call 1"):
        scribe.write(Copied("a", "text", 1, 1, query[1, 0, [1]], key[0, [1]] + 1e-6, None, branch=1))


def test_a_branch_that_never_came_is_missed():
    store = make("dense")
    scribe = Scribe(store, [store.claim("x")])
    query, key, _ = drawn()
    for t in range(CALLS):
        for layer, path in enumerate("ab"):
            scribe.write(Copied(path, "text", t, t, query[t, layer, :1], key[layer, :1], None))
    with pytest.raises(ObservationError, match="incomplete arrays: .*text/2x3/g2r, text/2x3/log_attention"):
        scribe.finish()


def test_what_is_not_finite_is_not_stored():
    store = make("dense")
    scribe = Scribe(store, [store.claim("x")])
    query, key, _ = drawn()
    query[0, 0, 1, 0, 1, 2] = float("inf")
    with pytest.raises(ObservationError, match="attention of a is not finite in call 0"):
        scribe.write(Copied("a", "text", 0, 0, query[0, 0], key[0], None))


def test_bytes_are_those_in_memory():
    query, key, rest = drawn(rest=2)
    held = copy_out(query[0, 0], torch.float16)
    copied = Copied("a", "text", 0, 0, held, key[0], None, rest=rest[0])
    assert copied.bytes == 2 * query[0, 0].numel() + 4 * (key[0].numel() + rest[0].numel())

"""Keys that are not kept and keys that are masked, against numpy on hand-made Q and K."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attlas.analysis import maps, open_trace, words
from attlas.analysis.blockwise import attention
from attlas.schemas import Leaf, Manifest, create_store, simulate_store
from attlas.schemas.errors import NotRecordedError

GRID, HEADS, CALLS, KEYS = (2, 3), 2, 2, 7
WORDS = ("a", "red", "disc", "and", "cross")
AXIS = {"g2r": -1, "r2g": -2}


def vectors(seed=0):
    rng = np.random.default_rng(seed)
    shape = (1, CALLS, 1, HEADS)
    return rng.normal(size=(*shape, 6, 4)), rng.normal(size=(*shape, KEYS, 4))


def shares(q, k, direction):
    e = np.exp(q @ np.swapaxes(k, -1, -2))
    return e / e.sum(AXIS[direction], keepdims=True)


def recorded(q, k, kept, *, detail="full", kind="text"):
    """A store of some of the keys, its numbers computed as they are defined: the softmax over all of them."""
    labels = () if kind == "text" else (("text",) * len(kept), *[(-1,) * len(kept)] * 2)
    encoding = "dense" if detail == "full" else "none"
    leaf = Leaf(
        kind, GRID, HEADS, 4, ("attn",), len(kept), *labels, encoding=encoding, keys_vary=True,
        partial=len(kept) < KEYS,
    )  # fmt: skip
    store = create_store(None, Manifest("by hand", "0", "none"), (leaf,), ("cond",), CALLS, (16, 24))
    row = store.claim("one", prompt=" ".join(WORDS))
    store.write_clock(row, steps=range(CALLS), timesteps=range(CALLS), sigmas=range(CALLS))
    p, r = shares(q, k, "g2r")[..., kept], shares(q, k, "r2g")[..., kept]
    arrays = {
        "log_attention": np.log(p),
        "logsumexp": np.log(np.exp(q @ np.swapaxes(k, -1, -2)).sum(-1)),
        "g2r": p.mean(-2),
        "r2g": r.mean(-1),
        "attention_mean": p.mean(1),
        "attention_mean_r2g": r.mean(1) / leaf.variable("attention_mean_r2g").scale,
        "computed": np.ones((1, CALLS, 1), bool),
    }
    (name,) = store.leaves
    for variable in leaf.variables():
        if variable.name in arrays:
            store.write(name, variable.name, row, arrays[variable.name])
    starts = np.cumsum([0, *(len(word) + 1 for word in WORDS)])
    whole = [("<", "bos", -1, -1)]
    whole += [(word, "word", int(s), int(s) + len(word)) for word, s in zip(WORDS, starts, strict=False)]
    whole += [(">", "eos", -1, -1)]
    columns = list(zip(*(whole[key] for key in kept), strict=True))
    store.write_tokens(name, row, 0, **dict(zip(("tokens", "segments", "starts", "ends"), columns, strict=True)))
    store.complete_run(row)
    store.finish()
    return store


@settings(max_examples=5)
@given(kept=st.sets(st.integers(0, KEYS - 1), min_size=1, max_size=KEYS - 1).map(sorted), seed=st.integers(0, 99))
def test_partial_is_full_restricted(kept, seed):
    q, k = vectors(seed)
    part, full = open_trace(recorded(q, k, kept)), open_trace(recorded(q, k, range(KEYS)))
    for direction, onto in (("g2r", "key"), ("r2g", "query")):
        made = part.attention("text", direction)
        assert made.attrs["partial"] is True
        expected = shares(q, k, direction)[None][..., kept]
        np.testing.assert_allclose(made.compute(), expected, rtol=5e-3, err_msg=direction)
        # The softmax of all stored keys undoes the rounding of their sum; that of some must not be taken.
        whole = full.attention("text", direction).compute()[..., kept]
        np.testing.assert_allclose(made.compute(), whole, rtol=5e-3, err_msg=direction)
        for source in ("summary", "full"):
            mean = maps.aggregate(part, direction, "t", source=source, reduce="mean", onto=onto).compute()
            assert mean.attrs["partial"] is True
            flat = expected[0, 0].mean((1, 2)).mean(-2 if onto == "key" else -1)
            np.testing.assert_allclose(mean[0], flat.reshape(mean.shape[1:]), rtol=5e-3, err_msg=direction)


@pytest.mark.parametrize("direction", ["g2r", "r2g"])
@pytest.mark.parametrize("onto", ["key", "query"])
def test_weighted_means_of_partial_leaves(direction, onto):
    q, k = vectors()
    kept = [2, 3, 5]
    part = open_trace(recorded(q, k, kept))
    mask = np.array([[0, 1, 0], [1, 0, 0]]) if onto == "key" else np.array([1, 0, 2])
    chosen = {"queries" if onto == "key" else "keys": mask}
    made = maps.aggregate(part, direction, onto=onto, source="full", **chosen).compute()
    share = shares(q, k, direction)[0][..., kept]
    weights = mask.ravel() / mask.sum()
    expected = (weights @ share if onto == "key" else share @ weights).sum((0, 1, 2))
    np.testing.assert_allclose(made[0], expected.reshape(made.shape[1:]), rtol=5e-3)


def test_both_summaries_of_a_partial_leaf_from_one_pass():
    q, k = vectors()
    store = recorded(q, k, [0, 4])
    made = attention.recomputed_summaries(open_trace(store), "text")
    for name in ("g2r", "r2g"):
        np.testing.assert_allclose(made[name].compute(), store.group[f"text/2x3/{name}"][...], rtol=3e-3)


@pytest.mark.parametrize("kind", ["text", "joint"])
@pytest.mark.parametrize("detail", ["full", "summary"])
def test_word_maps_need_only_the_words_keys(kind, detail):
    q, k = vectors()
    own = open_trace(recorded(q, k, [2, 3, 5], detail=detail, kind=kind))
    assert np.flatnonzero(words.word_tokens(own, "disc")).tolist() == [1]
    made = maps.daam(own, "red disc").compute()
    expected = shares(q, k, "g2r")[0][..., 2:4].mean(-1).sum((0, 1, 2))
    np.testing.assert_allclose(made[0], expected.reshape(GRID), rtol=3e-3)
    assert made.attrs["partial"] is True
    with pytest.raises(NotRecordedError, match="keeps a part of its keys, and none of word 'and'; record with"):
        maps.daam(own, "and")


def test_a_trace_says_that_keys_are_missing():
    q, k = vectors()
    assert "full, dense, a part of the keys" in repr(open_trace(recorded(q, k, [1])))


@pytest.mark.parametrize("kind", ["text", "joint"])
@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_simulated_partial_stores_are_the_whole_ones_restricted(kind, direction):
    whole, part = (open_trace(simulate_store(runs=1, kinds=(kind,), partial=partial)) for partial in (False, True))
    kept = slice(1, 8) if kind == "text" else slice(0, 10)
    full = whole.attention(kind, direction).compute()[..., kept]
    np.testing.assert_allclose(part.attention(kind, direction).compute(), full, rtol=1.6e-2, atol=1e-7)
    np.testing.assert_allclose(maps.daam(part, "cross").compute(), maps.daam(whole, "cross").compute(), rtol=5e-3)


# Masked keys ------------------------------------------------------------------------------------------------


def masked(kind, encoding):
    return simulate_store(kinds=(kind,), runs=1, masked=True, encoding={kind: encoding})


def seen(store, direction):
    """Attention (branch, t, layer, head, query, key) from Q and K without their mask: a masked key has no share."""
    (name,) = store.leaves
    leaf = store.leaves[name]
    q = store.group[f"{name}/query_vectors"][0].astype("f8")
    k = store.group[f"{name}/key_vectors"][0].astype("f8")
    k = k if leaf.keys_vary else k[:, None]
    k = np.broadcast_to(k, (*q.shape[:4], *k.shape[-2:]))
    assert (q[..., -1] == 1).all()
    out = np.zeros((*q.shape[:5], k.shape[-2]))
    for branch in range(len(out)):
        there = k[branch, 0, 0, 0, :, -1] == 0
        assert not there.all()
        out[branch][..., there] = shares(q[branch][..., :-1], k[branch][..., there, :-1], direction)
    return out


@pytest.mark.parametrize("kind", ["text", "joint"])
@pytest.mark.parametrize("encoding", ["factors", "dense"])
@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_masked_keys_have_no_share_in_either_direction(kind, encoding, direction):
    expected = seen(masked(kind, "both"), direction)
    own = open_trace(masked(kind, encoding))
    made = own.attention(kind, direction).compute()
    np.testing.assert_allclose(made[0], expected, rtol=1.6e-2, atol=1e-7)
    assert (made.values[0][expected == 0] == 0).all()
    summed = expected[1].sum((0, 1, 2))
    for onto, axis in (("key", 0), ("query", 1)):
        options = {"kind": kind, "onto": onto, "keys": None if kind == "text" or onto == "query" else "generated"}
        mean = maps.aggregate(own, direction, source="full", **options).compute()
        wanted = summed.mean(axis) if onto == "query" or kind == "text" else summed.mean(axis)[12:]
        np.testing.assert_allclose(mean.values.ravel(), wanted, rtol=5e-3, atol=1e-6)
        if (direction, onto) in (("g2r", "key"), ("r2g", "query")):
            stored = maps.aggregate(own, direction, source="summary", **options).compute()
            np.testing.assert_allclose(stored, mean, rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("encoding", ["factors", "dense"])
def test_summaries_and_word_maps_of_masked_leaves(encoding):
    own = open_trace(masked("joint", encoding))
    made = attention.recomputed_summaries(own, "joint")
    for name in ("g2r", "r2g"):
        assert made[name].notnull().all()
        np.testing.assert_allclose(made[name].compute(), own.dataset("joint/4x4")[name].compute(), rtol=5e-3, atol=1e-7)
    expected = seen(masked("joint", "both"), "g2r")[1].sum((0, 1, 2))
    np.testing.assert_allclose(maps.daam(own, "disc").values.ravel(), expected[:, 3], rtol=5e-3)


def test_absent_places_are_no_keys_of_the_text():
    store = masked("joint", "both")
    own = open_trace(store)
    made = maps.aggregate(own, "g2r", onto="query", keys="text").compute()
    # 12 places: begin, 7 words, end, padding that is masked, and two that no run fills.
    expected = seen(store, "g2r")[1].sum((0, 1, 2))[:, :10].mean(-1)
    np.testing.assert_allclose(made.values.ravel(), expected, rtol=5e-3)
    assert own.dataset("joint/4x4")["token_segment"].values[0, 1, 9:13].tolist() == ["pad", "absent", "absent", ""]

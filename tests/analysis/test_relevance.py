"""Head relevance against plain numpy from Q, W_k and embeddings."""

import zlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr

from attlas.analysis import heads, open_trace
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError

CONCEPTS = {"animal": ["cat", "puppy"], "colour": "red", "other": ["blue", "dog"]}


def drawn(seed, run, layer, calls):
    """The word of each concept, call by call; part of the contract, so that counts can be made in pieces."""
    numbers = [zlib.crc32(name.encode()) for name in (run, layer)]
    lists = [[words] if isinstance(words, str) else words for words in CONCEPTS.values()]
    chosen = np.random.default_rng([seed, *numbers]).integers([len(own) for own in lists], size=(calls, len(lists)))
    return [[own[place] for own, place in zip(lists, row, strict=True)] for row in chosen]


def shares(worded, tools, leaf, row, call, layer, texts, weights=None):
    """Share (head, concept) of the concepts' words, given as a list of words for each."""
    q = worded.vectors[leaf, row][0][1, call, layer]
    keys = [worded.keys(leaf, word)[layer] for words in texts for word in words]
    sizes = [[own.shape[-2] - 2 for own in [worded.keys(leaf, w)[layer] for w in words]] for words in texts]
    side_by_side = np.concatenate([keys[0][:, :1], *[own[:, 1:-1] for own in keys]], 1)
    a = tools.softmax(q @ np.swapaxes(side_by_side, -1, -2), -1)
    mean = np.average(a, axis=-2, weights=weights)[:, 1:]
    ends = np.cumsum([0, *[sum(own) for own in sizes]])
    return np.stack([mean[:, a:b].mean(-1) for a, b in pairwise(ends)], -1)


def counted(worded, tools, row, seed=0):
    """Counts by (layer, head) of one run as published."""
    made = {}
    for leaf, geometry in worded.store.leaves.items():
        for layer, path in enumerate(geometry.layers):
            words = drawn(seed, f"run{row}", path, 3)
            for head in range(geometry.heads):
                made[path, head] = np.zeros(3)
            for call in range(3):
                texts = [[word] for word in words[call]]
                won = shares(worded, tools, leaf, row, call, layer, texts).argmax(-1)
                for head, concept in enumerate(won):
                    made[path, head][concept] += 1
    return made


def test_counts_of_the_largest_share(worded, tools, computes):
    with computes(0):
        made = heads.answers(worded.trace, CONCEPTS)
    assert made.dims == ("run", "concept", "layer", "head")
    assert made.dtype == np.float32
    assert made.sizes == {"run": 3, "concept": 3, "layer": 3, "head": 3}
    with computes(1):
        made = made.compute()
    for row in range(3):
        for (layer, head), expected in counted(worded, tools, row).items():
            np.testing.assert_array_equal(made.isel(run=row).sel(layer=layer, head=head), expected)
    lacking = made.sel(head=2, layer=["text4.0.attn", "text4.1.attn"])
    assert np.isnan(lacking).all()


def test_counts_do_not_depend_on_what_else_is_counted_and_add_over_runs(worded):
    whole = heads.answers(worded.trace, CONCEPTS, seed=3).compute()
    part = heads.answers(worded.trace.sel(["run1"]), CONCEPTS, seed=3, layers="2x2", steps=[1, 2]).compute()
    first = heads.answers(worded.trace, CONCEPTS, seed=3, layers="2x2", steps=0).compute()
    np.testing.assert_array_equal(part.isel(run=0) + first.sel(run="run1"), whole.sel(run="run1", layer=part["layer"]))
    by_run = [heads.answers(worded.trace.isel([row]), CONCEPTS, seed=3).sum("run", min_count=1) for row in range(3)]
    np.testing.assert_allclose(heads.relevance(worded.trace, CONCEPTS, seed=3), heads.vectors(sum(by_run)), rtol=1e-6)


def test_shares_of_all_words_at_once(worded, tools):
    mask = np.zeros((4, 4))
    mask[:2, 1:] = 1
    made = heads.answers(worded.trace, CONCEPTS, tally="share", draw="all", layers="4x4", queries=mask).compute()
    texts = [["cat", "puppy"], ["red"], ["blue", "dog"]]
    for layer in range(2):
        own = [shares(worded, tools, "text/4x4", 2, call, layer, texts, mask.ravel()) for call in range(3)]
        np.testing.assert_allclose(made.isel(run=2, layer=layer).T, np.mean(own, 0), rtol=1e-5)


def test_both_normalisations(worded):
    by_head = heads.relevance(worded.trace, CONCEPTS, normalise="head").compute()
    held = by_head.notnull().all("concept")
    assert int(held.sum()) == 7
    np.testing.assert_allclose(by_head.sum("concept").where(held).values[held.values], 1, rtol=1e-6)
    by_concept = heads.relevance(worded.trace, CONCEPTS).compute()
    np.testing.assert_allclose(by_concept.sum(("layer", "head")), 7, rtol=1e-6)
    # A concept's row is the heads' distribution up to a factor, so that both rank heads alike.
    for concept in CONCEPTS:
        assert heads.rank(by_head.sel(concept=concept)) == heads.rank(by_concept.sel(concept=concept))


def test_a_concept_that_no_head_answers():
    counts = xr.DataArray([[[4.0, 2.0]], [[0.0, 2.0]], [[0.0, 0.0]]], dims=("concept", "layer", "head"))
    np.testing.assert_allclose(heads.vectors(counts), [[[4 / 3, 2 / 3]], [[0, 2]], [[np.nan, np.nan]]], rtol=1e-6)


def test_contrast_is_what_changes_where_the_prompt_names_the_concept(worded):
    concepts = {"cat": "cat", "red": "red", "dog": "dog"}
    found = heads.answers(worded.trace, concepts, tally="share").values
    made = heads.contrast(worded.trace, concepts).compute()
    told = {"cat": [0], "red": [0, 2], "dog": [1, 2]}
    for place, (concept, rows) in enumerate(told.items()):
        others = [row for row in range(3) if row not in rows]
        own = found[:, place]
        expected = (own[rows].mean(0) - own[others].mean(0)) / own.std(0)
        np.testing.assert_allclose(made.sel(concept=concept), expected, rtol=1e-4, atol=1e-5)
    never = heads.contrast(worded.trace, {"a": "puppy", "b": ["red", "dog"]}).compute()
    assert np.isnan(never).all()  # no prompt has a puppy, and all have red or dog


def test_bad_concepts(worded, tools):
    trace = worded.trace
    with pytest.raises(InvalidValueError, match="1 concepts; heads answer one of at least two"):
        heads.answers(trace, {"a": "cat"})
    with pytest.raises(InvalidValueError, match="concept 'b' has no word"):
        heads.answers(trace, {"a": "cat", "b": []})
    with pytest.raises(
        UnknownNameError, match=r"unknown word 'cart' in the vocabulary of .*Capture\(vocabulary=.*did you mean 'cat'"
    ):
        heads.answers(trace, {"a": "cart", "b": "dog"})
    with pytest.raises(UnknownNameError, match="unknown tally 'votes'"):
        heads.answers(trace, CONCEPTS, tally="votes")
    with pytest.raises(UnknownNameError, match="unknown branch 'con'"):
        heads.answers(trace, CONCEPTS, branch="con")
    plain, _ = tools.make_store((tools.leaf_of("text", (2, 2)),), runs=1)
    with pytest.raises(NotRecordedError, match=r"has no vocabulary; record with Capture\(vocabulary="):
        heads.answers(open_trace(plain), CONCEPTS)


def without_queries(tools):
    leaf = replace(tools.leaf_of("text", (2, 2), encoding="dense"), features=5)
    store, _ = tools.make_store((leaf,), runs=1)
    return store


def test_a_leaf_without_queries(tools):
    store = without_queries(tools)
    tools.add_vocabulary(store, {"cat": ["cat"], "red": ["red"]})
    with pytest.raises(NotRecordedError, match="leaf text/2x2 lacks query_vectors, from which the answers"):
        heads.answers(open_trace(store), {"a": "cat", "b": "red"})

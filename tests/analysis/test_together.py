"""Maps in one pass: the same numbers as each by itself, every shard read once."""

from collections import Counter

import dask
import numpy as np
import pytest
import xarray as xr

from attlas.analysis import maps, open_trace
from attlas.analysis.blockwise.attention import recomputed_summaries
from attlas.analysis.blockwise.matrices import Factors, LogAttention
from attlas.analysis.reading import ShardReader
from attlas.schemas import simulate_store
from attlas.schemas.errors import InvalidValueError

FULL = {"source": "full"}


@pytest.fixture
def reads(monkeypatch):
    """How often each chunk of a full array was read."""
    seen = Counter()
    read = ShardReader.__getitem__

    def counted(self, key):
        if self.array.basename in ("query_vectors", "key_vectors", "log_attention", "logsumexp"):
            seen[self.array.path, self.runs.rows, self.branch, str(key)] += 1
        return read(self, key)

    monkeypatch.setattr(ShardReader, "__getitem__", counted)
    return seen


def several(trace):
    """Both directions, onto either axis, weighted, of some layers, heads and steps, other axes kept."""
    half = np.zeros((4, 4), bool)
    half[:2] = True
    return {
        "g2r": maps.ulam(trace, "g2r", kind="image", **FULL),
        "r2g": maps.ulam(trace, "r2g", kind="image", **FULL),
        "sram": maps.sram(trace, (1, 2), kind="image", **FULL),
        "reverse": maps.reverse_sram(trace, (1, 2), kind="image"),
        "steps": maps.ulam(trace, "g2r", kind="image", steps=[0, 2], **FULL),
        "tlam": maps.tlam(trace, "r2g", kind="image", layers="4x4", **FULL),
        "llam": maps.llam(trace, "r2g", kind="image", heads=[1], **FULL),
        "onto": maps.aggregate(trace, "g2r", onto="query", kind="image", keys="reference", **FULL),
        "away": maps.aggregate(trace, "r2g", onto="key", kind="image", queries=half, **FULL),
    }


def test_the_same_numbers_as_apart_and_as_numpy(mixed, tools, computes):
    apart = several(mixed.trace)
    with computes(0):
        joined = maps.together(apart)
    assert list(joined) == list(apart)
    (read,) = dask.compute(joined)
    for name, made in apart.items():
        assert read[name].dims == made.dims
        assert read[name].attrs == made.attrs
        xr.testing.assert_allclose(read[name], made.compute(), rtol=1e-6, atol=1e-7)
    for row in range(2):
        total = np.zeros((4, 4))
        q, k = (own[1] for own in mixed.vectors["image/4x4", row])
        for t in range(3):
            for layer in range(2):
                for head in range(2):
                    attention = tools.softmax(q[t, layer, head] @ k[t, layer, head].T, 0)
                    total += attention.mean(1).reshape(4, 4) if head == 1 else 0
        made = read["llam"].sel(layer=["image4.0.attn", "image4.1.attn"]).sum("layer")[row]
        np.testing.assert_allclose(made, total, rtol=1e-5)


@pytest.fixture
def logits(monkeypatch):
    """How many matrices of logits were computed."""
    counted = Counter()
    for source in (Factors, LogAttention):
        tile = source.tile

        def count(self, cut, out, tile=tile):
            counted["made"] += self.count
            return tile(self, cut, out)

        monkeypatch.setattr(source, "tile", count)
    return counted


def test_every_shard_is_read_once_and_its_logits_are_made_once(mixed, reads, logits):
    dask.compute(maps.together(several(mixed.trace)))
    assert reads
    assert set(reads.values()) == {1}
    # 2 runs, 3 calls, 2 heads; two layers of one leaf, one of the other.
    assert logits["made"] == 2 * 3 * 2 * 3


def test_apart_every_map_makes_its_own_logits(mixed, logits):
    apart = several(mixed.trace)
    dask.compute({name: apart[name] for name in ("g2r", "r2g")})
    assert logits["made"] == 2 * 2 * 3 * 2 * 3


def test_what_was_made_of_maps_is_shared_too(mixed, reads):
    apart = {d: maps.ulam(mixed.trace, d, kind="self", **FULL) for d in ("g2r", "r2g")}
    made = {
        "share": apart["g2r"] / apart["g2r"].sum(("key_y", "key_x")),
        "both": xr.Dataset({"a": apart["r2g"], "b": apart["r2g"] * 2}),
        "number": 3,
        "read": apart["g2r"].compute(),
    }
    reads.clear()
    (joined,) = dask.compute(maps.together(made))
    assert set(reads.values()) == {1}
    xr.testing.assert_allclose(joined["share"], made["share"].compute(), rtol=1e-6)
    xr.testing.assert_allclose(joined["both"], made["both"].compute(), rtol=1e-6)
    assert joined["number"] == 3
    assert joined["read"] is made["read"]


def test_a_summary_stays_a_summary(mixed):
    made = {"r2g": maps.ulam(mixed.trace, "r2g", kind="image"), "llam": maps.llam(mixed.trace, "r2g", kind="image")}
    joined = maps.together(made)
    assert all(joined[name] is made[name] for name in made)


def test_runs_branches_and_leaves_are_not_mixed(mixed):
    trace = mixed.trace
    apart = {
        "one": maps.ulam(trace.sel("run0"), "r2g", kind="image", **FULL),
        "other": maps.ulam(trace.sel("run1"), "r2g", kind="image", **FULL),
        "uncond": maps.ulam(trace, "r2g", kind="image", branch="uncond", **FULL),
        "text": maps.ulam(trace, "r2g", kind="text", **FULL),
        "weighted": maps.aggregate(trace.sel("run0"), "r2g", kind="image", keys="cls"),
    }
    joined = maps.together(apart)
    (read,) = dask.compute(joined)
    for name, made in apart.items():
        xr.testing.assert_allclose(read[name], made.compute(), rtol=1e-6)


def test_words_of_a_dense_leaf_share_their_attention(reads):
    trace = open_trace(simulate_store(runs=2, kinds=("text",)))
    # Calls apart are not in the summary.
    apart = {word: maps.daam(trace, word, keep="t") for word in ("disc", "cross")}
    reads.clear()
    (read,) = dask.compute(maps.together(apart))
    assert set(reads.values()) == {1}
    for word, made in apart.items():
        xr.testing.assert_allclose(read[word], made.compute(), rtol=1e-6)


def test_twice_is_as_once(mixed):
    apart = several(mixed.trace)
    (once,) = dask.compute(maps.together(apart))
    (twice,) = dask.compute(maps.together(maps.together(apart)))
    for name in apart:
        xr.testing.assert_identical(once[name], twice[name])


def test_both_summaries_are_one_pass(mixed, reads):
    made = recomputed_summaries(mixed.trace, "image", "4x4")
    reads.clear()
    dask.compute(made)
    assert set(reads.values()) == {1}


@pytest.mark.parametrize("wrong", [[1, 2], "g2r"])
def test_maps_need_names(wrong):
    with pytest.raises(InvalidValueError, match=r"together takes lazy maps by name, such as .*; got (list|str)"):
        maps.together(wrong)

"""DAAM maps of words of several tokens against plain numpy, and torch's own bicubic kernel."""

import numpy as np
import pytest
import torch
import xarray as xr

from attlas.analysis import maps, open_trace
from attlas.analysis.papers.span_maps import span_map, span_maps
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError

PROMPT = "a triangle, triangle"
TOKENS = [("a", 0, 1), ("tri", 2, 5), ("angle", 5, 10), (",", 10, 11), ("triangle", 12, 20)]
FIRST, SECOND, WORDS = (2, 3), (5,), (1, 2, 3, 4, 5)
SHARP = 4.0


@pytest.fixture(scope="module")
def made(tools):
    leaves = (tools.leaf_of("text", (4, 4), keys=8, layers=2), tools.leaf_of("text", (2, 2), keys=8, heads=3))
    store, vectors = tools.make_store(
        leaves, prompts=[PROMPT, "no shape"], tokens=TOKENS, spread=SHARP, calls=2, image=(8, 8)
    )
    return open_trace(store), vectors


def attention(vectors, tools, name):
    q, k = vectors[name, 0]
    return tools.softmax(q[1] @ np.swapaxes(k[1], -1, -2), -1)  # (t, layer, head, query, key) of the branch cond


def paper_token(vectors, tools, key):
    """Eq. 6 and 7: every value spread over c x c cells as a share 1/c^2, everything summed."""
    total = np.zeros((4, 4))
    for name, size in (("text/4x4", 4), ("text/2x2", 2)):
        scale = 4 // size
        summed = attention(vectors, tools, name)[..., key].sum((0, 1, 2)).reshape(size, size)
        total += np.kron(summed, np.ones((scale, scale))) / scale**2
    return total


def released_parts(vectors, tools, keys):
    """Map of each layer and head before clamping, brought to 4x4 by torch; the mean of `keys`."""
    parts = []
    for name, size in (("text/4x4", 4), ("text/2x2", 2)):
        summed = attention(vectors, tools, name)[..., list(keys)].mean(-1).sum(0)
        for one in summed.reshape(-1, size, size):
            image = torch.from_numpy(one)[None, None]
            parts.append(
                torch.nn.functional.interpolate(image, (4, 4), mode="bicubic", align_corners=False)[0, 0].numpy()
            )
    return np.stack(parts)


def released_token(vectors, tools, key):
    return np.maximum(released_parts(vectors, tools, [key]), 0).mean(0)


TOKEN = {"paper": paper_token, "released": released_token}


def expected(vectors, tools, variant, keys, how):
    return how(np.stack([TOKEN[variant](vectors, tools, key) for key in keys]), axis=0)


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize(("merge", "how"), [("mean", np.mean), ("sum", np.sum), ("max", np.max)])
def test_tokens_of_a_word_become_one_map(made, tools, variant, merge, how):
    trace, vectors = made
    options = {"variant": variant, "merge": merge, "source": "full"}
    for occurrence, keys in ((None, FIRST + SECOND), (0, FIRST), (1, SECOND)):
        got = maps.daam(trace, "triangle", occurrence=occurrence, **options)
        wanted = expected(vectors, tools, variant, keys, how)
        np.testing.assert_allclose(got.values[0], wanted, rtol=2e-5, atol=1e-6)
        assert np.isnan(got.values[1]).all()
    assert got.attrs["variant"] == variant
    assert got.attrs["merge"] == merge
    assert got.attrs["chosen_keys"] == "triangle"


def test_the_released_code_clamps_each_token(made, tools):
    trace, vectors = made
    got = maps.daam(trace, "triangle", variant="released", source="full").values[0]
    together = np.maximum(released_parts(vectors, tools, FIRST + SECOND), 0).mean(0)
    assert np.abs(got - together).max() > 1e-3


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_share_of_what_words_get(made, tools, variant):
    trace, vectors = made
    got = maps.daam(trace, "triangle", variant=variant, normalize=True, source="full").values[0]
    every = expected(vectors, tools, variant, WORDS, np.sum)
    wanted = expected(vectors, tools, variant, FIRST + SECOND, np.mean) / (every + 1e-6)
    np.testing.assert_allclose(got, wanted, rtol=5e-5)
    plain = maps.daam(trace, "triangle", variant=variant, source="full").values[0]
    assert np.ptp(plain / got) > 0.01 * np.mean(plain / got)


def test_the_papers_map_keeps_the_mass_of_every_layer(made, tools):
    trace, vectors = made
    got = maps.daam(trace, "a", source="full").values[0].sum(dtype=np.float64)
    mass = sum(attention(vectors, tools, name)[..., 1].sum() for name in ("text/4x4", "text/2x2"))
    assert got == pytest.approx(mass, rel=1e-5)


def test_a_single_step_counts_as_one_call(made, tools):
    trace, vectors = made
    got = maps.daam(trace, ",", variant="released", steps=[1], source="full").values[0]
    parts = []
    for name, size in (("text/4x4", 4), ("text/2x2", 2)):
        for one in attention(vectors, tools, name)[1, ..., 4].reshape(-1, size, size):
            image = torch.from_numpy(one)[None, None]
            shown = torch.nn.functional.interpolate(image, (4, 4), mode="bicubic", align_corners=False)
            parts.append(np.maximum(shown[0, 0].numpy(), 0))
    np.testing.assert_allclose(got, np.mean(parts, 0), rtol=2e-5, atol=1e-6)


def test_several_words_at_once_are_the_words_one_by_one(made):
    trace, _ = made
    words = [[[(2, 10)], [(12, 20)], [(0, 1)]], [[(0, 1)]]]
    together = span_maps(trace, words, variant="released")
    assert together.dims == ("run", "word", "query_y", "query_x")
    for place, own in enumerate(words[0]):
        alone = span_map(trace, [own, words[1][place] if place < 1 else []], variant="released")
        np.testing.assert_array_equal(together.isel(word=place).values, alone.values)
    assert np.isnan(together.values[1, 1:]).all()
    with pytest.raises(InvalidValueError, match="no run of the store in memory has a word to map"):
        span_maps(trace, [[], []])


def test_nothing_is_computed_before_it_is_asked(made, computes):
    trace, _ = made
    with computes(0):
        lazy = [
            maps.daam(trace, "triangle", variant="released", merge="max", normalize=True),
            maps.hard(maps.daam(trace, "a")),
        ]
    with computes(2):
        assert all(np.isfinite(own.compute().values[0]).all() for own in lazy)


def test_bad_choices(made):
    trace, _ = made
    with pytest.raises(UnknownNameError, match="unknown merge 'median'; accepted: 'mean', 'sum', 'max'|did you mean"):
        maps.daam(trace, "a", merge="median")
    with pytest.raises(
        UnknownNameError, match="unknown word 'ring' in the prompts of .*accepted: 'a', 'triangle', 'no'"
    ):
        maps.daam(trace, "ring")
    with pytest.raises(UnknownNameError, match="unknown variant 'papr'"):
        maps.hard(xr.DataArray(np.ones((2, 2)), dims=("y", "x")), variant="papr")


def test_hard_maps_by_both_rules_and_by_hand():
    values = xr.DataArray([[0.2, 0.4], [0.5, 1.0]], dims=("y", "x"))
    # 0.4 of the maximum is 0.4; of the range 0.2 + 0.4 * 0.8 = 0.52.
    assert maps.hard(values).values.tolist() == [[0, 1], [1, 1]]
    assert maps.hard(values, variant="released").values.tolist() == [[0, 0], [0, 1]]
    assert maps.hard(values, 0.4, rule="absolute").values.tolist() == [[0, 0], [1, 1]]
    assert maps.hard(values, 7.5, rule="absolute").values.sum() == 0
    assert maps.hard(values, grid=(4, 4)).values[:2, :2].tolist() == [[0, 0], [0, 0]]
    with pytest.raises(InvalidValueError, match=r"threshold 1\.5 is out of range; 0 to 1"):
        maps.hard(values, 1.5)


def test_layers_of_the_released_code(tools):
    leaves = (
        tools.leaf_of("text", (8, 8), keys=4, name="down"),
        tools.leaf_of("text", (2, 2), keys=4, name="mid_block"),
        tools.leaf_of("text", (1, 1), keys=4, name="deep"),
    )
    store, _ = tools.make_store(leaves, runs=1, prompts=["cat"])
    assert maps.released_layers(open_trace(store)) == ["text8down.0.attn"]
    got = maps.daam(open_trace(store), "cat", layers=maps.released_layers(open_trace(store)))
    assert got.attrs["layers"] == "text8down.0.attn"
    middle, _ = tools.make_store((tools.leaf_of("text", (2, 2), keys=4, name="mid_block"),), runs=1, prompts=["cat"])
    with pytest.raises(NotRecordedError, match="no layer of kind 'text' outside the middle block"):
        maps.released_layers(open_trace(middle))

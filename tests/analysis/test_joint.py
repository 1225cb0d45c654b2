"""Joint sequences: text, generated picture and references on one key axis, against numpy on Q and K as stored."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attlas.analysis import maps, metrics, open_trace, words
from attlas.schemas import Leaf, simulate_store
from attlas.schemas.errors import InvalidValueError, UnknownNameError

PARTS = {"text": slice(0, 10), "generated": slice(10, 26), "reference": slice(26, 42)}
"""Keys of the simulated joint leaf: 10 of the text, 16 of the picture, 16 of each reference."""

HALF = 1.6e-2
"""ln of the attention in float16 has steps of 2^-7 between 8 and 16, where small shares lie."""


def simulated(references=1, encoding="both", **options):
    return simulate_store(kinds=("joint",), references=references, encoding={"joint": encoding}, **options)


def shares(store, direction, branch=1):
    """Attention of the only leaf in float64, (run, t, layer, head, query, key), from the stored factors."""
    (name,) = store.leaves
    q, k = (store.group[f"{name}/{array}"][:, branch].astype("f8") for array in ("query_vectors", "key_vectors"))
    e = np.exp(q @ np.swapaxes(k, -1, -2))
    return e / e.sum(-1 if direction == "g2r" else -2, keepdims=True)


@pytest.fixture(scope="module")
def store():
    return simulated()


@pytest.fixture(scope="module")
def trace(store):
    return open_trace(store)


@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_attention_is_the_softmax_over_the_whole_sequence(store, trace, direction):
    made = trace.attention("joint", direction)
    assert made.attrs["partial"] is False
    np.testing.assert_allclose(made.sel(branch="cond").compute(), shares(store, direction), rtol=HALF, atol=1e-7)
    segments = made["key_segment"].values
    assert [segments[0], segments[10], segments[26]] == ["text", "generated", "reference"]
    assert made["token"].sel(run="0000", branch="cond").values[:4].tolist() == ["<|startoftext|>", "a", "red", "disc"]
    assert made["token"].sel(run="0000", branch="cond").values[10] == ""
    assert made["key_picture"].values[[0, 10, 26]].tolist() == [-1, -1, 0]


@pytest.mark.parametrize("segment", ["text", "generated", "reference"])
@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_maps_of_a_segment(store, trace, direction, segment):
    full = shares(store, direction).sum((1, 2, 3))
    onto_queries = maps.aggregate(trace, direction, onto="query", keys=segment, source="full").compute()
    expected = full[..., PARTS[segment]].mean(-1)
    np.testing.assert_allclose(onto_queries, expected.reshape(2, 4, 4), rtol=HALF)
    onto_keys = maps.aggregate(trace, direction, onto="key", keys=segment, source="full").compute()
    expected = full.mean(1)[:, PARTS[segment]]
    if segment == "text":
        assert onto_keys.dims == ("run", "key")
        assert onto_keys["token"].values[0, :3].tolist() == ["<|startoftext|>", "a", "red"]
        np.testing.assert_allclose(onto_keys, expected, rtol=HALF)
    else:
        assert onto_keys.dims == ("run", "key_y", "key_x")
        np.testing.assert_allclose(onto_keys, expected.reshape(2, 4, 4), rtol=HALF)
    assert onto_keys.attrs["chosen_keys"] == onto_keys.attrs["segment"] == segment


@pytest.mark.parametrize("encoding", ["dense", "factors"])
@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_the_papers_maps_from_summary_and_full_and_either_encoding(store, encoding, direction):
    own = open_trace(simulated(encoding=encoding))
    options = {"keys": "reference"} if direction == "g2r" else {}
    unified = maps.ulam(own, direction, source="summary", **options).compute()
    assert unified.attrs["source"] == direction
    full = maps.ulam(own, direction, source="full", **options).compute()
    np.testing.assert_allclose(full, unified, rtol=HALF)
    for parts, dim in ((maps.tlam, "t"), (maps.hlam, "head"), (maps.llam, "layer")):
        np.testing.assert_allclose(parts(own, direction, **options).sum(dim).compute(), unified, rtol=1e-5)
    whole = shares(store, direction).sum((1, 2, 3))
    expected = whole.mean(1)[:, PARTS["reference"]] if direction == "g2r" else whole.mean(2)
    np.testing.assert_allclose(unified, expected.reshape(2, 4, 4), rtol=1e-4)


def test_segment_alone_is_keys_alone(trace):
    by_keys = maps.ulam(trace, "r2g", keys="reference", source="full").compute()
    by_segment = maps.ulam(trace, "r2g", segment="reference", source="full").compute()
    by_picture = maps.ulam(trace, "r2g", picture=0, source="full").compute()
    np.testing.assert_array_equal(by_segment, by_keys)
    np.testing.assert_array_equal(by_picture, by_keys)


@pytest.mark.parametrize("segment", ["generated", "reference"])
def test_sram_and_its_reverse_on_either_part(store, trace, segment):
    made = maps.sram(trace, (2, 1), keys=segment).compute()
    expected = shares(store, "g2r")[:, :, :, :, 9, PARTS[segment]].sum((1, 3))
    np.testing.assert_allclose(made, expected.reshape(2, 2, 4, 4), rtol=HALF, atol=1e-5)
    back = maps.reverse_sram(trace, (2, 1), keys=segment).compute()
    expected = shares(store, "r2g")[..., PARTS[segment]][..., 9].sum((1, 3))
    np.testing.assert_allclose(back, expected.reshape(2, 2, 4, 4), rtol=HALF, atol=1e-5)
    assert back.attrs["chosen_keys"] == "patch (2, 1)"


def test_queries_look_at_the_mirrored_place_of_the_reference(trace):
    for row in range(4):
        for column in range(4):
            found = metrics.peak(maps.sram(trace, (row, column), keep=(), keys="reference"))
            assert found.values.tolist() == [[row, 3 - column]] * 2


def test_without_a_reference_the_generated_picture_is_meant():
    store = simulated(references=0, runs=1)
    made = maps.sram(open_trace(store), (2, 1), keep=()).compute()
    expected = shares(store, "g2r")[..., 9, PARTS["generated"]].sum((1, 2, 3))
    np.testing.assert_allclose(made, expected.reshape(1, 4, 4), rtol=HALF, atol=1e-5)


@pytest.mark.parametrize("encoding", ["dense", "factors", "both"])
def test_word_maps_of_a_joint_sequence(store, encoding):
    own = open_trace(simulated(encoding=encoding))
    assert words.text_kind(own) == "joint"
    found = words.word_tokens(own, "blue cross")
    assert found.sizes["key"] == 42
    assert np.flatnonzero(found.values[0, 0]).tolist() == [6, 7]
    made = maps.daam(own, "blue cross").compute()
    assert made.attrs["kind"] == "joint"
    expected = shares(store, "g2r")[..., 6:8].mean(-1).sum((1, 2, 3))
    np.testing.assert_allclose(made, expected.reshape(2, 4, 4), rtol=HALF)
    by_call = maps.daam(own, "blue cross", keep="t").compute()
    np.testing.assert_allclose(by_call.sum("t"), made, rtol=HALF)


def test_text_is_preferred_to_joint():
    own = open_trace(simulate_store(kinds=("joint", "text"), runs=1))
    assert maps.daam(own, "disc").attrs["kind"] == "text"
    made = maps.daam(own, "disc", kind="joint").compute()
    alone = maps.daam(own, "disc", kind="joint", source="full").compute()
    np.testing.assert_allclose(made, alone, rtol=HALF)


def test_leaves_whose_keys_differ_each_find_the_word(tools):
    # Attention with added keys: the text behind the picture's own tokens, whose number differs from grid to grid.
    leaves = []
    for side in (4, 2):
        rows, columns = (axis.ravel().tolist() for axis in np.indices((side, side)))
        segments = ("generated",) * side**2 + ("text",) * 6
        places = ((*rows, *[-1] * 6), (*columns, *[-1] * 6))
        path = (f"blocks.{side}",)
        leaves.append(Leaf("joint", (side, side), 2, 4, path, len(segments), segments, *places, encoding="dense"))
    store, vectors = tools.make_store(leaves, runs=1, prompts=["a disc"])
    own = open_trace(store)
    found = words.word_keys(own, "disc")
    assert {name: np.flatnonzero(keys.values).tolist() for name, keys in found.items()} == {
        "joint/4x4": [18],
        "joint/2x2": [6],
    }
    made = maps.daam(own, "disc", variant="paper").compute()
    parts = []
    for name, side, key in (("joint/4x4", 4, 18), ("joint/2x2", 2, 6)):
        q, k = vectors[name, 0]
        share = tools.softmax(q[1] @ np.swapaxes(k[1], -1, -2), -1)[..., key].sum((0, 1, 2))
        parts.append(share.reshape(side, side))
    # The coarse map is spread over four cells each (DAAM eq. 6).
    np.testing.assert_allclose(made[0], parts[0] + parts[1].repeat(2, 0).repeat(2, 1) / 4, rtol=5e-3)


def test_two_references_are_told_apart():
    store = simulated(references=2, runs=1)
    own = open_trace(store)
    with pytest.raises(InvalidValueError, match="the reference keys of joint/4x4 are of several pictures, 0 and 1"):
        maps.sram(own, (1, 1), keys="reference")
    with pytest.raises(UnknownNameError, match="unknown picture '2' in kind 'joint'.*accepted: '0', '1'"):
        maps.sram(own, (1, 1), keys="reference", picture=2)
    full = shares(store, "g2r").sum((1, 2, 3))
    for picture in (0, 1):
        start = 26 + 16 * picture
        made = maps.sram(own, (1, 1), keep=(), keys="reference", picture=picture).compute()
        np.testing.assert_allclose(made, full[:, 5, start : start + 16].reshape(1, 4, 4), rtol=HALF, atol=1e-5)
        towards = maps.aggregate(own, "g2r", onto="query", keys="reference", picture=picture).compute()
        np.testing.assert_allclose(towards, full[..., start : start + 16].mean(-1).reshape(1, 4, 4), rtol=HALF)
        assert towards.attrs["picture"] == picture
    both = maps.aggregate(own, "g2r", onto="query", keys="reference").compute()
    np.testing.assert_allclose(both, full[..., 26:].mean(-1).reshape(1, 4, 4), rtol=HALF)


def test_what_is_not_chosen_is_named(trace):
    with pytest.raises(InvalidValueError, match="of several parts, 'generated' and 'reference'; choose one by keys="):
        maps.ulam(trace, "g2r")
    with pytest.raises(UnknownNameError, match="unknown segment 'text ' in kind 'joint'; did you mean 'text'"):
        maps.ulam(trace, "g2r", segment="text ")
    with pytest.raises(InvalidValueError, match="keys='text' lie in segment 'text', not in segment='reference'"):
        maps.ulam(trace, "g2r", keys="text", segment="reference")
    with pytest.raises(UnknownNameError, match="unknown key segment 'words' in leaf joint/4x4"):
        maps.ulam(trace, "g2r", keys="words")
    with pytest.raises(InvalidValueError, match="are tokens, which have no grid; drop grid="):
        maps.ulam(trace, "g2r", keys="text", grid="8x8")


def test_token_segments_of_the_text_part(store, trace):
    made = maps.ulam(trace, "g2r", keys="word", source="full").compute()
    assert made.sizes["key"] == 10
    expected = shares(store, "g2r").sum((1, 2, 3)).mean(1)[:, :10]
    expected[:, [0, 8, 9]] = 0
    np.testing.assert_allclose(made, expected, rtol=HALF)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    weights=st.lists(st.integers(0, 3), min_size=16, max_size=16).filter(any),
    part=st.sampled_from(["generated", "reference"]),
)
def test_masks_of_a_part_weigh_its_keys_alone(store, trace, weights, part):
    mask = np.array(weights, float).reshape(4, 4)
    made = maps.aggregate(trace, "g2r", onto="query", keys=mask, segment=part, source="full").compute()
    full = shares(store, "g2r").sum((1, 2, 3))[..., PARTS[part]]
    np.testing.assert_allclose(made, (full @ mask.ravel() / mask.sum()).reshape(2, 4, 4), rtol=HALF)


def test_a_mask_of_the_references_size():
    own = open_trace(simulated(runs=1))
    mask = np.zeros((32, 32), bool)
    mask[8:16, 0:8] = True
    made = maps.ulam(own, "r2g", keys=mask, segment="reference").compute()
    one = maps.reverse_sram(own, (1, 0), keys="reference", keep=()).compute()
    np.testing.assert_allclose(made, one, rtol=1e-6)
    with pytest.raises(InvalidValueError, match="a mask of 5x5; accepted here: 4x4, 32x32"):
        maps.ulam(own, "r2g", keys=np.ones((5, 5)), segment="reference")


def test_two_reference_grids_in_one_leaf_need_a_segment(tools):
    # As in editing models: keys are the generated and the reference patches, of the same rows and columns.
    rows, columns = (axis.ravel().tolist() for axis in np.indices((2, 2)))
    segments = ("self",) * 4 + ("reference",) * 4
    leaf = Leaf(
        "joint",
        (2, 2),
        2,
        4,
        ("a",),
        8,
        segments,
        tuple(rows * 2),
        tuple(columns * 2),
        encoding="factors",
        keys_vary=True,
    )
    store, vectors = tools.make_store((leaf,), runs=1)
    trace = open_trace(store)
    with pytest.raises(InvalidValueError, match="of several parts, 'self' and 'reference'; choose one by keys="):
        maps.ulam(trace, "g2r")
    made = maps.ulam(trace, "g2r", keys="reference").compute()
    q, k = vectors["joint/2x2", 0]
    expected = tools.softmax(q[1] @ np.swapaxes(k[1], -1, -2), -1).mean(-2).sum((0, 1, 2))[4:]
    np.testing.assert_allclose(made[0].values.ravel(), expected, rtol=1e-4)

"""Videos: frames before rows and columns, against numpy on Q and K as stored."""

import json

import numpy as np
import pytest
from PIL import Image

from attlas.analysis import heads, maps, open_trace, scores
from attlas.analysis.aggregation.resample import resample_values
from attlas.analysis.blockwise import attention
from attlas.analysis.commands.maps import map_
from attlas.analysis.output.pictures import background, save_map
from attlas.schemas import simulate_store
from attlas.schemas.errors import InvalidValueError, NotRecordedError

FRAMES, SIDE = 3, 4
CELLS = FRAMES * SIDE**2
HALF = 1.6e-2
KINDS = ("text", "image", "self", "joint")


@pytest.fixture(scope="module")
def store():
    both = dict.fromkeys(KINDS, "both")
    return simulate_store(kinds=KINDS, frames=FRAMES, references=1, encoding=both, runs=1, calls=2, layers=1)


@pytest.fixture(scope="module")
def trace(store):
    return open_trace(store)


def shares(store, kind, direction):
    """Attention (t, layer, head, query, key) of the branch cond, in float64."""
    name = f"{kind}/3x4x4"
    q, k = (store.group[f"{name}/{array}"][0, 1].astype("f8") for array in ("query_vectors", "key_vectors"))
    e = np.exp(q @ np.swapaxes(k, -1, -2))
    return e / e.sum(-1 if direction == "g2r" else -2, keepdims=True)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_labels_frames(store, trace, kind):
    made = trace.attention(kind, "g2r", "3x4x4")
    np.testing.assert_allclose(made[0, 1].compute(), shares(store, kind, "g2r"), rtol=HALF, atol=1e-7)
    assert made["query_frame"].values.tolist() == np.repeat([0, 1, 2], 16).tolist()
    assert made["query_y"].values[:17].tolist() == [*np.repeat([0, 1, 2, 3], 4).tolist(), 0]
    if kind == "joint":
        assert made["key_frame"].values[[0, 10, 26, 58]].tolist() == [-1, 0, 1, 0]
        assert made["key_segment"].values[58] == "reference"


@pytest.mark.parametrize("kind", KINDS)
def test_maps_on_queries_have_frames(store, trace, kind):
    for source in ("summary", "full"):
        made = maps.ulam(trace, "r2g", kind=kind, source=source).compute()
        assert made.dims == ("run", "query_frame", "query_y", "query_x")
        expected = shares(store, kind, "r2g").mean(-1).sum((0, 1, 2)).reshape(1, FRAMES, SIDE, SIDE)
        np.testing.assert_allclose(made, expected, rtol=HALF)
    assert made.attrs["frames"] == FRAMES
    by_call = maps.tlam(trace, "r2g", 2, kind=kind, source="summary").compute()
    assert by_call.dims == ("run", "t_group", "query_frame", "query_y", "query_x")
    np.testing.assert_allclose(by_call.sum("t_group"), made, rtol=HALF)


@pytest.mark.parametrize(
    ("kind", "keys", "dims", "place"),
    [
        ("self", "self", ("key_frame", "key_y", "key_x"), slice(0, 48)),
        ("joint", "generated", ("key_frame", "key_y", "key_x"), slice(10, 58)),
        ("joint", "reference", ("key_y", "key_x"), slice(58, 74)),
        ("image", "reference", ("key_y", "key_x"), slice(1, 17)),
    ],
)
def test_maps_on_keys_have_frames_where_the_keys_have(store, trace, kind, keys, dims, place):
    made = maps.ulam(trace, "g2r", kind=kind, keys=keys).compute()
    assert made.dims == ("run", *dims)
    expected = shares(store, kind, "g2r").mean(-2).sum((0, 1, 2))[place]
    np.testing.assert_allclose(made.values.ravel(), expected, rtol=HALF)


def test_resampling_leaves_frames_alone(trace):
    made = maps.ulam(trace, "r2g", kind="joint").compute()
    fine = maps.ulam(trace, "r2g", kind="joint", grid=(8, 8)).compute()
    assert fine.shape == (1, FRAMES, 8, 8)
    for frame in range(FRAMES):
        one = maps.resample(made.isel(query_frame=frame), (8, 8)).values
        np.testing.assert_allclose(made.isel(query_frame=frame).pipe(maps.resample, "8x8"), one)
    with pytest.raises(InvalidValueError, match="grid '3x8x8' is no grid"):
        maps.ulam(trace, "r2g", kind="joint", grid="3x8x8")
    coarse = simulate_store(kinds=("joint",), frames=FRAMES, grid=(2, 2), runs=1)
    wide = maps.ulam(open_trace(coarse), "r2g", grid=(4, 4), resample="bicubic").compute()
    small = maps.ulam(open_trace(coarse), "r2g").compute()
    np.testing.assert_allclose(wide, resample_values(small.values, (4, 4), "bicubic"), rtol=1e-6)


def test_srams_of_a_patch_in_a_frame(store, trace):
    made = maps.sram(trace, (1, 2, 3), kind="joint", keys="generated", keep=()).compute()
    query = 16 + 2 * 4 + 3
    expected = shares(store, "joint", "g2r")[:, :, :, query, 10:58].sum((0, 1, 2)).reshape(1, FRAMES, SIDE, SIDE)
    np.testing.assert_allclose(made, expected, rtol=HALF, atol=1e-5)
    back = maps.reverse_sram(trace, (1, 2, 3), kind="joint", keys="generated", keep=()).compute()
    expected = shares(store, "joint", "r2g")[..., 10 + query].sum((0, 1, 2)).reshape(1, FRAMES, SIDE, SIDE)
    np.testing.assert_allclose(back, expected, rtol=HALF, atol=1e-5)
    box = maps.sram(trace, (1, 2, 3, 3, 3, 4), kind="joint", keys="generated", keep=()).compute()
    other = maps.sram(trace, (2, 2, 3), kind="joint", keys="generated", keep=()).compute()
    np.testing.assert_allclose(box, (made + other) / 2, rtol=1e-4, atol=1e-6)
    on_picture = maps.reverse_sram(trace, (2, 3), kind="joint", keys="reference", keep=()).compute()
    expected = shares(store, "joint", "r2g")[..., 58 + 11].sum((0, 1, 2)).reshape(1, FRAMES, SIDE, SIDE)
    np.testing.assert_allclose(on_picture, expected, rtol=HALF, atol=1e-5)
    with pytest.raises(InvalidValueError, match=r"patch \(2, 3\); \(frame, row, column\) or \(frame, row, column, fr"):
        maps.sram(trace, (2, 3), kind="self")
    with pytest.raises(InvalidValueError, match=r"patch \(3, 0, 0\) lies outside the 3x4x4 query grid"):
        maps.sram(trace, (3, 0, 0), kind="self")


def test_masks_hold_for_every_frame_unless_they_have_frames(store, trace):
    plane = np.zeros((4, 4))
    plane[1, 2] = 1
    full = shares(store, "self", "g2r").sum((0, 1, 2))
    options = {"kind": "self", "onto": "key", "source": "full"}
    every = maps.aggregate(trace, "g2r", queries=plane, **options).compute()
    np.testing.assert_allclose(every.values.ravel(), full[[6, 22, 38]].mean(0), rtol=HALF, atol=1e-6)
    moving = np.zeros((3, 4, 4))
    moving[2] = plane
    one = maps.aggregate(trace, "g2r", queries=moving, **options).compute()
    np.testing.assert_allclose(one.values.ravel(), full[38], rtol=HALF, atol=1e-6)
    large = maps.aggregate(trace, "g2r", queries=moving.repeat(8, 1).repeat(8, 2), **options).compute()
    np.testing.assert_allclose(large, one, rtol=1e-6)
    with pytest.raises(InvalidValueError, match="queries: a mask of 2 frames; self/3x4x4 has 3 frames"):
        maps.aggregate(trace, "g2r", queries=moving[1:], **options)
    with pytest.raises(InvalidValueError, match="keys: a mask of 3 frames; image/3x4x4 has no frames"):
        maps.aggregate(trace, "r2g", keys=moving, kind="image")


@pytest.mark.parametrize("kind", ["text", "joint"])
def test_word_maps_have_frames(store, trace, kind):
    made = maps.daam(trace, "disc", kind=kind).compute()
    assert made.dims == ("run", "query_frame", "query_y", "query_x")
    expected = shares(store, kind, "g2r")[..., 3].sum((0, 1, 2)).reshape(1, FRAMES, SIDE, SIDE)
    np.testing.assert_allclose(made, expected, rtol=HALF)


def test_summaries_of_a_video_from_one_pass(trace):
    made = attention.recomputed_summaries(trace, "joint")
    for name in ("g2r", "r2g"):
        np.testing.assert_allclose(made[name].compute(), trace.dataset("joint/3x4x4")[name].compute(), rtol=HALF)


def test_the_video_is_in_the_trace(store, trace):
    assert trace.videos.dims == ("run", "video_frame", "image_y", "image_x", "rgb")
    assert trace.videos.sizes["video_frame"] == 9
    np.testing.assert_array_equal(trace.videos[:, 4].compute(), trace.images.compute())
    assert "generated_video" in trace.tree.ds
    with pytest.raises(NotRecordedError, match="has no video: its pipeline makes pictures"):
        _ = open_trace(simulate_store(runs=1, kinds=("text",))).videos


def test_figures_need_one_frame(trace, tmp_path):
    made = maps.daam(trace, "disc").compute()
    with pytest.raises(InvalidValueError, match=r"these have 3 frames: choose one by \.isel\(query_frame=1\)"):
        save_map(trace, made, tmp_path / "m.png")
    save_map(trace, made, tmp_path / "m.nc")
    for latent, shown in ((0, 0), (1, 4), (2, 8)):
        one = made.isel(query_frame=latent)
        np.testing.assert_array_equal(background(trace, one), trace.videos[:, shown].compute())
        save_map(trace, one, tmp_path / f"{latent}.png")
    with Image.open(tmp_path / "1.png") as picture:
        assert picture.size == (256, 256)


def test_scores_say_that_they_are_of_pictures(trace):
    with pytest.raises(NotRecordedError, match="is of a video of 3 latent frames; reference scores compare a picture"):
        scores.score_reference(trace)
    with pytest.raises(NotRecordedError, match="is of a video of 3 latent frames; word scores compare a picture"):
        heads.head_maps(trace, [("0000", "disc")])


def test_the_command_takes_the_middle_frame_or_the_one_that_is_named(tmp_path):
    from click.testing import CliRunner

    simulate_store(tmp_path / "v.zarr", kinds=("joint",), frames=FRAMES, references=2, runs=1, calls=1, layers=1)
    own = open_trace(tmp_path / "v.zarr")

    def printed(*options):
        done = CliRunner().invoke(map_, [str(tmp_path / "v.zarr"), "--json", *options])
        assert done.exception is None, done.exception
        return json.loads(done.output)["maps"][0]

    words = maps.daam(own, "disc").compute()[0]
    assert printed("--map", "daam", "--word", "disc")["max"] == pytest.approx(float(words[1].max()))
    told = printed("--map", "daam", "--word", "disc", "--frame", "2", "--out", str(tmp_path / "m.png"))
    assert told["max"] == pytest.approx(float(words[2].max()))
    sram = maps.sram(own, (1, 2, 3), keys="reference", picture=1).compute()[0, 0]
    told = printed("--map", "sram", "--patch", "2,3", "--segment", "reference", "--picture", "1")
    assert told["max"] == pytest.approx(float(sram.max()))
    back = maps.reverse_sram(own, (0, 1), keys="reference", picture=1).compute()[0, 0]
    options = ("--segment", "reference", "--picture", "1", "--frame", "0")
    told = printed("--map", "reverse-sram", "--patch", "0,1", *options)
    assert told["max"] == pytest.approx(float(back[0].max()))
    done = CliRunner().invoke(map_, [str(tmp_path / "v.zarr"), "--map", "daam", "--word", "disc", "--frame", "3"])
    assert str(done.exception) == "frame 3 of 3; 0 to 2 is accepted"
    simulate_store(tmp_path / "p.zarr", kinds=("text",), runs=1)
    done = CliRunner().invoke(map_, [str(tmp_path / "p.zarr"), "--map", "daam", "--word", "disc", "--frame", "0"])
    assert "holds pictures, which have no frames" in str(done.exception)

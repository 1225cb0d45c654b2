"""Recordings of sequences beyond a request: prompts of other lengths, references, videos, what xarray reads."""

import numpy as np
import pytest
import xarray as xr
from matrix import cross_parts, joint_parts, video_parts
from matrix.pieces import photo
from tiny_pipelines import draw

from attlas.recorder import Capture, Recorder
from attlas.schemas import validate_store
from attlas.schemas.errors import CaptureError, ObservationError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHORT, LONG = "a red cat", "a dog and a blue cat and a red dog"
QWEN = {"height": 24, "width": 40, "num_inference_steps": 2, "output_type": "np"}
FLUX = {"height": 20, "width": 36, "max_sequence_length": 16, "num_inference_steps": 2, "output_type": "np"}
SANA = {**FLUX, "prompt": SHORT, "height": 32, "width": 96, "use_resolution_binning": False}
VIDEO = {"prompt": SHORT, "num_frames": 9, "num_inference_steps": 2, "output_type": "np", "max_sequence_length": 16}


def kontext(**more):
    reference = {"image": photo(28, 12), "_auto_resize": False, "max_area": 20 * 36}
    return {**FLUX, **reference, "prompt": SHORT, **more}


def record(pipe, *requests, path=None, **capture):
    with Recorder(pipe, path, Capture(**capture)) as rec:
        for request in requests:
            rec(**{"seed": 0, **request})
    return rec.store


def arrays(store, run):
    """Every array of a run, by leaf and name."""
    found = {}
    for name in store.leaves:
        for array in store.group[name]:
            values = store.group[f"{name}/{array}"]
            found[name, array] = values[run] if values.metadata.dimension_names[0] == "run" else values[...]
    return found


@pytest.mark.parametrize(("prompts", "encoding"), [((SHORT, LONG), "dense"), ((LONG, SHORT), "factors")])
def test_prompts_of_two_lengths_share_a_store(prompts, encoding):
    pipe = joint_parts.qwen_image()
    requests = [{**QWEN, "prompt": prompt, "negative_prompt": "dog"} for prompt in prompts]
    both = record(pipe, *requests, encoding=encoding)
    assert [leaf.key_segments.count("text") for leaf in both.leaves.values()] == [64]
    assert validate_store(both, deep=True) == []
    for run, request in enumerate(requests):
        alone = record(pipe, request, encoding=encoding)
        held = arrays(both, run)
        for name, values in arrays(alone, 0).items():
            np.testing.assert_array_equal(held[name], values, err_msg=str(name))
    absent = (both.group["joint/3x5/token_segment"][:] == "absent").sum(-1)
    # Words and the five tokens after them; the negative prompt has one word.
    assert absent.tolist() == [[64 - len(prompt.split()) - 5, 64 - 1 - 5] for prompt in prompts]


def test_a_prompt_needs_room():
    pipe = joint_parts.qwen_image()
    with Recorder(pipe, None, Capture()) as rec:
        rec(**QWEN, prompt=SHORT, seed=0)
        with pytest.raises(CaptureError, match=r"has 95 tokens, and this store has room for 64.*longest prompt first"):
            rec(**QWEN, prompt=" ".join([LONG] * 9), seed=0)
        rec(**QWEN, prompt=LONG, seed=0)
    assert rec.store.complete.tolist() == [True, True]
    store = record(pipe, {**QWEN, "prompt": " ".join([LONG] * 9)})
    assert store.leaves["joint/3x5"].keys == 128 + 15


def test_keys_of_words_in_prompts_of_two_lengths():
    store = record(joint_parts.qwen_image(), *({**QWEN, "prompt": prompt} for prompt in (SHORT, LONG)), keys=["cat"])
    node = store.group["joint/3x5"]
    assert node["token"][:, 0, 0].tolist() == ["Ġcat", "Ġcat"]
    assert [
        (SHORT, LONG)[run][start:end]
        for run, (start, end) in enumerate(zip(node["token_start"][:, 0, 0], node["token_end"][:, 0, 0], strict=True))
    ] == ["cat", "cat"]


def test_lumina_tells_captions_of_two_lengths_apart():
    pipe = joint_parts.lumina_2()
    request = {"height": 32, "width": 48, "num_inference_steps": 2, "output_type": "np", "guidance_scale": 1.0}
    with (
        pytest.raises(ObservationError, match=r"the captions of this batch have \d+, \d+ tokens.*one prompt a request"),
        Recorder(pipe, None, Capture()) as rec,
    ):
        rec(**request, prompt=[SHORT, LONG], seed=0)
    store = record(pipe, *({**request, "prompt": prompt} for prompt in (SHORT, LONG)))
    assert store.complete.tolist() == [True, True]
    assert validate_store(store, deep=True) == []


def test_guidance_that_ends_early_is_told():
    with (
        pytest.raises(ObservationError, match=r"expected to make 2 passes a call"),
        Recorder(joint_parts.lumina_2(), None, Capture()) as rec,
    ):
        rec(prompt=SHORT, height=32, width=48, num_inference_steps=4, output_type="np", cfg_trunc_ratio=0.5, seed=0)


def test_a_reference_has_its_own_grid():
    store = record(joint_parts.flux_kontext(), kontext())
    node, leaf = store.group["joint/5x9"], store.leaves["joint/5x9"]
    reference = np.array(leaf.key_segments) == "reference"
    rows, columns = np.indices((7, 3))
    np.testing.assert_array_equal(node["key_y"][reference], rows.ravel())
    np.testing.assert_array_equal(node["key_x"][reference], columns.ravel())
    assert (node["key_picture"][reference] == 0).all()
    assert leaf.segment_grid("reference") == (7, 3)
    assert leaf.segment_grid("generated") == (5, 9)
    np.testing.assert_array_equal(store.group["reference_image"][0], np.asarray(photo(28, 12)))


def test_two_references_have_their_own_grids():
    pipe = joint_parts.qwen_edit_plus()
    request = {"prompt": SHORT, "image": [photo(24, 48), photo(48, 32)], "height": 256, "width": 384}
    store = record(pipe, {**request, "num_inference_steps": 1, "output_type": "np"})
    node = store.group["joint/2x3"]
    for picture, grid in enumerate([(5, 11), (9, 6)]):
        own = node["key_picture"][...] == picture
        rows, columns = np.indices(grid)
        np.testing.assert_array_equal(node["key_y"][own], rows.ravel())
        np.testing.assert_array_equal(node["key_x"][own], columns.ravel())


def test_passes_can_be_left_out():
    pipe = joint_parts.flux()
    request = {**FLUX, "prompt": SHORT, "negative_prompt": "dog", "true_cfg_scale": 2.0, "num_inference_steps": 3}
    both = arrays(record(pipe, request), 0)
    for branch, name in enumerate(["cond", "uncond"]):
        one = record(pipe, request, branches=name, steps=[0, 2])
        assert one.branches == (name,)
        assert one.group["t"][...].tolist() == [0, 2]
        for (leaf, array), values in arrays(one, 0).items():
            if array in ("log_attention", "g2r", "r2g", "logsumexp"):
                np.testing.assert_array_equal(values, both[leaf, array][branch : branch + 1, [0, 2]])


@pytest.mark.parametrize(
    ("make", "request_", "reason"),
    [
        (cross_parts.sana, {"layers": "*.attn1"}, "linear attention has no softmax"),
        (joint_parts.lumina_2, {"layers": "context_refiner.*"}, "its queries are the text's"),
    ],
)
def test_layers_without_attention_of_a_picture_say_why(make, request_, reason):
    with (
        pytest.raises(CaptureError, match=f"cannot be recorded.*{reason}"),
        Recorder(make(), None, Capture(**request_)),
    ):
        pass


@pytest.mark.parametrize(
    ("make", "more", "grid"),
    [
        (joint_parts.sd3, {**FLUX, "prompt": [SHORT, "a dog"]}, (20, 36)),
        (joint_parts.flux_kontext, kontext(), (20, 36)),
        (cross_parts.sana, SANA, (32, 96)),
        (cross_parts.pixart_256, {**FLUX, "prompt": SHORT, "height": 200, "width": 264}, (200, 264)),
    ],
)
def test_pictures_and_xarray(make, more, grid, tmp_path):
    pipe = make()
    store = record(pipe, more, path=tmp_path / "a.zarr", kinds=None)
    assert store.image_shape == grid
    assert store.frames is None
    drawn = draw(pipe, **more)
    np.testing.assert_array_equal(store.group["generated_image"][...], (drawn * 255).round().astype("u1"))
    check_tree(store, tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("make", "more", "frames"),
    [
        (video_parts.wan, {"height": 32, "width": 48, "max_sequence_length": 512}, 9),
        (video_parts.cogvideox, {"height": 32, "width": 48}, 9),
        (video_parts.cogvideox, {"height": 32, "width": 48, "num_frames": 5}, 8),
        (video_parts.cogvideox_15, {"height": 32, "width": 48}, 9),
        (video_parts.ltx, {"height": 64, "width": 96}, 9),
    ],
    ids=["wan", "cogvideox", "cogvideox of an even number", "cogvideox 1.5", "ltx"],
)
def test_videos_and_xarray(make, more, frames, tmp_path):
    pipe, request = make(), {**VIDEO, **more}
    with Recorder(pipe, tmp_path / "a.zarr", Capture(kinds=("joint", "text", "self"))) as rec:
        made = rec(**request, seed=0).frames
    store = rec.store
    assert np.shape(made) == (1, frames, more["height"], more["width"], 3)
    assert store.frames == frames
    eight = (made[0] * 255).round().astype("u1")
    np.testing.assert_array_equal(store.group["generated_video"][0], eight)
    np.testing.assert_array_equal(store.group["generated_image"][0], eight[frames // 2])
    check_tree(store, tmp_path / "a.zarr")


def check_tree(store, path):
    """xarray opens the whole store, with the same labels in every leaf, and the check of every array finds nothing."""
    assert validate_store(path, deep=True) == []
    with xr.open_datatree(path, engine="zarr") as tree:
        for name, leaf in store.leaves.items():
            data = tree[name].to_dataset(inherit=True)
            assert data.sizes["query"] == leaf.queries
            assert data.sizes["key"] == leaf.keys
            assert list(data["run"].values) == list(store.run_ids)
            assert list(data["branch"].values) == list(store.branches)
            weights = np.exp(data["log_attention"].astype("f8")) if "log_attention" in data else None
            if weights is not None and not leaf.partial:
                np.testing.assert_allclose(weights.sum("key"), 1, atol=4e-3)

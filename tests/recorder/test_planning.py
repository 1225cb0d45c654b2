"""`plan`: what it says is what a recording then writes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matrix.joint_parts import flux, flux_kontext, qwen_image
from matrix.unet_parts import img2img
from PIL import Image
from tiny_pipelines import make_pipe

from attlas.recorder import Capture, Recorder, load_pipeline, plan, record
from attlas.recorder.plans.counting import LARGE, counting_store
from attlas.schemas import open_store
from attlas.schemas.errors import CaptureError, InvalidValueError, ObservationError, StoreMismatchError

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

SHAPES = [
    {"prompt": prompt, "seed": seed, "num_inference_steps": 3, "guidance_scale": 3.0}
    for seed, prompt in enumerate(("a red disc and a blue cross", "a green ring"))
]
WIDE = [
    {
        "prompt": "a red cat",
        "seed": seed,
        "height": 64,
        "width": 96,
        "num_inference_steps": 3,
        "max_sequence_length": 16,
    }
    for seed in range(2)
]


def files(path):
    """Bytes of each file of a store by its path inside."""
    return {str(file.relative_to(path)): file.stat().st_size for file in Path(path).rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("build", "requests", "capture"),
    [
        ("demo:shapes", SHAPES, Capture(kinds="text", encoding="dense")),
        ("demo:shapes", SHAPES, Capture(kinds=("text", "self"), encoding="factors", precision="balanced")),
        ("demo:shapes", SHAPES, Capture(kinds="text", encoding="both", vocabulary=["disc", "star"])),
        ("demo:shapes", SHAPES, Capture(detail="summary", layers="up_blocks.*", branches="cond", heads=[0, 3])),
        (flux, WIDE, Capture(steps=slice(None, None, 2))),
        (flux, WIDE, Capture(keys="prompt")),
    ],
    ids=["dense", "factors", "both", "summary", "joint", "prompt"],
)
def test_it_is_what_a_recording_writes(build, requests, capture, tmp_path):
    pipe = load_pipeline(build) if isinstance(build, str) else build()
    planned = plan(pipe, requests, capture, progress=False)
    store = record(pipe, tmp_path / "s.zarr", requests, capture, progress=False)
    written = files(tmp_path / "s.zarr")
    assert planned.stored == pytest.approx(sum(written.values()), rel=0.1)
    assert planned.files == len(written)
    # The description of the arrays is the larger part of so small a store: the data alone must fit too.
    data = sum(size for file, size in written.items() if not file.endswith("zarr.json"))
    assert planned.stored - planned.metadata == pytest.approx(data, rel=0.1)
    for array in planned.arrays:
        made = store.group[array.name]
        assert made.shape == array.shape, array.name
        assert made.metadata.dimension_names == array.dims
        if array.name.rsplit("/")[-1] in LARGE:
            assert array.raw == made.nbytes
        own = [size for file, size in written.items() if file.startswith(f"{array.name}/c.")]
        assert array.files == len(own), array.name
        if array.name.rsplit("/")[-1] in LARGE:
            assert array.stored == pytest.approx(sum(own), rel=0.25), array.name
    assert planned.runs == len(requests)
    assert planned.branches == store.branches
    assert (planned.calls, planned.kept) == (3, store.calls)
    assert planned.seconds > 0


@pytest.mark.parametrize(
    ("build", "requests", "capture"),
    [
        ("demo:shapes", SHAPES, Capture(kinds=("text", "self"))),
        ("demo:shapes", SHAPES, Capture(vocabulary=["disc"], branches="cond", heads=[1])),
        ("demo:shapes", [{**SHAPES[0], "guidance_scale": 1.0}], Capture(detail="summary")),
        (flux, WIDE, Capture(steps=[0, 2])),
        (flux, [{**WIDE[0], "negative_prompt": "a dog", "true_cfg_scale": 2.0}], Capture(keys="prompt")),
    ],
)
def test_shapes_without_drawing_are_those_of_a_run(build, requests, capture):
    pipe = load_pipeline(build) if isinstance(build, str) else build()
    drawn = plan(pipe, requests, capture, progress=False)
    bare = plan(pipe, requests, capture, measure=False)
    assert [(a.name, a.dims, a.shape, a.dtype, a.raw) for a in bare.arrays] == [
        (a.name, a.dims, a.shape, a.dtype, a.raw) for a in drawn.arrays
    ]
    assert (bare.branches, bare.calls, bare.kept, bare.raw) == (drawn.branches, drawn.calls, drawn.kept, drawn.raw)
    assert (bare.stored, bare.seconds) == (None, None)
    assert {a.name: a.files for a in bare.arrays} == {a.name: a.files for a in drawn.arrays}
    assert bare.files == drawn.files
    assert f"nothing was drawn: compressed size and time of {bare.files} files are not known" in repr(bare)


@pytest.mark.parametrize(
    ("build", "request_", "capture", "words"),
    [
        (
            qwen_image,
            {"prompt": "a cat"},
            Capture(),
            "how many text tokens transformer_blocks.0.attn has depends on the",
        ),
        (flux, {"prompt": "a cat"}, Capture(keys=["cat"]), "how many tokens the words of Capture"),
        (
            flux_kontext,
            {"prompt": "a cat", "image": Image.new("RGB", (32, 32))},
            Capture(),
            "what FluxKontextPipeline makes of its input picture",
        ),
        (img2img, {"prompt": "a cat", "image": Image.new("RGB", (32, 32))}, Capture(), "makes of its input picture"),
        (make_pipe, {"prompt": "a cat", "guidance_scale": 1.0}, Capture(branches="uncond"), "this run has cond only"),
    ],
)
def test_what_only_a_run_shows_is_said(build, request_, capture, words):
    with pytest.raises(CaptureError, match=words):
        plan(build(), [request_], capture, measure=False)


def test_nothing_is_written_and_the_pipeline_is_as_it_was(pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned = plan(pipe, [{"prompt": "a cat", "num_inference_steps": 2}], path="here.zarr", progress=False)
    assert planned.store == "here.zarr"
    assert list(tmp_path.iterdir()) == []
    assert not pipe.unet._forward_hooks
    assert not pipe.unet._forward_pre_hooks


def test_the_noise_of_the_recording_is_as_without_it(pipe):
    generator = torch.Generator().manual_seed(3)
    states = generator.get_state(), torch.random.get_rng_state()
    plan(pipe, [{"prompt": "a cat", "num_inference_steps": 1, "generator": generator}], progress=False)
    plan(pipe, [{"prompt": "a cat", "num_inference_steps": 1}], progress=False)
    assert torch.equal(generator.get_state(), states[0])
    assert torch.equal(torch.random.get_rng_state(), states[1])


def test_runs_that_are_complete_are_not_counted(pipe, tmp_path):
    requests = [{"prompt": "a cat", "seed": seed, "num_inference_steps": 2} for seed in range(4)]
    record(pipe, tmp_path / "s.zarr", requests[:2], progress=False)
    before = files(tmp_path / "s.zarr")
    planned = plan(pipe, requests, path=tmp_path / "s.zarr", progress=False)
    assert files(tmp_path / "s.zarr") == before
    assert (planned.runs, planned.complete) == (2, 2)
    assert "2 runs of StableDiffusionPipeline (2 more are complete in" in repr(planned)
    assert {array.shape[0] for array in planned.arrays} == {2}
    record(pipe, tmp_path / "s.zarr", requests, progress=False)
    after = files(tmp_path / "s.zarr")
    new = {file: size for file, size in after.items() if file not in before}
    assert sum(array.files for array in planned.arrays if array.name.rsplit("/")[-1] in LARGE) <= len(new)
    assert planned.stored == pytest.approx(sum(new.values()), rel=0.1)
    done = plan(pipe, requests, path=tmp_path / "s.zarr", progress=False)
    assert (done.runs, done.complete, done.stored) == (0, 4, 0)
    assert repr(done).endswith("nothing is left to do")


def test_a_recording_that_cannot_join_is_said_before_anything_is_planned(pipe, tmp_path):
    path = tmp_path / "s.zarr"
    record(pipe, path, [{"prompt": "a cat", "num_inference_steps": 2}], progress=False)
    with pytest.raises(StoreMismatchError, match="capture"):
        plan(pipe, [{"prompt": "a cat"}], Capture(detail="summary"), path, progress=False)
    with pytest.raises(StoreMismatchError, match=f"{path} holds recordings that this one cannot join:\n  calls"):
        plan(pipe, [{"prompt": "a cat", "num_inference_steps": 3, "id": "new"}], path=path, progress=False)
    assert open_store(path).run_ids == ["0000"]


def test_batches_and_pictures_per_prompt_are_runs(pipe, tmp_path):
    requests = [
        {"prompt": ["a cat", "a dog"], "num_images_per_prompt": 2, "seed": 1, "num_inference_steps": 2},
        {"prompt": "a red cat", "seed": 2, "num_inference_steps": 2},
    ]
    planned = plan(pipe, requests, progress=False)
    assert planned.runs == 5
    assert planned.time.measured == 4
    record(pipe, tmp_path / "s.zarr", requests, progress=False)
    written = files(tmp_path / "s.zarr")
    assert planned.stored == pytest.approx(sum(written.values()), rel=0.1)
    assert planned.files == len(written)


def test_many_runs_fill_more_than_one_chunk_of_the_table(pipe):
    requests = [{"prompt": "a cat", "seed": seed, "num_inference_steps": 1} for seed in range(1100)]
    planned = plan(pipe, requests, progress=False)
    (table,) = (array for array in planned.arrays if array.name == "seed")
    assert (table.shape, table.files) == ((1100,), 2)
    (data,) = (array for array in planned.arrays if array.name == "text/8x8/g2r")
    assert data.files == 1100


def test_what_is_wrong_with_the_requests_is_said(pipe):
    with pytest.raises(InvalidValueError, match="there are no requests"):
        plan(pipe, [])
    with pytest.raises(InvalidValueError, match="two requests have the id 'a'"):
        plan(pipe, [{"prompt": "a cat", "id": "a"}, {"prompt": "a dog", "id": "a"}])


def test_a_counting_store_keeps_no_large_array(pipe):
    backend, counted = counting_store()
    with Recorder(pipe, backend, Capture(kinds=("text", "self"))) as recorder:
        recorder(prompt="a cat", seed=0, num_inference_steps=4)
    large = [name for name in counted if name.split("/c.")[0].rsplit("/", 1)[-1] in LARGE and "/c." in name]
    assert large
    for name in large:
        with pytest.raises(ObservationError, match="was counted, not kept"):
            counted[name]
    with pytest.raises(ObservationError, match="was counted, not kept"):
        recorder.store.group["generated_image"][...]
    assert np.array_equal(recorder.store.complete, [True])


def test_a_recorder_goes_on_in_an_open_store(pipe):
    with Recorder(pipe, None, Capture()) as first:
        first(prompt="a cat", seed=0, num_inference_steps=2)
    with Recorder(pipe, first.store, Capture()) as second:
        second(prompt="a dog", seed=0, num_inference_steps=2)
    assert second.store.run_ids == ["0000", "0001"]
    assert second.store.complete.tolist() == [True, True]
    with (
        pytest.raises(StoreMismatchError, match="the store in memory holds"),
        Recorder(pipe, first.store, Capture("self")),
    ):
        pytest.fail("entered")

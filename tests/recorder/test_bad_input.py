"""What cannot be recorded is said before or where it happens; complete runs stay, and so does the pipeline."""

import errno
import shutil

import numpy as np
import pytest
import torch
from fidelity import assert_as_found, generated, processors
from test_faults import everything
from tiny_pipelines import make_pipe
from torch import nn

from attlas.recorder import Capture, Family, record, register_family
from attlas.recorder.models import families
from attlas.recorder.scribe import Scribe
from attlas.schemas import open_store, validate_store
from attlas.schemas.errors import (
    CaptureError,
    ObservationError,
    StoreMismatchError,
    UnknownNameError,
)

CAPTURE = Capture(kinds=("text", "self"))
REQUESTS = [{"prompt": "a red cat", "seed": seed, "num_inference_steps": 2} for seed in range(3)]


class Intact:
    """A store with one complete run, which must stay as it is, and a pipeline, too."""

    def __init__(self, path, origin):
        self.pipe, first, self.picture = origin
        self.path = shutil.copytree(first, path)
        self.processors = {name: id(one) for name, one in processors(self.pipe.unet).items()}
        self.before = everything(path)

    def check(self):
        """The first run is what it was, the second can be made, and the store is sound."""
        assert_as_found(self.pipe.unet, self.processors)
        assert open_store(self.path).complete.tolist()[0]
        self._check_first()
        assert validate_store(self.path, deep=True) == []
        store = record(self.pipe, self.path, REQUESTS[:2], CAPTURE, progress=False)
        assert store.complete.sum() == 2
        self._check_first()
        picture = (self.picture[0] * 255).round().astype("u1")
        np.testing.assert_array_equal(store.group["generated_image"][store.run_ids.index("0001")], picture)

    def _check_first(self):
        after = everything(self.path)
        assert after.keys() == self.before.keys()
        for name, values in self.before.items():
            np.testing.assert_array_equal(after[name][: len(values)], values, err_msg=name)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A pipeline, a store with its first run, and the picture of its second."""
    pipe, path = make_pipe(), tmp_path_factory.mktemp("origin") / "s.zarr"
    record(pipe, path, REQUESTS[:1], CAPTURE, progress=False)
    return pipe, path, generated(pipe, REQUESTS[1])


@pytest.fixture
def intact(tmp_path, origin):
    return Intact(tmp_path / "s.zarr", origin)


# Nothing to record


class Blur:
    """A pipeline whose denoiser has no attention."""

    def __init__(self, unet):
        self.unet = unet

    def __call__(self, prompt, num_inference_steps=2, generator=None):
        pytest.fail("the pipeline ran")


@pytest.mark.parametrize(
    ("denoiser", "words"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3)), "Sequential has no attention module that attlas knows"),
        (None, "Blur.unet is NoneType; a module is needed"),
    ],
)
def test_a_pipeline_without_attention(monkeypatch, tmp_path, denoiser, words):
    monkeypatch.setattr(families, "FAMILIES", list(families.FAMILIES))
    register_family(Family("blur", ("Blur",), "text"))
    with pytest.raises(CaptureError, match=words):
        record(Blur(denoiser), tmp_path / "s.zarr", [{"prompt": "a cat"}], progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"kinds": "joint"}, UnknownNameError, "unknown kind 'joint' in StableDiffusionPipeline: it has no attention"),
        ({"kinds": "text", "layers": "*.attn1"}, UnknownNameError, r"unknown layer pattern '\*.attn1'"),
        ({"steps": slice(2, 2)}, CaptureError, r"selects none of the run's 2 denoiser calls"),
        ({"steps": [5]}, CaptureError, "steps has call 5; the run has 2 denoiser calls, 0 to 1"),
        ({"keys": ["dog"]}, UnknownNameError, "unknown word .dog. in Capture"),
    ],
)
def test_a_capture_that_selects_nothing(tmp_path, origin, settings, error, words):
    pipe = origin[0]
    before = {name: id(one) for name, one in processors(pipe.unet).items()}
    with pytest.raises(error, match=words):
        record(pipe, tmp_path / "s.zarr", REQUESTS[:1], Capture(**settings), progress=False)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".locks"] == []
    assert_as_found(pipe.unet, before)


# A request among others


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"height": 13, "width": 16}, ValueError, "have to be divisible by 8"),
        ({"num_inference_steps": 3}, StoreMismatchError, r"calls: store has \(0, 1\), got \(0, 1, 2\)"),
        ({"height": 16, "width": 32}, StoreMismatchError, r"picture size: store has \(16, 16\), got \(16, 32\)"),
        ({"guidance_scale": 1.0}, StoreMismatchError, r"branches: store has \('uncond', 'cond'\), got \('cond',\)"),
        ({"prompt_embeds": torch.zeros(1, 12, 16)}, ValueError, "Cannot forward both `prompt`"),
        ({"hieght": 16}, UnknownNameError, "unknown request key 'hieght'.*did you mean 'height'"),
    ],
)
def test_a_request_that_does_not_fit(intact, change, error, words):
    requests = [REQUESTS[0], {**REQUESTS[1], "id": "odd", **change}, REQUESTS[2]]
    with pytest.raises(error, match=words):
        record(intact.pipe, intact.path, requests, CAPTURE, progress=False)
    assert "odd" not in [run for run, done in zip(*runs(intact.path), strict=True) if done]
    intact.check()


def runs(path):
    store = open_store(path)
    return store.run_ids, store.complete.tolist()


# Attention that is no number


# Of diffusers, about the picture that comes of it.
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_attention_that_is_no_number_in_a_later_call(intact, value):
    layer = intact.pipe.unet.up_blocks[0].attentions[0].transformer_blocks[0].attn2
    calls = []

    def spoil(module, args, output):
        calls.append(output)
        if len(calls) == 2:
            output[0, 0, 0] = value
        return output

    handle = layer.to_k.register_forward_hook(spoil)
    words = r"up_blocks\.0\.attentions\.0\.transformer_blocks\.0\.attn2 is not finite in call 1"
    with pytest.raises(ObservationError, match=words):
        record(intact.pipe, intact.path, REQUESTS, CAPTURE, progress=False)
    handle.remove()
    intact.check()


# The writer


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ObservationError),
        (MemoryError("no memory left"), MemoryError),
        (RuntimeError("a bug"), RuntimeError),
    ],
)
def test_a_writer_that_dies_with_a_full_queue(intact, monkeypatch, error, seen):
    """The pipeline waits for room that the writer will never make: it is woken, by the writer's error."""
    write, calls = Scribe.write, []

    def fail(self, copied):
        calls.append(copied)
        if len(calls) == 20:
            raise error
        write(self, copied)

    with monkeypatch.context() as patch:
        patch.setattr("attlas.recorder.recording.QUEUE_BYTES", 1)
        patch.setattr(Scribe, "write", fail)
        with pytest.raises(seen, match=str(error.args[-1])):
            record(intact.pipe, intact.path, REQUESTS, CAPTURE, progress=False)
    assert len(calls) == 20
    intact.check()

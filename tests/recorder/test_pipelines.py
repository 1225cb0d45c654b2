"""Pipelines by name."""

import json

import numpy as np
import pytest
from tiny_pipelines import draw, make_pipe

from attlas.recorder import load_pipeline
from attlas.recorder.describe import model_digest
from attlas.recorder.pipelines import demo_requests
from attlas.schemas.errors import InvalidValueError, UnknownNameError


def test_a_folder(tmp_path):
    pipe = make_pipe()
    pipe.save_pretrained(tmp_path / "p")
    loaded = load_pipeline(tmp_path / "p")
    assert type(loaded) is type(pipe)
    assert model_digest(loaded) == model_digest(pipe)
    loaded.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(draw(loaded, prompt="a cat"), draw(pipe, prompt="a cat"))


@pytest.mark.parametrize(
    ("index", "error", "words"),
    [
        (None, InvalidValueError, "is no pipeline folder: it has no model_index.json"),
        ("{", InvalidValueError, "is not the index of a pipeline"),
        ("[]", InvalidValueError, "is not the index of a pipeline"),
        ({"_class_name": "StableDifusionPipeline"}, UnknownNameError, "did you mean 'StableDiffusionPipeline'"),
        ({"_class_name": "TryonPipeline"}, UnknownNameError, "did you mean 'TryOnPipeline'"),
        ({}, UnknownNameError, "unknown pipeline class 'None'"),
        ({"_class_name": "StableDiffusionPipeline"}, InvalidValueError, "cannot be loaded"),
    ],
)
def test_a_folder_that_is_no_pipeline(tmp_path, index, error, words):
    if index is not None:
        text = index if isinstance(index, str) else json.dumps({"_diffusers_version": "0.36.0", **index})
        (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(error, match=words):
        load_pipeline(tmp_path)


def test_nothing_at_a_path():
    with pytest.raises(InvalidValueError, match="there is no pipeline at ./nowhere: give a folder"):
        load_pipeline("./nowhere")


def test_a_hub_id_without_a_network():
    with pytest.raises(InvalidValueError, match="the pipeline owner/model cannot be loaded"):
        load_pipeline("owner/model")


def test_demo_names():
    with pytest.raises(UnknownNameError, match="unknown demo pipeline 'demo:tryonn'; did you mean 'demo:tryon'"):
        load_pipeline("demo:tryonn")
    with pytest.raises(InvalidValueError, match="--samples takes the samples of a demo world"):
        demo_requests("folder", 2)
    requests, annotate = demo_requests("demo:tryon-swapped", 2)
    assert [request["id"] for request in requests] == ["tryon-0000-swapped", "tryon-0001-swapped"]
    assert annotate is None
    requests, annotate = demo_requests("demo:shapes", 3)
    assert len(requests) == 3
    assert callable(annotate)


def test_refined_weights_are_a_model_of_their_own_with_the_same_requests():
    base, refined, control = (load_pipeline(f"demo:tryon{suffix}") for suffix in ("", "-refined", "-control"))
    assert len({model_digest(pipe) for pipe in (base, refined, control)}) == 3
    assert refined.config["_name_or_path"] == "demo:tryon-refined"
    one, other = (demo_requests(name, 2)[0] for name in ("demo:tryon", "demo:tryon-refined"))
    assert [request["id"] for request in one] == [request["id"] for request in other]
    assert [request["seed"] for request in one] == [request["seed"] for request in other]


def test_the_digest_tells_weights_and_dtypes_apart():
    pipe = make_pipe()
    first = model_digest(pipe)
    assert first == model_digest(make_pipe())
    weight = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_q.weight
    weight.data[3, 3] += 1e-3
    changed = model_digest(pipe)
    assert changed != first
    assert model_digest(pipe.to(dtype=next(pipe.unet.parameters()).double().dtype)) != changed

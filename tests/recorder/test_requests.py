"""Requests: what is accepted, how it is noted, and files of them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from attlas.recorder import Capture, Recorder, record
from attlas.recorder.file_values import FileValue, read_array, read_mask, with_files_read
from attlas.recorder.models.inventory import select
from attlas.recorder.pictures import generated_pictures, rgb
from attlas.recorder.request_files import SharedRequests, read_requests
from attlas.recorder.requests import accepted_arguments, canonical, prepare
from attlas.schemas import open_store
from attlas.schemas.errors import CaptureError, InvalidValueError, UnknownNameError


@pytest.fixture
def subject(pipe):
    return select(pipe, Capture())


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        ({"promt": "a cat"}, UnknownNameError, "unknown request key 'promt' .* did you mean 'prompt'"),
        ({}, InvalidValueError, "needs 'prompt' or 'prompt_embeds'"),
        ({"prompt": []}, InvalidValueError, "'prompt' of the request is an empty list"),
        ({"prompt": 3}, InvalidValueError, "'prompt' is int; text or a list of texts is needed"),
        ({"prompt": "a", "seed": -1}, InvalidValueError, "seed -1 is no whole number"),
        ({"prompt": "a", "seed": "7"}, InvalidValueError, "seed '7' is no whole number"),
        ({"prompt": "a", "seed": True}, InvalidValueError, "seed True is no whole number"),
        ({"prompt": "a", "seed": [1, 2]}, InvalidValueError, "'seed' has 2 numbers for 1 pictures"),
        ({"prompt": "a", "seed": 1, "generator": torch.Generator()}, InvalidValueError, "both 'seed' and 'generator'"),
        ({"prompt": "a", "output_type": "latent"}, InvalidValueError, "makes no picture to store"),
        ({"prompt": "a", "annotations": [1]}, InvalidValueError, "'annotations' is list; a dictionary"),
        ({"prompt": "a", "latents": object()}, InvalidValueError, "'latents' of the request is object"),
        ({"prompt": "a", "negative_prompt": ["x", "y"]}, InvalidValueError, "'negative_prompt' has 2 entries for 1"),
        ({"prompt": "a", "id": ""}, InvalidValueError, "a run needs a non-empty id"),
        ({"prompt": "a", "id": "x" * 201}, InvalidValueError, "has 201 characters; 200 are the most"),
        ({"prompt": ["a", "b"], "id": "x" * 199}, InvalidValueError, "has 201 characters; 200 are the most"),
        ({"prompt": "a", "id": "x\ny"}, InvalidValueError, r"the run id 'x\\ny' holds '\\n'"),
        ({"prompt": "a", "id": "\ud800"}, InvalidValueError, r"the run id '\\ud800' is no valid text"),
        ({"prompt": "a", "id": ["x"]}, InvalidValueError, "the id of a request is list; text is needed"),
        ({"prompt": "a", "id": True}, InvalidValueError, "the id of a request is bool; text is needed"),
        ({"prompt": "a \udc80"}, InvalidValueError, "the request '0' .* is no valid text"),
        ("a cat", InvalidValueError, "a request is str; a dictionary of pipeline arguments is needed"),
    ],
)
def test_a_bad_request_is_refused_before_it_runs(subject, request_, error, words):
    with pytest.raises(error, match=words):
        prepare(subject, request_, "0")


def test_a_refused_first_run_leaves_nothing(pipe, tmp_path):
    path = tmp_path / "s.zarr"
    request = {"prompt": "a cat", "num_inference_steps": 2, "seed": 1}
    with pytest.raises(InvalidValueError, match="200 are the most"):
        record(pipe, path, [request, {**request, "id": "x" * 201}], progress=False)
    # What is wrong with it shows when the picture is there: the store is made by then.
    wrong = {**request, "annotations": {"cat": np.ones((4, 4), bool)}}
    with pytest.raises(InvalidValueError, match="its picture is 16x16"):
        record(pipe, path, [wrong], progress=False)
    with pytest.raises(InvalidValueError, match="its picture is 16x16"), Recorder(pipe, path) as rec:
        rec(**wrong)
    with pytest.raises(CaptureError, match="the run has 2 denoiser calls"):
        record(pipe, path, [request], Capture(steps=[5]), progress=False)
    assert list(tmp_path.iterdir()) == []
    # A store that has a run stays.
    with pytest.raises(InvalidValueError, match="its picture is 16x16"):
        record(pipe, path, [request, {**wrong, "id": "wrong"}], progress=False)
    assert open_store(path).run_ids == ["0000"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.zarr"]


def test_ids_are_text_or_whole_numbers(subject):
    assert prepare(subject, {"prompt": "a", "id": 0}, "7").ids == ("0",)
    assert prepare(subject, {"prompt": "a", "id": np.int64(3)}, "7").ids == ("3",)
    assert prepare(subject, {"prompt": "a"}, "7").ids == ("7",)


def test_what_a_request_becomes(subject):
    request = prepare(
        subject,
        {"prompt": ["a cat", "a dog"], "negative_prompt": "red", "num_images_per_prompt": 2, "seed": np.int64(5)},
        "0007",
    )
    assert request.ids == ("0007-0", "0007-1", "0007-2", "0007-3")
    assert request.seeds == (5,) * 4
    assert request.prompts == ("a cat", "a cat", "a dog", "a dog")
    assert request.negatives == ("red",) * 4
    assert request.shown(2)["prompt"] == "a dog"
    assert request.pipeline_arguments()["generator"].initial_seed() == 5
    assert json.loads(request.text)["seed"] == 5


def test_embeddings_have_no_words(pipe):
    embeds = pipe.encode_prompt("a cat", "cpu", 1, True)
    with Recorder(pipe, None, Capture(kinds="text", detail="summary")) as rec:
        rec(prompt_embeds=embeds[0], negative_prompt_embeds=embeds[1], seed=0, num_inference_steps=2)
    node = rec.store.group["text/8x8"]
    assert set(node["token"][0].ravel()) == {""}
    assert rec.store.group["prompt"][0] == ""


def test_the_same_request_is_noted_the_same():
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    request = {
        "b": picture,
        "a": np.ones(3),
        "t": torch.ones(2, dtype=torch.bfloat16),
        "f": test_canonical_of,
        "n": None,
    }
    text = canonical(request)
    assert text == canonical(dict(reversed(request.items())))
    assert list(json.loads(text)) == ["a", "b", "f", "n", "t"]
    assert text != canonical({**request, "a": np.zeros(3)})
    assert text != canonical({**request, "t": torch.zeros(2, dtype=torch.bfloat16)})
    assert canonical({"g": torch.Generator().manual_seed(1)}) != canonical({"g": torch.Generator().manual_seed(2)})


def test_canonical_of():
    assert json.loads(canonical({"f": np.mean, "nest": {"x": (1, 2.5)}}))["nest"] == {"x": [1, 2.5]}


def test_accepted_arguments(pipe):
    names = accepted_arguments(pipe)
    assert names[0] == "prompt"
    assert set(names) >= {"guidance_scale", "seed", "annotations", "id"}
    assert "kwargs" not in names


# Files


def test_a_file_of_requests(tmp_path):
    Image.new("RGB", (4, 3), (200, 10, 10)).save(tmp_path / "photo.png")
    Image.new("L", (4, 3), 255).save(tmp_path / "mask.png")
    np.save(tmp_path / "uv.npy", np.ones((2, 2)))
    lines = [
        {"prompt": "a cat", "seed": 3, "image": "photo.png", "annotations": {"cat": "mask.png", "n": 2}},
        {"prompt": "b", "latents": "uv.npy", "ip_adapter_image": ["photo.png"]},
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    accepted = ("prompt", "seed", "image", "latents", "ip_adapter_image", "annotations")
    requests = read_requests(tmp_path / "r.jsonl", accepted)
    assert len(requests) == 2
    where = f"{tmp_path}/r.jsonl, line 1, 'image'"
    assert requests[0]["image"] == FileValue(str(tmp_path / "photo.png"), "picture", where)
    first, second = map(with_files_read, requests)
    assert np.asarray(first["image"]).shape == (3, 4, 3)
    assert first["annotations"]["cat"].dtype == bool
    assert first["annotations"]["cat"].shape == (3, 4)
    assert first["annotations"]["n"] == 2
    assert second["latents"].shape == (2, 2)
    assert second["ip_adapter_image"][0].mode == "RGB"


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('{"prompt": "a"}\n{"promt": "b"}', UnknownNameError, "unknown request key 'promt' in .*line 2; did you mean"),
        ('{"prompt": "a"\n', InvalidValueError, "line 1: not JSON"),
        ("[1]\n", InvalidValueError, "line 1: list where an object"),
        ("\n", InvalidValueError, "has no requests"),
        ('{"image": "notes.txt"}', InvalidValueError, "line 1, 'image': .*notes.txt is no picture"),
        ('{"image": "none.png"}', InvalidValueError, "line 1, 'image': .*none.png is no picture"),
        ('{"prompt": "x.npy"}', InvalidValueError, "line 1, 'prompt': .*x.npy is no array"),
        ('{"annotations": 3}', InvalidValueError, "line 1, 'annotations': an object of names"),
    ],
)
def test_a_bad_file_names_the_line(tmp_path, text, error, words):
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(error, match=words):
        read_requests(tmp_path / "r.jsonl", ("prompt", "image", "annotations"))


def test_files_are_read_when_their_turn_comes(subject, tmp_path):
    """Before, one picture after the other is neither held nor looked into."""
    Image.new("L", (16, 16), 255).save(tmp_path / "mask.png")
    line = {"prompt": "a", "height": 16, "width": 16, "annotations": {"cat": "mask.png"}}
    (tmp_path / "r.jsonl").write_text(json.dumps(line))
    (request,) = read_requests(tmp_path / "r.jsonl", ("prompt", "height", "width", "annotations"))
    draft = prepare(subject, request, "0", read=False).draft
    assert draft.files
    assert "mask.png" in draft.text
    assert not prepare(subject, request, "0").draft.files
    (tmp_path / "mask.png").write_text("no picture any more")
    assert prepare(subject, request, "0", read=False).draft == draft
    with pytest.raises(InvalidValueError, match="line 1, 'annotations', 'cat': .*mask.png is no picture"):
        prepare(subject, request, "0")


def test_text_may_hold_what_python_takes_for_the_end_of_a_line(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"prompt": "a\u2028b\x85c"}\r\n{"prompt": "d"}\n', newline="")
    assert [one["prompt"] for one in read_requests(tmp_path / "r.jsonl", ("prompt",))] == ["a\u2028b\x85c", "d"]


def test_what_is_said_of_all_requests():
    own = [{"prompt": "a"}, {"prompt": "b", "steps": 3, "annotations": {"n": 1}}]
    made = SharedRequests(own, {"steps": 2}, {"n": 0, "m": 5}, (7, 8))
    assert len(made) == 4
    assert list(made)[-1] == made[-1] == {"prompt": "b", "steps": 2, "annotations": {"n": 1, "m": 5}, "seed": 8}
    assert made[:2] == [{"prompt": "a", "steps": 2, "annotations": {"n": 0, "m": 5}, "seed": seed} for seed in (7, 8)]
    assert list(SharedRequests([{"seed": 3}, {}, {"generator": "g"}], {}, {}, ())) == [
        {"seed": 3},
        {"seed": 0},
        {"generator": "g"},
    ]


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InvalidValueError, match="cannot be read as JSON lines"):
        read_requests(tmp_path / "r.jsonl", ())


def test_masks_and_arrays(tmp_path):
    np.save(tmp_path / "m.npy", np.array([[0, 255]], np.uint8))
    assert read_mask(tmp_path / "m.npy", "m").tolist() == [[False, True]]
    np.savez(tmp_path / "z.npz", a=np.ones(2))
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    with pytest.raises(InvalidValueError, match="holds several arrays"):
        read_array(tmp_path / "z.npy", "m")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidValueError, match="is no array that can be read"):
        read_array(tmp_path / "o.npy", "m")


# Pictures


@pytest.mark.parametrize(
    "value",
    [
        Image.new("RGB", (3, 2), (255, 0, 0)),
        np.array([[[255, 0, 0]] * 3] * 2, np.uint8),
        np.array([[[1.0, 0, 0, 1]] * 3] * 2),
        torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 2, 3),
        torch.tensor([1.0, -1, -1])[:, None, None].expand(3, 2, 3),
    ],
    ids=["pil", "uint8", "rgba", "tensor", "signed"],
)
def test_every_form_of_a_picture(value):
    out = rgb(value, "p")
    assert (out.shape, out.dtype) == ((2, 3, 3), np.uint8)
    assert out[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a.png", "p is str of shape None; one picture is needed"),
        (np.zeros((2, 2, 7), np.uint8), "p has 7 channels"),
        (np.full((2, 2, 3), 40.0), "p has values from 40 to 40"),
    ],
)
def test_what_is_no_picture(value, words):
    with pytest.raises(InvalidValueError, match=words):
        rgb(value, "p")


def test_an_output_without_pictures():
    with pytest.raises(InvalidValueError, match="returned int without images"):
        generated_pictures(3)

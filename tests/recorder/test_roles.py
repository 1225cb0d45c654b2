"""Roles of annotations: how they are given with a request, and what is refused before anything is drawn."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_pipelines import make_pipe

from attlas.recorder import Annotation, Capture, Recorder, load_pipeline, plan, record
from attlas.recorder.command_options import _mask
from attlas.recorder.file_values import with_files_read
from attlas.recorder.models.inventory import select
from attlas.recorder.request_files import read_requests
from attlas.recorder.requests import prepare
from attlas.schemas.annotations import roles_of
from attlas.schemas.errors import InvalidValueError, StoreMismatchError, UnknownNameError

SIZE = (16, 16)
MASK = np.tri(16, dtype=bool)
BASE = {"prompt": "a red cat", "seed": 1, "num_inference_steps": 2}
SMALL = Capture(kinds="text", detail="summary")


@pytest.fixture
def undrawn(pipe):
    """A pipeline that must not run."""

    def drawn(*args, **kwargs):
        raise AssertionError("the denoiser ran")

    pipe.unet.forward = drawn
    return pipe


def test_a_role_is_stored_with_the_values(pipe):
    picture = Image.new("RGB", SIZE, (200, 10, 10))
    given = {"dress": Annotation(MASK, role="object"), "truth": {"values": picture, "role": "target"}, "note": "x"}
    with Recorder(pipe, None, SMALL) as rec:
        rec(**BASE, annotations=given)
    group = rec.store.group
    assert roles_of(group) == {"dress": "object", "note": None, "truth": "target"}
    np.testing.assert_array_equal(group["annotations/dress"][0], MASK)
    np.testing.assert_array_equal(group["annotations/truth"][0], np.asarray(picture))


def test_one_request_has_one_text_however_it_is_written(pipe):
    def text(value):
        return prepare(select(pipe, SMALL), {**BASE, "annotations": {"dress": value}}, "0").text

    assert text(MASK) == text(Annotation(MASK)) == text({"values": MASK})
    assert text(Annotation(MASK, "object")) == text({"role": "object", "values": MASK})
    assert text(MASK) != text(Annotation(MASK, "object"))


@pytest.mark.parametrize(
    ("annotations", "error", "words"),
    [
        (
            {"dress": {"values": MASK, "role": "objekt"}},
            UnknownNameError,
            "'objekt' in annotation 'dress'; .*'object'",
        ),
        ({"dress": Annotation(MASK / 1, "object")}, InvalidValueError, "'dress' has the role 'object': .* mask > 0"),
        ({"a": Annotation(MASK, "reference_object")}, InvalidValueError, "'a' .* The run has no reference image"),
        (
            {"a": Annotation(MASK, "object"), "b": Annotation(MASK, "object")},
            InvalidValueError,
            "'a' and 'b' of one",
        ),
    ],
)
def test_a_wrong_role_is_refused_before_anything_is_drawn(undrawn, annotations, error, words):
    with Recorder(undrawn, None, SMALL) as rec, pytest.raises(error, match=words):
        rec(**BASE, annotations=annotations)


def test_a_wrong_size_is_refused_before_anything_is_drawn_where_it_is_known(undrawn):
    wrong = Annotation(np.zeros((8, 8, 3), np.uint8), "target")
    with Recorder(undrawn, None, SMALL) as rec, pytest.raises(InvalidValueError, match=r"uint8 \(16, 16, 3\), got"):
        rec(**BASE, height=16, width=16, annotations={"truth": wrong})


def test_requests_that_cannot_share_a_store_are_refused_before_the_first(undrawn, tmp_path):
    names = ("dress", "coat")
    requests = [{**BASE, "annotations": {name: Annotation(MASK, "object")}} for name in names]
    words = "'coat' has the role 'object', which 'dress' has in these requests.*: give it as 'dress'"
    with pytest.raises(StoreMismatchError, match=words):
        record(undrawn, tmp_path / "s.zarr", requests, SMALL, progress=False)
    with pytest.raises(StoreMismatchError, match=words):
        plan(undrawn, requests, SMALL, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_the_store_keeps_roles(pipe, tmp_path):
    path = tmp_path / "s.zarr"
    with Recorder(pipe, path, SMALL) as rec:
        rec(**BASE, annotations={"dress": Annotation(MASK, "object")})
    pipe = make_pipe()
    with Recorder(pipe, path, SMALL) as rec:
        with pytest.raises(StoreMismatchError, match="'dress' of .*s.zarr has the role 'object', got no role"):
            rec(**BASE, annotations={"dress": MASK})
        with pytest.raises(StoreMismatchError, match="'coat' has the role 'object', which 'dress' has in .*s.zarr"):
            rec(**BASE, annotations={"coat": Annotation(MASK, "object")})
        rec(**BASE, annotations={"dress": Annotation(~MASK, "object")})
    assert rec.store.complete.tolist() == [True, True]


def test_the_demo_gives_roles():
    from attlas.recorder.demo import tryon

    (request,) = tryon.requests(1)
    request["num_inference_steps"] = 1
    with Recorder(load_pipeline("demo:tryon"), None, Capture(detail="summary")) as rec:
        rec(**{name: value for name, value in request.items() if name != "id"})
    assert roles_of(rec.store.group) == {
        "correspondence": "correspondence",
        "garment": "object",
        "reference_garment": "reference_object",
        "target": "target",
        "uv_lookup": None,
    }


# Text


def test_roles_in_a_file(tmp_path):
    Image.new("RGB", (4, 3), (200, 10, 10)).save(tmp_path / "picture.png")
    np.save(tmp_path / "mask.npy", np.full((3, 4), 255, np.uint8))
    np.save(tmp_path / "places.npy", np.zeros((3, 4, 2)))
    files = {"object": "mask.npy", "reference_object": "picture.png", "target": "picture.png"}
    files["correspondence"] = "places.npy"
    given = {role: {"values": name, "role": role} for role, name in files.items()}
    given |= {"plain": {"values": "picture.png"}, "listed": {"values": [[True, False]], "role": "object"}}
    (tmp_path / "r.jsonl").write_text(json.dumps({"annotations": given}))
    (request,) = read_requests(tmp_path / "r.jsonl", ("annotations",))
    made = with_files_read(request)["annotations"]
    assert {name: own.role for name, own in made.items() if name in files} == {name: name for name in files}
    np.testing.assert_array_equal(made["object"].values, np.ones((3, 4), bool))
    np.testing.assert_array_equal(made["reference_object"].values, np.zeros((3, 4), bool))
    np.testing.assert_array_equal(made["target"].values[0, 0], [200, 10, 10])
    assert made["correspondence"].values.shape == (3, 4, 2)
    assert made["plain"].dtype == bool
    assert made["listed"].values == [[True, False]]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (
            {"values": "a.png", "role": "objct"},
            UnknownNameError,
            "'objct' in .*line 1, 'annotations', 'dress'; did",
        ),
        ({"value": "a.png"}, UnknownNameError, "unknown key 'value' in .*line 1.*; did you mean 'values'"),
        ({"role": "object"}, InvalidValueError, "line 1, 'annotations', 'dress' has no 'values'"),
        ({"values": "a.png", "role": "object"}, InvalidValueError, "line 1.*'dress': .*a.png is no picture"),
        ({"values": "a.png", "role": "correspondence"}, InvalidValueError, "line 1.*'dress': .*a.png is no array"),
    ],
)
def test_a_bad_role_in_a_file_names_the_line(tmp_path, given, error, words):
    (tmp_path / "r.jsonl").write_text(json.dumps({"annotations": {"dress": given}}))
    with pytest.raises(error, match=words):
        read_requests(tmp_path / "r.jsonl", ("annotations",))


def test_roles_on_the_command_line():
    name, made = _mask("dress:object", MASK)
    assert (name, made.role) == ("dress", "object")
    assert _mask("dress", MASK)[1].role is None
    with pytest.raises(UnknownNameError, match="unknown role 'objct' in --mask dress:objct; did you mean 'object'"):
        _mask("dress:objct", MASK)

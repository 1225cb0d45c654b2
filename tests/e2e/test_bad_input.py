"""Bad input on the command line: one clear message, exit status 2, no traceback, nothing written half."""

import json
import shutil

import numpy as np
import pytest
import zarr
from PIL import Image

from attlas.schemas import simulate_store
from attlas.schemas.cli.group import main


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    path = tmp_path_factory.mktemp("simulated") / "s.zarr"
    simulate_store(path)
    return path


@pytest.fixture
def store(simulated, tmp_path):
    """A copy of the store, of the test's own."""
    return shutil.copytree(simulated, tmp_path / "s.zarr")


@pytest.fixture
def attlas(monkeypatch, capsys, tmp_path):
    """Run the command in an empty folder; gives exit status and what stderr says."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["attlas", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return stopped.value.code, error

    return run


def refused(result, *words):
    status, error = result
    assert status == 2, error
    for word in words:
        assert word in error


def test_a_model_folder_that_is_none(attlas, tmp_path):
    refused(attlas("record", "./nothing", "s.zarr", "--prompt", "a"), "there is no pipeline at ./nothing")
    (tmp_path / "empty").mkdir()
    refused(attlas("record", "empty", "s.zarr", "--prompt", "a"), "has no model_index.json")
    assert not (tmp_path / "s.zarr").exists()


def test_an_unknown_pipeline_class(attlas, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model_index.json").write_text(json.dumps({"_class_name": "StableDifusionPipeline"}))
    refused(
        attlas("record", "model", "s.zarr", "--prompt", "a"),
        "unknown pipeline class 'StableDifusionPipeline'",
        "did you mean 'StableDiffusionPipeline'",
    )


def test_a_request_with_a_wrong_key(attlas, tmp_path):
    (tmp_path / "r.jsonl").write_text('{"prompt": "a disc"}\n{"prompt": "a disc", "sed": 3}\n')
    refused(attlas("record", "demo:shapes", "s.zarr", "--requests", "r.jsonl"), "line 2", "'sed'", "'seed'", "accepted")
    (tmp_path / "r.jsonl").write_text("{prompt\n")
    refused(attlas("record", "demo:shapes", "s.zarr", "--requests", "r.jsonl"), "line 1")
    assert not (tmp_path / "s.zarr").exists()


def test_an_image_that_is_none(attlas, tmp_path):
    (tmp_path / "cat.png").write_text("meow")
    refused(attlas("record", "demo:tryon", "s.zarr", "--image", "reference_image=cat.png"), "cat.png")
    refused(attlas("record", "demo:tryon", "s.zarr", "--image", "reference_image=dog.png"), "dog.png")


def test_a_mask_of_another_size(attlas, tmp_path):
    Image.fromarray(np.zeros((16, 16), "u1")).save(tmp_path / "mask.png")
    refused(
        attlas("record", "demo:shapes", "s.zarr", "--prompt", "a disc", "--steps", "1", "--mask", "disc=mask.png"),
        "16x16",
        "64x64",
    )


def test_a_path_that_holds_something_else(attlas, tmp_path):
    (tmp_path / "notes").write_text("mine")
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    for path in ("notes", "other.zarr"):
        refused(attlas("record", "demo:shapes", path, "--prompt", "a disc"), path, "not an attlas store")
        refused(attlas("info", path), path, "not an attlas store")
        refused(attlas("score", path), path, "not an attlas store")
    assert (tmp_path / "notes").read_text() == "mine"
    assert not list((tmp_path / "other.zarr").glob("run*"))


def test_a_store_of_another_model(attlas, store):
    refused(attlas("record", "demo:shapes", "s.zarr", "--prompt", "a disc"), "s.zarr", "model_digest")


def test_a_plan_that_cannot_be(attlas, store):
    refused(attlas("plan", "demo:shapes", "s.zarr", "--prompt", "a disc"), "s.zarr", "model_digest")
    refused(attlas("plan", "demo:shapes", "--prompt", "a disc", "--keys", "dics"), "'dics'", "did you mean 'disc'")
    refused(attlas("plan", "demo:shapes", "--prompt", "a disc", "--keep-steps", "1:x"), "START:STOP:STEP")
    refused(attlas("plan", "demo:tryon", "--samples", "1", "--no-run"), "shows only in a run", "without --no-run")


def test_a_newer_schema(attlas, store):
    root = json.loads((store / "zarr.json").read_text())
    root["attributes"]["attlas"]["schema"] = 9
    (store / "zarr.json").write_text(json.dumps(root))
    for command in (("info",), ("map", "--map", "ulam"), ("record", "--prompt", "a disc")):
        first = ["demo:shapes"] if command[0] == "record" else []
        refused(attlas(command[0], *first, "s.zarr", *command[1:]), "schema 9", "schema 2")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--kinds", "txt"), ("unknown kind 'txt'", "did you mean 'text'")),
        (("--layers", "upblocks.*"), ("upblocks.*",)),
        (("--detail", "ful"), ("'ful'", "did you mean 'full'")),
        (("--precision", "exakt"), ("'exakt'", "did you mean 'exact'")),
        (("--branches", "conditional"), ("conditional",)),
    ],
)
def test_a_capture_that_cannot_be(attlas, tmp_path, flags, words):
    refused(attlas("record", "demo:shapes", "s.zarr", "--prompt", "a disc", "--steps", "1", *flags), *words)
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--map", "daam", "--word", "dics"), ("'dics'", "did you mean 'disc'")),
        (("--map", "ulam", "--kind", "imag"), ("'imag'", "did you mean 'image'")),
        (("--map", "ulam", "--direction", "g2"), ("g2",)),
        (("--map", "sram", "--patch", "9,9"), ("9", "4x4")),
        (("--map", "sram", "--patch", "one"), ("one",)),
        (("--map", "ulam", "--kind", "text", "--layers", "nowhere.*"), ("nowhere.*",)),
        (("--map", "ulam", "--run", "0007"), ("'0007'",)),
        (("--map", "ulm"), ("ulm",)),
    ],
)
def test_a_map_that_cannot_be(attlas, store, flags, words):
    refused(attlas("map", "s.zarr", *flags, "--out", "m.png"), *words)
    assert not store.with_name("m.png").exists()


def test_no_store_at_all(attlas):
    for command in (("info",), ("score",), ("map", "--map", "ulam"), ("validate",), ("dashboard",)):
        refused(attlas(command[0], "none.zarr", *command[1:]), "none.zarr")

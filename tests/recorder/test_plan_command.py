"""`attlas plan`, and the options for what is kept, as a user calls them."""

import json
import re

import pytest
from click.testing import CliRunner
from matrix.joint_parts import flux
from tiny_pipelines import make_pipe

from attlas.recorder import Capture
from attlas.recorder.command_options import capture_of
from attlas.recorder.commands import plan, record, sites
from attlas.schemas import open_store
from attlas.schemas.errors import CaptureError, UnknownNameError

SMALL = ["--steps", "2", "--set", "height=32", "--set", "width=48", "--set", "max_sequence_length=16"]
CAPTURES = {
    "kinds": None,
    "layers": (),
    "keep_steps": None,
    "heads": None,
    "branches": None,
    "keys": "all",
    "vocabulary": None,
    "detail": "full",
    "encoding": "auto",
    "precision": "exact",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipelines")
    make_pipe().save_pretrained(path / "tiny")
    flux().save_pretrained(path / "flux")
    return path


def run(command, *arguments, code=0):
    done = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done


def test_a_plan_is_what_the_same_record_writes(folders, tmp_path):
    arguments = ["--prompt", "a red cat", "--seed", 0, "--seed", 1, *SMALL, "--keys", "prompt", "--quiet"]
    planned = json.loads(run(plan, folders / "flux", tmp_path / "s", *arguments, "--json").stdout)
    assert list(tmp_path.iterdir()) == []
    run(record, folders / "flux", tmp_path / "s", *arguments)
    written = sum(file.stat().st_size for file in (tmp_path / "s").rglob("*") if file.is_file())
    assert planned["stored"] == pytest.approx(written, rel=0.1)
    assert planned["runs"] == 2
    assert {array["name"] for array in planned["arrays"]} >= {"joint/8x12/log_attention", "joint/8x12/r2g"}
    done = run(plan, folders / "flux", tmp_path / "s", *arguments)
    assert done.stdout == f"0 runs of FluxPipeline (2 more are complete in {tmp_path / 's'}): nothing is left to do\n"


def test_the_table_is_for_people(folders):
    done = run(plan, folders / "flux", "--prompt", "a red cat", *SMALL)
    lines = done.stdout.splitlines()
    assert lines[0] == "1 run of FluxPipeline: 2 denoiser calls, guidance branch cond"
    assert lines[2].split() == ["array", "dims", "shape", "dtype", "raw", "stored"]
    assert any(line.startswith("total ") for line in lines)
    assert any(line.startswith("time  ") and "calls/s" in line for line in lines)
    assert "measured run 1/1" in done.stderr


def test_without_a_run_nothing_is_drawn(folders, monkeypatch):
    def refuse(*_args, **_more):
        raise AssertionError("drawn")

    monkeypatch.setattr("diffusers.FluxPipeline.encode_prompt", refuse)
    done = run(plan, folders / "flux", "--prompt", "a red cat", *SMALL, "--no-run", "--quiet")
    # A run and a branch, 2 calls of 2 layers with 2 heads; 8x12 patches, and as many keys with the 16 tokens.
    assert " 1x1x2x2x2x96x112 " in done.stdout
    assert re.search(r"compressed size and time of \d+ files are not known", done.stdout)


def test_sites_of_a_joint_model(folders):
    done = run(sites, folders / "flux")
    assert "512 text + 4096 generated" in done.stdout
    assert 'Capture(kinds="joint", keys="prompt")' in done.stdout


@pytest.mark.parametrize(
    ("given", "capture"),
    [
        ({}, Capture()),
        ({"kinds": "text, joint"}, Capture(kinds=("text", "joint"))),
        ({"keep_steps": "0,5,10"}, Capture(steps=[0, 5, 10])),
        ({"keep_steps": "::5"}, Capture(steps=slice(None, None, 5))),
        ({"keep_steps": "-4:"}, Capture(steps=slice(-4, None))),
        ({"heads": "1,3"}, Capture(heads=[1, 3])),
        ({"branches": "cond,uncond"}, Capture(branches=("cond", "uncond"))),
        ({"keys": "prompt"}, Capture(keys="prompt")),
        ({"keys": "cat, red"}, Capture(keys=["cat", "red"])),
        ({"vocabulary": "cat,dog"}, Capture(vocabulary=["cat", "dog"])),
        ({"encoding": "both", "precision": "small"}, Capture(encoding="both", precision="small")),
        ({"layers": ("up_blocks.*", "mid_block.*")}, Capture(layers=("up_blocks.*", "mid_block.*"))),
    ],
)
def test_options_are_a_capture(given, capture):
    assert capture_of({**CAPTURES, **given}) == capture


def test_what_is_kept_is_what_the_options_say(folders, tmp_path):
    arguments = ["--prompt", "a red cat", "--steps", 4, "--keep-steps", "1:", "--keys", "cat", "--branches", "cond"]
    run(record, folders / "tiny", tmp_path / "s", *arguments, "--encoding", "dense", "--quiet")
    store = open_store(tmp_path / "s")
    assert store.group["t"][...].tolist() == [1, 2, 3]
    assert store.branches == ("cond",)
    assert store.leaves["text/8x8"].keys == 1


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            ["--keys", "promt"],
            UnknownNameError,
            "unknown word 'promt' in --keys for 'a red cat'; did you mean 'prompt'",
        ),
        (["--keys", "cart"], UnknownNameError, "did you mean 'cat'"),
        (
            ["--branches", "con"],
            UnknownNameError,
            "unknown branch 'con' in StableDiffusionPipeline; did you mean 'cond'",
        ),
        (["--kinds", "joined"], UnknownNameError, "unknown kind 'joined'; did you mean 'joint'"),
        (["--encoding", "fators"], UnknownNameError, "unknown encoding 'fators'; did you mean 'factors'"),
        (["--set", "hight=3"], UnknownNameError, "unknown pipeline argument 'hight'; did you mean 'height'"),
        (["--vocabulary", "cat", "--detail", "summary"], CaptureError, "a vocabulary needs Q of every call"),
    ],
)
def test_names_are_checked_before_the_model_is_loaded(folders, monkeypatch, arguments, error, words):
    def refuse(*_args, **_more):
        raise AssertionError("loaded")

    monkeypatch.setattr("attlas.recorder.pipelines.load_pipeline", refuse)
    for command, place in ((plan, []), (record, ["s.zarr"])):
        with pytest.raises(error, match=words):
            run(command, folders / "tiny", *place, "--prompt", "a red cat", *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--keep-steps", "a"], "--keep-steps a: whole numbers, comma separated, are needed"),
        (["--keep-steps", "1:b"], "--keep-steps 1:b: START:STOP:STEP is needed"),
        (["--keep-steps", "1:2:3:4"], "START:STOP:STEP is needed"),
        (["--keep-steps", "::0"], "a step of 0 goes nowhere"),
    ],
)
def test_calls_that_make_no_sense(folders, arguments, words):
    assert words in run(plan, folders / "tiny", "--prompt", "a cat", *arguments, code=2).stderr


def test_help_is_for_newcomers():
    text = run(plan, "--help").stdout
    assert "demo:shapes" in text
    assert "write nothing" in text

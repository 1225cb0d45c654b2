"""The commands, as a user calls them, on a pipeline folder."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tiny_pipelines import make_pipe

from attlas.recorder.commands import record, sites
from attlas.schemas import open_store
from attlas.schemas.errors import InvalidValueError, UnknownNameError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipelines") / "tiny"
    make_pipe().save_pretrained(path)
    return str(path)


def run(command, *arguments, code=0):
    done = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done


def test_prompts_times_seeds(folder, tmp_path):
    arguments = [folder, tmp_path / "s", "--prompt", "a cat", "--prompt", "a dog", "--seed", 1, "--seed", 2]
    arguments += ["--steps", 2, "--kinds", "text,self", "--json", "--guidance", 3, "--set", "height=16"]
    summary = json.loads(run(record, *arguments).stdout)
    assert summary["runs"] == ["0000", "0001", "0002", "0003"]
    assert summary["branches"] == ["uncond", "cond"]
    assert summary["bytes"] > 0
    assert summary["leaves"]["text/8x8"]["layers"]
    store = open_store(tmp_path / "s")
    assert list(store.group["prompt"][...]) == ["a cat"] * 2 + ["a dog"] * 2
    assert store.group["seed"][...].tolist() == [1, 2, 1, 2]
    again = run(record, *arguments)
    assert json.loads(again.stdout) == summary


def test_the_bar_and_the_summary(folder, tmp_path):
    done = run(record, folder, tmp_path / "s", "--prompt", "a cat", "--steps", 3)
    assert "1 complete of 1 runs" in done.stdout
    assert "run 1/1" in done.stderr
    assert "3/3" in done.stderr
    assert "call/s" in done.stderr or "s/call" in done.stderr
    assert run(record, folder, tmp_path / "q", "--prompt", "a cat", "--steps", 2, "--quiet").output == ""


def test_requests_and_masks_from_files(folder, tmp_path):
    Image.new("L", (16, 16), 255).save(tmp_path / "mask.png")
    (tmp_path / "r.jsonl").write_text(json.dumps({"prompt": "a cat", "id": "cat", "num_inference_steps": 2}))
    arguments = [folder, tmp_path / "s", "--requests", tmp_path / "r.jsonl", "--mask", f"cat={tmp_path / 'mask.png'}"]
    run(record, *arguments, "--detail", "summary", "--layers", "up_blocks.*", "--branches", "cond", "--heads", "1")
    store = open_store(tmp_path / "s")
    assert store.run_ids == ["cat"]
    np.testing.assert_array_equal(store.group["annotations/cat"][0], 1)
    assert store.branches == ("cond",)
    assert store.leaves["text/8x8"].head_labels == (1,)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--prompt", "a", "--detail", "ful"], UnknownNameError, "unknown detail 'ful'; did you mean 'full'"),
        (["--prompt", "a", "--kinds", "txt"], UnknownNameError, "unknown kind 'txt'"),
        (["--prompt", "a", "--set", "gudance_scale=3"], UnknownNameError, "did you mean 'guidance_scale'"),
        (["--prompt", "a", "--set", "eta=x"], InvalidValueError, "--set eta=x: not JSON"),
        (["--prompt", "a", "--image", "image=x.png"], UnknownNameError, "unknown pipeline argument 'image'"),
        (["--prompt", "a", "--image", "ip_adapter_image=x.png"], InvalidValueError, "x.png is no picture"),
        (["--prompt", "a", "--mask", "cat=x.png"], InvalidValueError, "--mask cat: x.png is no picture"),
        ([], InvalidValueError, "needs 'prompt' or 'prompt_embeds'"),
        (["--samples", "2"], InvalidValueError, "--samples takes the samples of a demo world"),
    ],
)
def test_what_is_wrong_is_one_message_and_nothing_is_written(folder, tmp_path, arguments, error, words):
    with pytest.raises(error, match=words):
        run(record, folder, tmp_path / "s", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mask", "cat"], "--mask cat: NAME=VALUE is needed"),
        (["--heads", "a"], "--heads a: whole numbers"),
        (["--samples", "1", "--requests", "r"], "exclude each other"),
        (["--requests", "r", "--prompt", "a"], "--prompt cannot go with"),
    ],
)
def test_flags_that_make_no_sense(folder, tmp_path, arguments, words):
    done = run(record, folder, tmp_path / "s", *arguments, code=2)
    assert words in done.stderr


def test_sites(folder):
    table = run(sites, folder).stdout
    title, rows, hints, more = table.strip().split("\n\n")
    assert more.endswith(f"attlas plan {folder}")
    assert "unet: UNet2DConditionModel" in title
    assert "16x16" in title
    assert "uncond, cond" in title
    assert rows.splitlines()[0].split() == ["kind", "modules", "heads", "grid", "keys", "layers"]
    assert rows.splitlines()[1].split()[:5] == ["self", "1", "2", "8x8", "64"]
    assert 'Capture(kinds="text")' in hints
    assert len(run(sites, folder, "--all").stdout.split("\n\n")[1].splitlines()) == 15
    found = json.loads(run(sites, folder, "--json").stdout)
    assert len(found) == 14
    assert found[0] == {
        "path": "down_blocks.0.attentions.0.transformer_blocks.0.attn1",
        "kind": "self",
        "heads": 2,
        "grid": [8, 8],
        "keys": 64,
        "order": 0,
        "label": "down_blocks.0.attentions.0.transformer_blocks.0.attn1",
        "varies": False,
        "reason": "",
        "segments": [["self", 64]],
    }


@pytest.mark.parametrize("command", [record, sites])
def test_help_is_for_newcomers(command):
    text = run(command, "--help").stdout
    assert "demo:shapes" in text
    assert "owner/model" in text

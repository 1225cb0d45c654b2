"""Three prompts, two pictures each, with guidance, in one command: six runs, each labelled and each its own."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from fidelity import CLOSE, generated, softmax, stored_logits
from matrix.unet_parts import sdxl

from attlas.recorder import Capture, record
from attlas.recorder.commands import record as command
from attlas.schemas import open_store

pytestmark = [
    # Of torch and diffusers, about numpy's next version.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

PROMPTS = ["a red cat", "a blue dog", "red and blue"]
WORDS = [["a</w>", "red</w>", "cat</w>"], ["a</w>", "blue</w>", "dog</w>"], ["red</w>", "and</w>", "blue</w>"]]
NEGATIVE = "cat and dog"
SEEDS = [11, 12, 21, 22, 31, 32]
SIZE = {"height": 32, "width": 48, "num_inference_steps": 2, "guidance_scale": 4.0, "negative_prompt": NEGATIVE}
BATCH = {"prompt": PROMPTS, "num_images_per_prompt": 2, "seed": SEEDS, **SIZE}
SINGLE = [{"prompt": PROMPTS[place // 2], "seed": seed, **SIZE} for place, seed in enumerate(SEEDS)]
CAPTURE = Capture(kinds=("text", "self"))


@pytest.fixture(scope="module")
def pipe():
    return sdxl()


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("sdxl") / "tiny"
    pipe.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def alone(pipe):
    """Every picture in a call of its own, in memory."""
    return record(pipe, None, SINGLE, CAPTURE, progress=False)


@pytest.fixture(scope="module")
def pictures(pipe):
    """What the pipeline alone makes of the batch."""
    return (generated(pipe, BATCH) * 255).round().astype("u1")


def check_labels(store, ids):
    assert store.run_ids == ids
    assert store.complete.tolist() == [True] * 6
    assert store.branches == ("uncond", "cond")
    assert list(store.group["prompt"][...]) == [prompt for prompt in PROMPTS for _ in range(2)]
    assert store.group["seed"][...].tolist() == SEEDS
    assert {leaf.kind for leaf in store.leaves.values()} == {"text", "self"}
    for name in ("text/8x12", "text/4x6"):
        node = store.group[name]
        for run in range(6):
            for branch, words in ((0, ["cat</w>", "and</w>", "dog</w>"]), (1, WORDS[run // 2])):
                tokens, segments = node["token"][run, branch], node["token_segment"][run, branch]
                assert [str(token) for token in tokens[segments == "word"]] == words
                text = NEGATIVE if branch == 0 else PROMPTS[run // 2]
                spans = zip(node["token_start"][run, branch], node["token_end"][run, branch], strict=True)
                assert [text[start:end] for start, end in spans if end > start] == [w[: -len("</w>")] for w in words]


def check_attention(store, alone):
    """Each run's attention is that of the same prompt and seed alone, and of no other run."""
    for name in store.leaves:
        own = [softmax(stored_logits(store, name, run), -1) for run in range(6)]
        single = [softmax(stored_logits(alone, name, run), -1) for run in range(6)]
        for run in range(6):
            np.testing.assert_allclose(own[run], single[run], **CLOSE)
            distances = [np.abs(own[run] - other).mean() for other in single]
            assert int(np.argmin(distances)) == run
            assert sorted(distances)[1] > 5 * distances[run]


def check_pictures(store, pictures):
    for run in range(6):
        np.testing.assert_array_equal(store.group["generated_image"][run], pictures[run])
    assert len({picture.tobytes() for picture in pictures}) == 6


@pytest.fixture(scope="module")
def batch(pipe, tmp_path_factory):
    return record(pipe, tmp_path_factory.mktemp("batch") / "s.zarr", [BATCH], CAPTURE, progress=False)


def test_one_call(batch, alone, pictures):
    check_labels(batch, [f"0000-{place}" for place in range(6)])
    check_pictures(batch, pictures)
    check_attention(batch, alone)


def test_one_command(folder, batch, pictures, tmp_path):
    (tmp_path / "r.jsonl").write_text(json.dumps({**BATCH, "id": "all"}))
    arguments = [folder, tmp_path / "s.zarr", "--requests", tmp_path / "r.jsonl", "--kinds", "text,self", "--quiet"]
    run(arguments)
    store = open_store(tmp_path / "s.zarr")
    check_labels(store, [f"all-{place}" for place in range(6)])
    check_pictures(store, pictures)
    for name, leaf in store.leaves.items():
        for array in ("log_attention", "query_vectors", "logsumexp", "g2r", "r2g"):
            if array in store.group[name]:
                np.testing.assert_array_equal(store.group[name][array][...], batch.group[name][array][...])
        assert leaf == batch.leaves[name]


def test_prompts_and_pictures_as_flags(folder, tmp_path):
    """One request a prompt, of two pictures; one seed draws both, one after the other."""
    settings = {"num_images_per_prompt": 2, **{name: SIZE[name] for name in ("height", "width", "negative_prompt")}}
    arguments = [folder, tmp_path / "s.zarr", "--seed", 7, "--steps", 2, "--guidance", 4, "--quiet"]
    arguments += [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    arguments += [word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    run([*arguments, "--detail", "summary"])
    store = open_store(tmp_path / "s.zarr")
    assert store.run_ids == [f"{number:04}-{place}" for number in range(3) for place in range(2)]
    assert list(store.group["prompt"][...]) == [prompt for prompt in PROMPTS for _ in range(2)]
    assert store.group["seed"][...].tolist() == [7] * 6
    assert store.complete.all()
    shown = store.group["generated_image"][...]
    assert len({picture.tobytes() for picture in shown}) == 6


def run(arguments):
    done = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output

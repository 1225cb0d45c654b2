"""Words that were in no prompt: embeddings, W_k, and dense and factors side by side."""

import numpy as np
import pytest
import torch
from tiny_pipelines import draw, make_pipe

from attlas.recorder import Capture, Recorder
from attlas.schemas import open_store, validate_store
from attlas.schemas.errors import CaptureError
from attlas.schemas.vocabulary import read_vocabulary

REQUEST = {"prompt": "a red cat", "num_inference_steps": 2, "output_type": "np"}
WORDS = ("dog", "blue", "xy")


@pytest.fixture(scope="module")
def pipe():
    """One for all: a recording leaves it as it was."""
    return make_pipe()


@pytest.fixture(scope="module")
def recorded(pipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded") / "s.zarr"
    plain = draw(pipe, **REQUEST, seed=1)
    with Recorder(pipe, path, Capture(kinds="text", vocabulary=WORDS)) as rec:
        picture = rec(**REQUEST, seed=1).images
    np.testing.assert_array_equal(picture, plain)
    return open_store(path)


def test_words_are_stored_as_the_text_encoder_sees_them_alone(pipe, recorded):
    vocabulary = read_vocabulary(recorded.snapshot)
    assert vocabulary.words == WORDS
    assert vocabulary.tokens[0] == ("<|startoftext|>", "dog</w>", "<|endoftext|>")
    assert vocabulary.segments[2] == ("bos", "word", "word", "eos")
    ids = pipe.tokenizer("dog", padding="max_length", max_length=12, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = pipe.text_encoder(ids)[0][0, :3].numpy()
    np.testing.assert_allclose(vocabulary.embeddings[0], expected, rtol=1e-6, atol=1e-6)
    assert validate_store(recorded, deep=True) == []


def test_stored_projections_give_the_keys_that_the_layers_would_have(pipe, recorded):
    embedding = read_vocabulary(recorded.snapshot).embeddings[1]
    for name, leaf in recorded.leaves.items():
        weights = recorded.group[f"{name}/key_projection"][...].astype("f4")
        for layer, path in enumerate(leaf.layers):
            module = pipe.unet.get_submodule(path)
            expected = module.to_k(torch.from_numpy(embedding)).detach().numpy()
            np.testing.assert_allclose(embedding @ weights[layer], expected, rtol=2e-3, atol=2e-3)


def test_keys_of_the_prompt_follow_from_its_own_embeddings(pipe, recorded):
    ids = pipe.tokenizer("a red cat", padding="max_length", max_length=12, return_tensors="pt").input_ids
    with torch.no_grad():
        embedding = pipe.text_encoder(ids)[0][0].numpy()
    cond = list(recorded.branches).index("cond")
    for name, leaf in recorded.leaves.items():
        weights = recorded.group[f"{name}/key_projection"][...].astype("f4")
        stored = recorded.group[f"{name}/key_vectors"][0, cond].astype("f4")
        for layer in range(len(leaf.layers)):
            keys = (embedding @ weights[layer]).reshape(leaf.keys, leaf.heads, leaf.channels).swapaxes(0, 1)
            np.testing.assert_allclose(stored[layer], keys, rtol=4e-3, atol=4e-3)


def test_dense_and_factors_stand_side_by_side_and_agree(recorded):
    for name, leaf in recorded.leaves.items():
        assert leaf.encoding == "both"
        arrays = {key: recorded.group[f"{name}/{key}"][0].astype("f4") for key in ("log_attention", "query_vectors")}
        keys = recorded.group[f"{name}/key_vectors"][0].astype("f4")[:, None]
        logits = arrays["query_vectors"] @ np.swapaxes(keys, -1, -2)
        expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        np.testing.assert_allclose(arrays["log_attention"], expected, atol=5e-3)


def test_heads_that_are_kept_are_those_of_the_projection(pipe):
    with Recorder(pipe, None, Capture(kinds="text", vocabulary="dog", heads=[1])) as rec:
        rec(**REQUEST, seed=1)
    for name, leaf in rec.store.leaves.items():
        weights = rec.store.group[f"{name}/key_projection"][0].astype("f4")
        module = pipe.unet.get_submodule(leaf.layers[0])
        expected = module.to_k.weight.detach().numpy()[leaf.channels :].T
        np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-4)


def test_factors_of_text_bring_their_projection_without_a_vocabulary(pipe):
    with Recorder(pipe, None, Capture(kinds=("text", "self"), encoding="factors")) as rec:
        rec(**REQUEST, seed=1)
    assert {name for name in rec.store.leaves if "key_projection" in rec.store.group[name]} == {
        name for name, leaf in rec.store.leaves.items() if leaf.kind == "text"
    }
    assert read_vocabulary(rec.store.snapshot) is None


def test_what_a_vocabulary_cannot_have_is_said(pipe):
    with pytest.raises(CaptureError, match="a vocabulary needs Q of every call.*detail='full'"):
        Capture(vocabulary=("dog",), detail="summary")
    adapted = make_pipe()
    attention = adapted.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    attention.norm_k = torch.nn.LayerNorm(8)
    with (
        Recorder(adapted, None, Capture(kinds="text", vocabulary="dog")) as rec,
        pytest.raises(CaptureError, match="attn2 makes its keys by more than one product with W_k"),
    ):
        rec(**REQUEST, seed=1)


def test_a_resumed_store_keeps_its_vocabulary(pipe, tmp_path):
    for number in range(2):
        with Recorder(pipe, tmp_path / "s.zarr", Capture(kinds="text", vocabulary=WORDS)) as rec:
            rec(**REQUEST, seed=number)
    assert read_vocabulary(open_store(tmp_path / "s.zarr").snapshot).words == WORDS
    assert rec.store.complete.sum() == 2

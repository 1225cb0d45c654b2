"""What a recording holds, against Q and K that the test takes from the model itself."""

import numpy as np
import pytest
import torch
from tiny_pipelines import TOKENS, draw, make_pipe

from attlas.recorder import Capture, Recorder, record
from attlas.recorder.models.inventory import attention_modules

PROMPT = "a red cat and a blue dog"
EVERYTHING = ("text", "self")


class Oracle:
    """Q, K and V of every attention module and call, from hooks on its projections; attention by numpy in float64."""

    def __init__(self, pipe):
        self.calls = {}
        self.outputs = {}
        self._handles = []
        for path, module in attention_modules(pipe.unet).items():
            for name in ("to_q", "to_k", "to_v"):
                self._hook(getattr(module, name), path, name, module.heads)
            self._handles.append(
                module.to_out[0].register_forward_pre_hook(
                    lambda _, args, path=path, heads=module.heads: self.outputs.setdefault(path, []).append(
                        self._split(args[0], heads)
                    )
                )
            )

    def _hook(self, projection, path, name, heads):
        def keep(module, args, output):
            self.calls.setdefault((path, name), []).append(self._split(output, heads))

        self._handles.append(projection.register_forward_hook(keep))

    @staticmethod
    def _split(tensor, heads):
        rows, tokens, width = tensor.shape
        split = tensor.detach().double().numpy().reshape(rows, tokens, heads, width // heads)
        return split.transpose(0, 2, 1, 3)

    def close(self):
        for handle in self._handles:
            handle.remove()

    def logits(self, path, call):
        """(row, head, query, key)"""
        q, k = self.calls[path, "to_q"][call], self.calls[path, "to_k"][call]
        return q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])

    def attention(self, path, call, direction):
        return softmax(self.logits(path, call), -1 if direction == "g2r" else -2)


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def watched(pipe, **arguments):
    oracle = Oracle(pipe)
    draw(pipe, **arguments)
    oracle.close()
    return oracle


def stored(store, leaf, direction, row=0):
    """Attention of a leaf, (branch, t, layer, head, query, key), from whichever encoding it has."""
    node = store.group[leaf]
    if store.leaves[leaf].encoding == "dense":
        logits = node["log_attention"][row].astype("f8") + node["logsumexp"][row].astype("f8")[..., None]
    else:
        q, k = node["query_vectors"][row].astype("f8"), node["key_vectors"][row].astype("f8")
        k = k if store.leaves[leaf].keys_vary else k[:, None]
        logits = q @ np.swapaxes(k, -1, -2)
    return softmax(logits, -1 if direction == "g2r" else -2)


def recorded(pipe, capture, **arguments):
    with Recorder(pipe, None, capture) as rec:
        rec(**{"num_inference_steps": 2, "output_type": "np", "seed": 0, **arguments})
    return rec.store


@pytest.mark.parametrize("guidance", [7.5, 1.0])
@pytest.mark.parametrize("detail", ["full", "summary"])
def test_the_picture_is_the_same_to_the_last_bit(pipe, tmp_path, guidance, detail):
    arguments = {"prompt": PROMPT, "guidance_scale": guidance}
    plain = draw(pipe, **arguments, seed=5)
    state = torch.get_rng_state()
    with Recorder(pipe, tmp_path / "s.zarr", Capture(kinds=EVERYTHING, detail=detail)) as rec:
        watched_picture = rec(**arguments, seed=5, num_inference_steps=2, output_type="np").images
    np.testing.assert_array_equal(watched_picture, plain)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(draw(pipe, **arguments, seed=5), plain)


def test_without_a_seed_the_global_generator_is_used_as_ever(pipe):
    torch.manual_seed(11)
    plain = pipe(prompt=PROMPT, num_inference_steps=2, output_type="np").images
    torch.manual_seed(11)
    with Recorder(pipe) as rec:
        seen = rec(prompt=PROMPT, num_inference_steps=2, output_type="np").images
    np.testing.assert_array_equal(seen, plain)
    assert int(rec.store.group["seed"][0]) == -1


@pytest.mark.parametrize("encoding", ["dense", "factors", "auto"])
@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_attention_is_the_models_own(pipe, encoding, direction):
    oracle = watched(pipe, prompt=PROMPT)
    store = recorded(pipe, Capture(kinds=EVERYTHING, encoding=encoding), prompt=PROMPT)
    paths = [path for leaf in store.leaves.values() for path in leaf.layers]
    assert sorted(paths) == sorted(attention_modules(pipe.unet))
    assert store.branches == ("uncond", "cond")
    for name, leaf in store.leaves.items():
        got = stored(store, name, direction)
        np.testing.assert_allclose(got.sum(-1 if direction == "g2r" else -2), 1, atol=1e-9)
        for layer, path in enumerate(leaf.layers):
            for call in range(2):
                np.testing.assert_allclose(got[:, call, layer], oracle.attention(path, call, direction), atol=1e-3)


def test_stored_rows_sum_to_one_without_being_normalised_again(pipe):
    store = recorded(pipe, Capture(kinds="text", encoding="dense"), prompt=PROMPT)
    for name in store.leaves:
        rows = np.exp(store.group[name]["log_attention"][0].astype("f8")).sum(-1)
        np.testing.assert_allclose(rows, 1, atol=2e-3)


def test_attention_times_values_is_what_the_kernel_gave(pipe):
    oracle = watched(pipe, prompt=PROMPT)
    store = recorded(pipe, Capture(kinds=EVERYTHING), prompt=PROMPT)
    for name, leaf in store.leaves.items():
        got = stored(store, name, "g2r")
        for layer, path in enumerate(leaf.layers):
            for call in range(2):
                output = got[:, call, layer] @ oracle.calls[path, "to_v"][call]
                np.testing.assert_allclose(output, oracle.outputs[path][call], atol=2e-3)


@pytest.mark.parametrize("encoding", ["dense", "factors"])
def test_the_summary_is_the_mean_of_the_whole(pipe, encoding):
    full = recorded(pipe, Capture(kinds=EVERYTHING, encoding=encoding), prompt=PROMPT)
    summary = recorded(pipe, Capture(kinds=EVERYTHING, detail="summary"), prompt=PROMPT)
    assert {leaf.encoding for leaf in summary.leaves.values()} == {"none"}
    for name, leaf in full.leaves.items():
        g2r, r2g = stored(full, name, "g2r"), stored(full, name, "r2g")
        for store in (full, summary):
            node = store.group[name]
            np.testing.assert_allclose(node["g2r"][0], g2r.mean(-2), atol=1e-3)
            np.testing.assert_allclose(node["r2g"][0], r2g.mean(-1), atol=1e-3)
            np.testing.assert_allclose(node["g2r"][0].sum(-1), 1, atol=1e-5)
            np.testing.assert_allclose(node["r2g"][0].sum(-1), 1, atol=1e-5)
            assert ("attention_mean" in node) == leaf.has_mean
            if leaf.has_mean:
                np.testing.assert_allclose(node["attention_mean"][0].astype("f4"), g2r.mean(1), atol=1e-3)
                back = node["attention_mean_r2g"]
                got = back[0].astype("f4") * back.attrs["scale_factor"]
                np.testing.assert_allclose(got, r2g.mean(1), atol=1e-3)


def test_without_guidance_there_is_one_branch_with_every_head(pipe):
    oracle = watched(pipe, prompt=PROMPT, guidance_scale=1.0)
    store = recorded(pipe, Capture(kinds="text"), prompt=PROMPT, guidance_scale=1.0)
    assert store.branches == ("cond",)
    for name, leaf in store.leaves.items():
        assert leaf.heads == 2
        got = stored(store, name, "g2r")
        for layer, path in enumerate(leaf.layers):
            np.testing.assert_allclose(got[:, 0, layer], oracle.attention(path, 0, "g2r"), atol=1e-3)


def test_prompts_times_pictures_become_runs(pipe):
    arguments = {"prompt": ["a red cat", "a blue dog"], "num_images_per_prompt": 2}
    oracle = watched(pipe, **arguments)
    with Recorder(pipe, None, Capture(kinds="text")) as rec:
        output = rec(**arguments, num_inference_steps=2, output_type="np", seed=0, id="both")
    store = rec.store
    assert store.run_ids == ["both-0", "both-1", "both-2", "both-3"]
    assert list(store.complete) == [True] * 4
    assert list(store.group["prompt"][...]) == ["a red cat"] * 2 + ["a blue dog"] * 2
    for run in range(4):
        picture = (output.images[run] * 255).round().astype("u1")
        np.testing.assert_array_equal(store.group["generated_image"][run], picture)
        for name, leaf in store.leaves.items():
            got = stored(store, name, "g2r", row=run)
            for layer, path in enumerate(leaf.layers):
                want = oracle.attention(path, 1, "g2r")
                np.testing.assert_allclose(got[0, 1, layer], want[run], atol=1e-3)
                np.testing.assert_allclose(got[1, 1, layer], want[4 + run], atol=1e-3)
    words = store.group["text/8x8/token"]
    assert words[0, 1].tolist()[1:4] == ["a</w>", "red</w>", "cat</w>"]
    assert words[3, 1].tolist()[1:4] == ["a</w>", "blue</w>", "dog</w>"]
    assert words[3, 0].tolist() == ["<|startoftext|>"] + ["<|endoftext|>"] * (TOKENS - 1)


def test_a_batch_with_one_seed_each_equals_single_runs(pipe):
    capture = Capture(kinds="text")
    batch = recorded(pipe, capture, prompt=["a red cat", "a blue dog"], seed=[4, 9])
    single = recorded(pipe, capture, prompt="a blue dog", seed=9)
    assert [int(seed) for seed in batch.group["seed"][...]] == [4, 9]
    for name in batch.leaves:
        np.testing.assert_allclose(stored(batch, name, "g2r", 1), stored(single, name, "g2r", 0), atol=2e-3)


def test_grids_of_pictures_that_are_not_square(pipe):
    oracle = watched(pipe, prompt=PROMPT, height=16, width=32)
    store = recorded(pipe, Capture(kinds=EVERYTHING), prompt=PROMPT, height=16, width=32)
    assert set(store.leaves) == {"text/8x16", "text/4x8", "self/8x16", "self/4x8"}
    assert store.image_shape == (16, 32)
    leaf = store.leaves["self/8x16"]
    assert (leaf.key_y[:17], leaf.key_x[:17]) == ((0,) * 16 + (1,), (*range(16), 0))
    got = stored(store, "text/8x16", "r2g")
    for layer, path in enumerate(store.leaves["text/8x16"].layers):
        np.testing.assert_allclose(got[:, 0, layer], oracle.attention(path, 0, "r2g"), atol=1e-3)


def test_selections_of_layers_heads_branches_and_calls(pipe):
    whole = recorded(pipe, Capture(kinds="text", encoding="dense"), prompt=PROMPT, num_inference_steps=4)
    capture = Capture(
        kinds="text", encoding="dense", layers=["up_blocks.1.*"], heads=[1], branches="cond", steps=slice(1, None, 2)
    )
    store = recorded(pipe, capture, prompt=PROMPT, num_inference_steps=4)
    (leaf,) = store.leaves.values()
    assert all(path.startswith("up_blocks.1.") for path in leaf.layers)
    assert len(leaf.layers) == 2
    assert leaf.head_labels == (1,)
    assert store.branches == ("cond",)
    assert store.group["t"][...].tolist() == [1, 3]
    assert store.group["timestep"][0].tolist() == whole.group["timestep"][0].tolist()[1::2]
    want = whole.group["text/8x8/log_attention"][0][1:, 1::2, 1:, 1:]
    np.testing.assert_array_equal(store.group["text/8x8/log_attention"][0], want)


def test_steps_may_leave_out_the_first_call(pipe):
    store = recorded(pipe, Capture(kinds="text", steps=[2]), prompt=PROMPT, num_inference_steps=3)
    assert store.calls == 1
    assert store.group["t"][...].tolist() == [2]


@pytest.mark.parametrize("steps", [5, 11])
def test_shards_of_any_block_hold_every_call(pipe, monkeypatch, steps):
    for name in ("SHARD_BYTES", "SUMMARY_BYTES", "MEAN_BYTES", "CHUNK_BYTES", "MEAN_CHUNK_BYTES"):
        monkeypatch.setattr(f"attlas.schemas.layout.{name}", 2_000)
    store = recorded(pipe, Capture(kinds=EVERYTHING), prompt=PROMPT, num_inference_steps=steps)
    blocks = {store.layout(name, "logsumexp").t_block for name in store.leaves}
    assert any(block < steps for block in blocks)
    monkeypatch.undo()
    whole = recorded(pipe, Capture(kinds=EVERYTHING), prompt=PROMPT, num_inference_steps=steps)
    for name in store.leaves:
        for variable in whole.group[name].array_keys():
            np.testing.assert_array_equal(store.group[name][variable][:1], whole.group[name][variable][:1])


def test_many_requests_make_one_store(pipe, tmp_path):
    requests = [{"prompt": PROMPT, "seed": seed, "num_inference_steps": 2} for seed in range(3)]
    store = record(pipe, tmp_path / "s.zarr", requests, Capture(kinds="text"), progress=False)
    assert store.run_ids == ["0000", "0001", "0002"]
    assert store.complete.all()
    for row in range(3):
        files = [file.relative_to(tmp_path / "s.zarr") for file in (tmp_path / "s.zarr/text").rglob(f"c.{row}.*")]
        small = [file.parts[1:3] for file in files if file.parts[2] != "log_attention"]
        # One shard of each array of a leaf, but of the attention itself one for each layer.
        assert len(small) == len(set(small))


def test_the_model_may_be_bfloat16():
    pipe = make_pipe().to(torch.bfloat16)
    oracle = watched(pipe, prompt=PROMPT)
    store = recorded(pipe, Capture(kinds="text", encoding="dense"), prompt=PROMPT)
    (path, *_) = store.leaves["text/8x8"].layers
    np.testing.assert_allclose(stored(store, "text/8x8", "g2r")[:, 0, 0], oracle.attention(path, 0, "g2r"), atol=1e-3)


def test_an_annotation_may_come_with_the_request_or_after_the_picture(pipe):
    mask = np.zeros((16, 16), bool)
    mask[4:8] = True
    seen = []

    def annotate(request, picture):
        seen.append((request, picture))
        return {"bright": float(picture.mean()), "word": request["prompt"].split()[2]}

    with Recorder(pipe, None, Capture(kinds="text"), annotate=annotate) as rec:
        rec(prompt=PROMPT, seed=1, num_inference_steps=2, annotations={"cat": mask})
    node = rec.store.group["annotations"]
    np.testing.assert_array_equal(node["cat"][0], mask.astype("i1"))
    assert node["word"][0] == "cat"
    ((request, picture),) = seen
    assert request["prompt"] == PROMPT
    assert (picture.shape, picture.dtype) == ((16, 16, 3), np.uint8)
    np.testing.assert_array_equal(rec.store.group["generated_image"][0], picture)


@pytest.mark.parametrize("form", ["pil", "np", "pt"])
def test_the_picture_is_stored_from_any_output_type(pipe, form):
    stores = []
    for output_type in ("pil", form):
        with Recorder(pipe, None, Capture(kinds="text", detail="summary")) as rec:
            rec(prompt=PROMPT, seed=1, num_inference_steps=2, output_type=output_type, return_dict=form != "pt")
        stores.append(rec.store.group["generated_image"][0])
    np.testing.assert_array_equal(*stores)

"""Seeing the kernel's calls: masks, groups of heads, modules that cannot be seen; and leaving nothing behind."""

import gc
import weakref

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor
from tiny_pipelines import draw, make_pipe
from torch import nn
from torch.nn import functional as F

from attlas.recorder import Capture, Recorder
from attlas.recorder.models.inventory import core
from attlas.recorder.observe import Watch, is_compiled
from attlas.schemas.errors import CaptureError, NotRecordedError, ObservationError, StoreMismatchError

REQUEST = {"prompt": "a red cat", "seed": 0, "num_inference_steps": 2, "output_type": "np"}
TEXT = Capture(kinds="text")


class Grouped:
    """A processor that calls the kernel with grouped heads, a scale of its own and a causal mask."""

    def __init__(self, **settings):
        self.settings = settings

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        def heads(tensor):
            return tensor.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query, key, value = (heads(part(hidden_states)) for part in (attn.to_q, attn.to_k, attn.to_v))
        if "enable_gqa" in self.settings or "one_row" in self.settings:
            key, value = key[:, :1], value[:, :1]
        settings = {name: value for name, value in self.settings.items() if name != "one_row"}
        out = F.scaled_dot_product_attention(query, key, value, **settings)
        self.seen = query, key, out, value
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


class Denoiser(nn.Module):
    def __init__(self, processor):
        super().__init__()
        self.attn = Attention(query_dim=8, heads=2, dim_head=4, processor=processor)

    def forward(self, hidden):
        return self.attn(hidden)


def watch(processor, paths=("attn",)):
    sightings = []
    denoiser = Denoiser(processor)
    with torch.no_grad(), Watch(denoiser, paths, sightings.append):
        denoiser(torch.linspace(-1, 1, 48).reshape(1, 6, 8))
    return sightings


@pytest.mark.parametrize("settings", [{"enable_gqa": True}, {"scale": 0.3}, {"is_causal": True}, {"one_row": True}])
def test_every_argument_of_the_kernel_counts(settings):
    processor = Grouped(**settings)
    (seen,) = watch(processor)
    _, _, out, value = processor.seen
    logits = seen.scale * seen.query @ seen.key.transpose(-1, -2)
    if seen.mask is not None:
        logits = logits.masked_fill(~seen.mask, float("-inf"))
    value = value.expand_as(seen.key)
    np.testing.assert_allclose(logits.softmax(-1) @ value, out, atol=1e-6)


def test_modules_that_are_not_asked_for_are_not_seen():
    assert watch(AttnProcessor2_0(), paths=()) == []


def test_calls_outside_the_denoiser_are_not_seen():
    sightings = []
    with Watch(Denoiser(AttnProcessor2_0()), ["attn"], sightings.append):
        F.scaled_dot_product_attention(*(torch.zeros(1, 2, 3, 4),) * 3)
    assert sightings == []


def test_a_mask_is_part_of_the_record(pipe):
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    forward = attention.forward
    mask = torch.zeros(2, 1, 12)
    mask[:, :, 5:] = -10_000.0

    def masked(hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        return forward(hidden_states, encoder_hidden_states, mask, **kwargs)

    attention.forward = masked
    capture = {"kinds": "text", "layers": "mid_block.*"}
    with Recorder(pipe, None, Capture(**capture)) as rec:
        rec(**REQUEST)
    leaf = rec.store.leaves["text/4x4"]
    assert leaf.encoding == "dense"
    assert np.exp(rec.store.group["text/4x4/log_attention"][0].astype("f4"))[..., 5:].max() == 0
    np.testing.assert_allclose(rec.store.group["text/4x4/g2r"][0][..., :5].sum(-1), 1, rtol=1e-5)
    dense = rec.store.group["text/4x4/g2r"][0]
    with Recorder(pipe, None, Capture(**capture, encoding="factors")) as rec:
        rec(**REQUEST)
    leaf = rec.store.leaves["text/4x4"]
    assert leaf.masked
    queries, keys = (rec.store.group[f"text/4x4/{name}"][0].astype("f4") for name in ("query_vectors", "key_vectors"))
    np.testing.assert_array_equal(queries[..., -1], 1)
    # -10000 leaves a key nothing, and is kept as -inf.
    bias = np.where(mask[:, 0].numpy() < 0, -np.inf, 0)
    np.testing.assert_array_equal(keys[..., -1], np.broadcast_to(bias[:, None, None], keys.shape[:-1]))
    np.testing.assert_allclose(rec.store.group["text/4x4/g2r"][0], dense, atol=1e-3)


def test_a_mask_that_differs_from_query_to_query_is_recorded_dense(pipe):
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    forward = attention.forward
    mask = torch.zeros(2, 16, 12)
    mask[:, ::2, 5:] = -10_000.0

    def masked(hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        return forward(hidden_states, encoder_hidden_states, mask, **kwargs)

    attention.forward = masked
    capture = {"kinds": "text", "layers": "mid_block.*"}
    with Recorder(pipe, None, Capture(**capture)) as rec:
        rec(**REQUEST)
    assert rec.store.leaves["text/4x4"].encoding == "dense"
    attention = np.exp(rec.store.group["text/4x4/log_attention"][0].astype("f4"))
    assert attention[..., ::2, 5:].max() == 0
    assert attention[..., 1::2, 5:].min() > 0
    with (
        Recorder(pipe, None, Capture(**capture, encoding="factors")) as rec,
        pytest.raises(CaptureError, match="differs from query to query.*encoding='dense'"),
    ):
        rec(**REQUEST)


@pytest.mark.parametrize("processor", [SlicedAttnProcessor(1), AttnProcessor()], ids=["sliced", "eager"])
def test_attention_that_cannot_be_seen_is_an_error_that_names_it(pipe, processor, tmp_path):
    pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.set_processor(processor)
    words = rf"mid_block\.attentions\.0\..*attn2 computed .* seen: its processor {type(processor).__name__} does not"
    with Recorder(pipe, tmp_path / "s.zarr", TEXT) as rec, pytest.raises(ObservationError, match=words):
        rec(**REQUEST)
    assert not (tmp_path / "s.zarr").exists()
    assert_as_found(pipe)
    # Where that layer is not asked for, nothing stands in the way.
    with Recorder(pipe, None, Capture(kinds="text", layers="up_blocks.*")) as rec:
        rec(**REQUEST)
    assert rec.store.complete.all()


def test_attention_slicing_of_the_pipeline_is_named_with_its_cure(pipe):
    pipe.enable_attention_slicing(1)
    with (
        Recorder(pipe, None, TEXT) as rec,
        pytest.raises(ObservationError, match=r"pipe\.disable_attention_slicing\(\)"),
    ):
        rec(**REQUEST)
    pipe.disable_attention_slicing()
    with Recorder(pipe, None, TEXT) as rec:
        rec(**REQUEST)


def hooks(module):
    return sum(
        len(getattr(part, name))
        for part in module.modules()
        for name in (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_forward_hooks_always_called",
            "_forward_hooks_with_kwargs",
        )
    )


def assert_as_found(pipe):
    assert hooks(pipe.unet) == 0
    assert torch.overrides._get_current_function_mode_stack() == []


def test_leaving_leaves_the_model_as_found(pipe):
    before = {name: id(processor) for name, processor in pipe.unet.attn_processors.items()}
    forwards = {name: module.forward for name, module in pipe.unet.named_modules()}
    scheduler = pipe.scheduler
    with Recorder(pipe, None, TEXT) as rec:
        assert_as_found(pipe)
        rec(**REQUEST)
        assert_as_found(pipe)
    assert_as_found(pipe)
    assert {name: id(processor) for name, processor in pipe.unet.attn_processors.items()} == before
    assert all(module.forward == forwards[name] for name, module in pipe.unet.named_modules())
    assert pipe.scheduler is scheduler
    assert "_progress_bar_config" in vars(pipe)


class Interrupted(BaseException):
    """As a key press comes: no subclass of Exception."""


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_an_exception_of_the_user_leaves_the_model_as_found(pipe, error):
    plain = draw(pipe, prompt="a red cat", seed=0)

    def fail(*_):
        raise error("mine")

    with pytest.raises(error, match="mine"), Recorder(pipe, None, TEXT) as rec:
        rec(**REQUEST, callback_on_step_end=fail)
    assert_as_found(pipe)
    assert not rec.store.complete.any()
    np.testing.assert_array_equal(draw(pipe, prompt="a red cat", seed=0), plain)
    with Recorder(pipe, None, TEXT) as rec:
        rec(**REQUEST)
    assert rec.store.complete.all()


@pytest.mark.parametrize("error", [RuntimeError, Interrupted])
def test_an_exception_inside_the_model_leaves_it_as_found(pipe, error):
    def fail(*_):
        raise error("broken layer")

    handle = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.register_forward_hook(fail)
    with Recorder(pipe, None, TEXT) as rec, pytest.raises(error, match="broken layer"):
        rec(**REQUEST)
    handle.remove()
    assert_as_found(pipe)


def test_two_recorders_on_one_model_are_refused(pipe):
    with Recorder(pipe, None, TEXT) as rec:
        with pytest.raises(ObservationError, match="is being recorded already"), Recorder(pipe, None, TEXT):
            pytest.fail("entered")
        rec(**REQUEST)
    with Recorder(pipe, None, TEXT) as rec:
        rec(**REQUEST)
    assert rec.store.complete.all()


def test_two_models_may_be_recorded_at_once(pipe):
    other = make_pipe(seed=1)
    with Recorder(pipe, None, TEXT) as first, Recorder(other, None, TEXT) as second:
        first(**REQUEST)
        second(**REQUEST)
    assert first.store.manifest.model_digest != second.store.manifest.model_digest


def test_a_recorder_works_only_inside_its_with(pipe):
    recorder = Recorder(pipe, None, TEXT)
    with pytest.raises(ObservationError, match="only inside its 'with'"):
        recorder(**REQUEST)
    with pytest.raises(NotRecordedError, match="nothing is recorded yet"):
        _ = recorder.store
    with recorder:
        recorder(**REQUEST)
    with pytest.raises(ObservationError, match="this recorder was left"), recorder:
        pytest.fail("entered")


def test_a_complete_run_is_never_written_again(pipe):
    with Recorder(pipe, None, TEXT) as rec:
        rec(**REQUEST, id="one")
        with pytest.raises(StoreMismatchError, match="run 'one' of .* is complete; choose another id"):
            rec(**REQUEST, id="one")
        rec(**REQUEST)
    assert rec.store.run_ids == ["one", "0001"]


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_kept_alive(fails):
    pipe = make_pipe()
    tensors = []

    def step(pipe, number, timestep, given):
        if fails and number == 1:
            raise ValueError("mine")
        return given

    def see(module, args, output):
        tensors.append(weakref.ref(output))

    pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_q.register_forward_hook(see)
    model = weakref.ref(pipe.unet)
    recorder = Recorder(pipe, None, TEXT)
    try:
        with recorder:
            recorder(**REQUEST, callback_on_step_end=step)
    except ValueError:
        assert fails
    del pipe
    gc.collect()
    assert model() is None
    assert tensors
    assert all(tensor() is None for tensor in tensors)
    assert recorder.store.complete.any() == (not fails)


def test_a_compiled_denoiser_is_seen():
    denoiser, hidden = Denoiser(AttnProcessor2_0()), torch.linspace(-1, 1, 48).reshape(1, 6, 8)
    compiled = torch.compile(denoiser, backend="eager")
    assert is_compiled(compiled)
    assert not is_compiled(denoiser)
    seen = []
    with torch.no_grad():
        plain = compiled(hidden)
        with Watch(core(compiled), ["attn"], lambda sighting: seen.append(sighting.query.clone()), compiled=True):
            recorded = compiled(hidden)
    assert torch.equal(plain, recorded)
    (query,) = seen
    assert query.shape == (1, 2, 6, 4)


def test_attention_that_is_not_a_number_names_layer_and_call(pipe):
    pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight.data[0, 0] = float("nan")
    words = r"the attention of mid_block\.attentions\.0\.transformer_blocks\.0\.attn2 is not finite in call 0"
    with Recorder(pipe, None, TEXT) as rec, pytest.raises(ObservationError, match=words):
        rec(**REQUEST)
    assert_as_found(pipe)
    assert not rec.store.complete.any()

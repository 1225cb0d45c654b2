"""Whatever a user does to a pipeline while it is recorded: the record is right, or an error says what to do."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from fidelity import CLOSE, Kernels, assert_as_found, assert_faithful, processors, softmax
from test_families import ip_adapter
from tiny_pipelines import make_pipe, unet
from torch import nn
from torch.nn import functional as F

from attlas.recorder import Capture, Recorder
from attlas.schemas.errors import ObservationError, StoreMismatchError

REQUEST = {"prompt": "a red cat", "seed": 0, "num_inference_steps": 2, "output_type": "np"}
TEXT = Capture(kinds="text", encoding="dense")
MIDDLE = Capture(kinds="text", layers="mid_block.*", encoding="dense")


class Wrapped(nn.Module):
    """A linear layer with a difference of low rank beside it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.down, self.up = nn.Linear(base.in_features, 1, bias=False), nn.Linear(1, base.out_features, bias=False)

    def forward(self, hidden):
        return self.base_layer(hidden) + 3 * self.up(self.down(hidden))


def middle(pipe):
    return pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2


def adapt(pipe):
    attn = middle(pipe)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        attn.to_q = Wrapped(attn.to_q)


def merge(pipe):
    """As the weights of an adapter are merged: in place, where no counter sees it."""
    middle(pipe).to_q.weight.data += 0.5


def replace(pipe):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        pipe.unet = unet().eval()


def eager(pipe):
    pipe.unet.set_attn_processor(AttnProcessor())


def kernel(pipe):
    pipe.unet.set_attn_processor(AttnProcessor2_0())


def twin(pipe):
    pipe.unet = copy.deepcopy(pipe.unet)


def align(pipe):
    """As pipelines are spread over devices: every layer's arguments are moved to where it is."""
    for module in pipe.unet.modules():
        if not list(module.children()):
            add_hook_to_module(module, AlignDevicesHook(execution_device="cpu", io_same_device=True))


def offload(pipe):
    cpu_offload(pipe.unet, execution_device=torch.device("cpu"), offload_buffers=True)


def visit(pipe):
    """As whole models take turns on a device."""
    cpu_offload_with_hook(pipe.unet, execution_device="cpu")


def compiled(pipe):
    pipe.unet = torch.compile(pipe.unet, backend="eager")


def flash(pipe):
    pipe.unet.set_attention_backend("_native_flash")


def observe(pipe, **changes):
    """A plain call, with what the kernel got in it."""
    request = {**REQUEST, **changes}
    seed = request.pop("seed")
    with Kernels(getattr(pipe.unet, "_orig_mod", pipe.unet)) as kernels:
        images = pipe(**request, generator=torch.Generator().manual_seed(seed)).images
    return images, kernels


def assert_recorded(store, run, kernels):
    """The store's attention is that of the kernel's Q and K."""
    for name, leaf in store.leaves.items():
        node = store.group[name]
        for layer, path in enumerate(leaf.layers):
            for t in range(store.calls):
                for branch in range(len(store.branches)):
                    want = softmax(kernels.calls[t][path][0].logits(branch, list(leaf.head_labels)), -1)
                    got = np.exp(node["log_attention"][run, branch, t, layer].astype("f8"))
                    np.testing.assert_allclose(got, want, **CLOSE, err_msg=path)


HARMLESS = [kernel, twin, align, visit, flash, pytest.param(compiled, marks=pytest.mark.slow)]


def of_one_block():
    """A pipeline whose denoiser is traced in a few seconds."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        small = unet(block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    return make_pipe(unet=small.eval())


@pytest.mark.parametrize("change", HARMLESS)
def test_what_changes_no_attention_is_recorded_on(pipe, change):
    pipe = of_one_block() if change is compiled else pipe
    with Recorder(pipe, None, TEXT) as rec:
        rec(**REQUEST)
        change(pipe)
        recorded = rec(**REQUEST).images
        rec(**REQUEST, id="once more")
    images, kernels = observe(pipe)
    np.testing.assert_array_equal(recorded, images)
    assert rec.store.complete.all()
    for run in range(3):
        assert_recorded(rec.store, run, kernels)


@pytest.mark.parametrize(
    "change", [*HARMLESS[:-1], offload, adapt, merge, replace, lambda pipe: pipe.unet.bfloat16().float()]
)
def test_what_is_changed_before_the_first_call_is_what_is_recorded(pipe, change):
    with Recorder(pipe, None, TEXT) as rec:
        change(pipe)
        recorded = rec(**REQUEST).images
    images, kernels = observe(pipe)
    np.testing.assert_array_equal(recorded, images)
    assert_recorded(rec.store, 0, kernels)
    with Recorder(pipe, None, TEXT) as again:
        again(**REQUEST)
    assert rec.store.manifest == again.store.manifest


ANOTHER = [
    (adapt, r"weights: unet\.mid_block.*attn2\.to_q\.base_layer\.weight is new"),
    (merge, r"weights: unet\.mid_block.*attn2\.to_q\.weight has other numbers"),
    (replace, r"weights: unet\..* has other numbers"),
    (ip_adapter, r"weights: unet\..*to_k_ip.* is new"),
    (lambda pipe: pipe.unet.fuse_qkv_projections(), r"weights: unet\..*attn1\.to_qkv\.weight is new"),
    (lambda pipe: pipe.unet.bfloat16(), r"weights: unet\.conv_in\.weight was .* torch\.float32 and is .*bfloat16"),
    (lambda pipe: pipe.text_encoder.half(), r"weights: text_encoder\..* torch\.float16"),
    (
        lambda pipe: setattr(pipe, "scheduler", EulerDiscreteScheduler.from_config(pipe.scheduler.config)),
        r"scheduler\.class: store has 'DDIMScheduler', got 'EulerDiscreteScheduler'",
    ),
]


@pytest.mark.parametrize(("change", "words"), ANOTHER)
def test_another_model_between_two_calls_is_refused_by_name(pipe, change, words):
    with Recorder(pipe, None, TEXT) as rec:
        rec(**REQUEST)
        change(pipe)
        with pytest.raises(StoreMismatchError, match=f"(?s){words}.*enter one with a store of its own"):
            rec(**REQUEST)
    assert rec.store.run_ids == ["0000"]
    assert_as_found(pipe.unet, {name: id(part) for name, part in processors(pipe.unet).items()})


def test_a_change_that_is_undone_is_no_change(pipe):
    first, scheduler = pipe.unet, pipe.scheduler
    with Recorder(pipe, None, TEXT) as rec:
        rec(**REQUEST)
        replace(pipe)
        pipe.scheduler = DDIMScheduler()
        with pytest.raises(StoreMismatchError):
            rec(**REQUEST)
        pipe.unet, pipe.scheduler = first, scheduler
        rec(**REQUEST)
    assert rec.store.complete.all()
    with Recorder(pipe, None, TEXT):
        pass


@pytest.mark.parametrize("change", [eager, lambda pipe: pipe.enable_attention_slicing(1)])
def test_attention_that_no_longer_shows_is_an_error(pipe, change):
    with Recorder(pipe, None, TEXT) as rec:
        rec(**REQUEST)
        change(pipe)
        with pytest.raises(ObservationError, match=r"attn2 computed its attention without being seen.*call pipe\."):
            rec(**REQUEST)
        kernel(pipe)
        rec(**REQUEST)
    assert rec.store.complete.all()


def test_memory_efficient_kernels_that_are_not_there_change_nothing(pipe):
    with Recorder(pipe, None, TEXT) as rec:
        with pytest.raises((ModuleNotFoundError, ValueError)):
            pipe.enable_xformers_memory_efficient_attention()
        rec(**REQUEST)
    assert rec.store.complete.all()


def test_offloaded_weights_are_the_same_model(pipe):
    with Recorder(pipe, None, TEXT) as rec:
        rec(**REQUEST)
        offload(pipe)
        recorded = rec(**REQUEST).images
    images, kernels = observe(pipe)
    np.testing.assert_array_equal(recorded, images)
    assert_recorded(rec.store, 1, kernels)
    with Recorder(pipe, None, TEXT) as again:
        again(**REQUEST)
    assert rec.store.manifest == again.store.manifest


def test_weights_that_are_changed_where_they_are_offloaded_are_another_model(pipe):
    offload(pipe)
    with Recorder(pipe, None, TEXT) as rec:
        rec(**REQUEST)
        held = middle(pipe).to_q._hf_hook.weights_map
        held["weight"].add_(0.5)
        with pytest.raises(StoreMismatchError, match=r"attn2\.to_q\.weight has other numbers"):
            rec(**REQUEST)


def in_callback(change):
    """A callback that makes a change after the first step."""

    def step(pipe, number, timestep, given):
        if number == 0:
            change(pipe)
        return given

    return {"callback_on_step_end": step}


@pytest.mark.parametrize("change", [kernel, align, flash])
def test_what_changes_no_attention_may_come_in_a_run(pipe, change):
    with Recorder(pipe, None, TEXT) as rec:
        recorded = rec(**REQUEST, **in_callback(change)).images
    images, kernels = observe(pipe)
    np.testing.assert_array_equal(recorded, images)
    assert_recorded(rec.store, 0, kernels)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (eager, "attn2 computed its attention without being seen"),
        (lambda pipe: pipe.enable_attention_slicing(1), "attn2 computed its attention without being seen"),
        (adapt, r"to_q\.base_layer\.weight is new after the run: weights were changed while they were recorded"),
        (merge, r"to_q\.weight has other numbers after the run.*change them between two recordings"),
        (replace, r"the run ended after 1 of 2 denoiser calls"),
        (twin, r"a UNet2DConditionModel cannot be copied while it is recorded"),
        (lambda pipe: pipe.unet.fuse_qkv_projections(), r"to_qkv\.weight is new after the run"),
    ],
)
def test_another_model_in_a_run_is_an_error(pipe, change, words):
    with Recorder(pipe, None, TEXT) as rec, pytest.raises(ObservationError, match=words):
        rec(**REQUEST, **in_callback(change))
    assert not rec.store.complete.any()


@pytest.mark.slow
def test_compiling_in_a_run_is_an_error():
    pipe = of_one_block()
    words = "the unet was compiled while it was recorded; compile it before the run"
    with Recorder(pipe, None, MIDDLE) as rec, pytest.raises(ObservationError, match=words):
        rec(**REQUEST, **in_callback(compiled))
    assert not rec.store.complete.any()
    with Recorder(pipe, None, MIDDLE) as rec:
        rec(**REQUEST)
    assert_recorded(rec.store, 0, observe(of_one_block())[1])


def test_another_hook_may_come_and_go_in_a_run(pipe):
    calls = []
    with Recorder(pipe, None, TEXT) as rec:
        rec(
            **REQUEST,
            **in_callback(lambda pipe: middle(pipe).register_forward_hook(lambda *_: calls.append(1) and None)),
        )
    assert len(calls) == 1
    assert len(middle(pipe)._forward_hooks) == 1


@contextlib.contextmanager
def surrounded(pipe, *contexts):
    """The pipeline's denoiser computes inside these contexts."""
    forward = pipe.unet.forward

    def inside(*args, **kwargs):
        with contextlib.ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            return forward(*args, **kwargs)

    pipe.unet.forward = inside
    try:
        yield
    finally:
        del pipe.unet.forward


@pytest.mark.parametrize("encoding", ["dense", "factors"])
@pytest.mark.parametrize(
    "context",
    [torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16), torch.enable_grad],
    ids=["inference", "autocast", "gradients"],
)
def test_surroundings_of_the_denoiser(pipe, context, encoding):
    with surrounded(pipe, context):
        if context is torch.enable_grad:
            pipe.unet.requires_grad_(True)
        assert_faithful(pipe, REQUEST, Capture(kinds=("text", "self"), encoding=encoding), branches=("uncond", "cond"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(pipe, dtype):
    pipe.to(dtype)
    assert_faithful(pipe, REQUEST, Capture(kinds=("text", "self")), branches=("uncond", "cond"))


class Settings:
    """Calls the kernel with further settings."""

    def __init__(self, **settings):
        self.settings = settings

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        if self.settings.get("enable_gqa"):
            key, value = key[:, :1], value[:, :1]
        out = F.scaled_dot_product_attention(query, key, value, **self.settings)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("settings", [{"enable_gqa": True}, {"is_causal": True}, {"scale": 0.9}])
def test_settings_of_the_kernel(pipe, settings):
    middle(pipe).set_processor(Settings(**settings))
    assert_faithful(pipe, REQUEST, MIDDLE, branches=("uncond", "cond"))


class Elsewhere:
    """Calls a kernel below the one that is seen."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        out = torch.ops.aten.scaled_dot_product_attention(query, key, value)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


class Beside(nn.Module):
    """A layer of torch's own attention, which is no part of what is recorded."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()

    def forward(self, *args, **kwargs):
        hidden = self.layer(*args, **kwargs)
        tokens = hidden.flatten(2).transpose(1, 2)
        self.attention(tokens, tokens, tokens, need_weights=False)
        return hidden


def test_calls_below_the_kernel_are_an_error_only_where_they_are_recorded(pipe):
    pipe.unet.conv_in = Beside(pipe.unet.conv_in)
    assert_faithful(pipe, REQUEST, TEXT, branches=("uncond", "cond"))
    middle(pipe).set_processor(Elsewhere())
    words = r"mid_block.*attn2 computed its attention without being seen: its processor Elsewhere"
    with Recorder(pipe, None, TEXT) as rec, pytest.raises(ObservationError, match=words):
        rec(**REQUEST)
    with Recorder(pipe, None, Capture(kinds="text", layers="up_blocks.*")) as rec:
        rec(**REQUEST)
    assert rec.store.complete.all()

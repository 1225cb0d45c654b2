"""Attention written out by hand: what is seen of it, what is refused, and which kind it is."""

import contextlib

import numpy as np
import pytest
import torch
from fidelity import assert_faithful
from hand_variants import (
    Around,
    Both,
    Fused,
    Gathering,
    Hidden,
    InPlace,
    Kernel,
    Linear,
    Normed,
    Online,
    Tempered,
    Twice,
    Unscaled,
    attention,
    watched,
)
from ldm_models import (
    CrossAttention,
    Denoiser,
    ReferenceEncoder,
    WarpPipeline,
    example_pipe,
    patch_pipe,
    picture,
    restore_pipe,
    warp_pipe,
)
from matrix import handwritten
from torch import nn
from torch.utils.checkpoint import checkpoint

from attlas.recorder import Capture, Family, Recorder, record, sites
from attlas.recorder.models import families
from attlas.recorder.observe import Watch
from attlas.recorder.projections import looks_at_itself, projects
from attlas.schemas.errors import CaptureError, InvalidValueError, ObservationError, UnknownNameError

REQUEST = {"example_image": picture(), "num_inference_steps": 2, "seed": 0}
IMAGE = Capture(kinds="image", layers="attentions.middle.*")
assert handwritten.FAMILIES


@pytest.mark.parametrize("kind", [CrossAttention, InPlace, Unscaled, Tempered, Online, Kernel])
def test_the_softmax_seen_is_the_one_that_computed(kind):
    (seen,), value, (out,) = watched(kind)
    assert seen.query.shape == (2, 2, 12, 4)
    assert seen.key.shape == (2, 2, 5, 4)
    assert seen.order == 0
    assert seen.own is False
    got = (attention(seen) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(got, out, atol=1e-5, rtol=1e-4)


def test_a_kernel_call_is_seen_once_and_with_its_mask():
    mask = torch.ones(2, 1, 12, 5, dtype=torch.bool)
    mask[..., 3:] = False
    (seen,), value, (out,) = watched(Kernel, mask=mask)
    assert attention(seen)[..., 3:].max() == 0
    torch.testing.assert_close((attention(seen) @ value).transpose(1, 2).flatten(2), out, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Normed, r"block\.attn2 computes its attention by hand, and it is not softmax\(scale Q K\^T\)"),
        (Linear, r"block\.attn2 computes .* a norm, positions, a mask, a second attention or another scale"),
        (Gathering, r"block\.attn2 computes .*scaled_dot_product_attention, whose calls are recorded as they are"),
        (Hidden, r"block\.attn2 computes .* leave it out of Capture\(layers=\.\.\.\)"),
        (Twice, r"block\.attn2 computed .* seen: .* once each \(but 1, 1 and 2 times\): let it call torch"),
        (Fused, r"block\.attn2 computed its attention without being seen: .*\(but 0, 0 and 0 times\)"),
    ],
)
def test_another_softmax_than_that_of_the_projections_is_an_error_that_says_so(kind, words):
    with pytest.raises(ObservationError, match=words):
        watched(kind)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_attention_that_is_edited_in_later_calls_is_found(call):
    """Of one branch alone, as methods do that put their own attention in its place."""
    pipe = patch_pipe()
    attn = pipe.unet.attentions["middle"].transformer_blocks[0].attn2
    unfold, calls = attn.unfold, []

    def edited(tensor):
        calls.append(1)
        out = unfold(tensor).clone()
        if len(calls) > call:
            out[1] += 0.1
        return out

    attn.unfold = edited
    with Recorder(pipe, None, IMAGE) as rec, pytest.raises(ObservationError, match="it is not softmax"):
        rec(**{**REQUEST, "num_inference_steps": 6})
    assert len(calls) <= call + 2


def test_a_mask_by_hand_is_an_error_with_the_fix():
    mask = torch.ones(2, 5, dtype=torch.bool)
    words = r"block\.attn2 got a mask \(its argument 'mask'\).*: let it call .*scaled_dot_product_attention"
    with pytest.raises(ObservationError, match=words):
        watched(CrossAttention, mask=mask)
    assert len(watched(CrossAttention, mask=None)[0]) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    (seen,), _, _ = watched(CrossAttention, dtype=dtype)
    assert seen.query.dtype == dtype


def test_autocast_and_inference_mode():
    (seen,), _, _ = watched(CrossAttention, around=lambda: torch.autocast("cpu", torch.bfloat16))
    assert seen.query.dtype == torch.bfloat16
    (seen,), _, _ = watched(CrossAttention, around=torch.inference_mode)
    assert seen.query.shape == (2, 2, 12, 4)


def test_a_module_that_computes_twice_in_one_call_is_refused():
    pipe = patch_pipe()
    block = pipe.unet.attentions["middle"].transformer_blocks[0]
    forward = block.compute
    block.compute = lambda x, context: forward(forward(x, context), context)
    words = r"attentions\.middle\.transformer_blocks\.0\.attn2 computed twice in denoiser call 0"
    with Recorder(pipe, None, IMAGE) as rec, pytest.raises(ObservationError, match=words):
        rec(**REQUEST)


def test_checkpointed_blocks_count_once_though_they_compute_twice():
    pipe = patch_pipe(checkpointed=True).unet.requires_grad_(True)
    paths = [path for path, module in pipe.named_modules() if projects(module)]
    seen = []
    context = torch.randn(1, 13, 12, requires_grad=True)
    with Watch(pipe, paths, lambda sighting: seen.append(sighting.path)):
        pipe(torch.randn(1, 4, 6, 8), torch.tensor(5.0), context=context).sum().backward()
    assert context.grad is not None
    assert sorted(seen) == sorted(paths)


class Again(torch.autograd.Function):
    """Checkpointing as latent diffusion writes it: computes without gradients, and again in the backward pass."""

    @staticmethod
    def forward(ctx, function, x, context):
        ctx.function, ctx.save = function, (x, context)
        with torch.no_grad():
            return function(x, context)

    @staticmethod
    def backward(ctx, grad):
        given = [tensor.detach().requires_grad_() for tensor in ctx.save]
        with torch.enable_grad():
            out = ctx.function(*given)
        return None, *torch.autograd.grad(out, given, grad)


def test_checkpoints_of_a_function_of_its_own():
    model, seen = Around(CrossAttention), []
    x, context = torch.randn(1, 4, 8, requires_grad=True), torch.randn(1, 5, 6, requires_grad=True)
    forward = model.block.attn2.__class__.__call__
    model.forward = lambda x, context: Again.apply(lambda *given: forward(model.block.attn2, *given), x, context)
    with Watch(model, ["block.attn2"], seen.append):
        model(x, context).sum().backward()
    assert len(seen) == 1
    assert x.grad is not None
    assert not seen[0].query.requires_grad
    assert checkpoint is not None


@pytest.mark.parametrize(
    ("path", "module", "own"),
    [
        ("a.attn1", CrossAttention(8), True),
        ("a.attn2", CrossAttention(8), False),
        ("a.self_attn", CrossAttention(8), True),
        ("a.attn1", CrossAttention(8, 6), False),
        ("a.attention", CrossAttention(8, 6), False),
        ("a.attention", CrossAttention(8), None),
    ],
)
def test_names_and_widths_tell_the_kind(path, module, own):
    assert looks_at_itself(path, module) is own


@contextlib.contextmanager
def family(**settings):
    """A family of the example pipeline, for a while."""
    made = Family("mine", ("ExamplePipeline", "PatchPipeline"), "image", batch=("example_image",), **settings)
    families.register_family(made)
    try:
        yield
    finally:
        families.FAMILIES.remove(made)


def renamed(pipe, old, new):
    """The pipeline with another name for an attention module of the middle block."""
    block = pipe.unet.attentions["middle"].transformer_blocks[0]
    module = block._modules.pop(old)
    block.add_module(new, module)
    block.__dict__[old] = module
    return pipe


def test_a_name_that_tells_nothing_is_refused_until_the_family_says_it():
    pipe = renamed(patch_pipe(), "attn1", "look")
    layers = Capture(kinds="self", layers="attentions.middle.*look")
    with pytest.raises(CaptureError, match=r"look: its name does not tell .*kinds=\(\("), Recorder(pipe, None, layers):
        pytest.fail("entered")
    (site,) = [site for site in sites(pipe) if site.path.endswith("look")]
    assert "does not tell" in site.reason
    with family(kinds=(("*.look", "self"),)), Recorder(pipe, None, layers) as rec:
        rec(**REQUEST)
    assert list(rec.store.leaves) == ["self/3x4"]


def test_a_name_that_says_what_is_not_so_is_an_error():
    # As latent diffusion's option disable_self_attn does: attn1, too, looks at the context.
    pipe = patch_pipe(context_dim=8, widths=(8, 8))
    pipe.encoder = ReferenceEncoder(8).eval().requires_grad_(False)
    pipe.components["encoder"] = pipe.encoder
    block = pipe.unet.attentions["middle"].transformer_blocks[0]
    forward = block.attn1.forward
    context = []
    block.register_forward_pre_hook(lambda _m, _a, given: context.append(given["context"]), with_kwargs=True)
    block.attn1.forward = lambda x: forward(x, context.pop())
    layers = Capture(kinds="self", layers="attentions.middle.*attn1")
    words = r"attn1 is taken for 'self' attention, but its keys are made of a context; name it in .*kinds="
    with Recorder(pipe, None, layers) as rec, pytest.raises(ObservationError, match=words):
        rec(**REQUEST)
    with family(kinds=(("*.middle.*attn1", "image"),)), Recorder(pipe, None, Capture(layers=layers.layers)) as rec:
        rec(**REQUEST)
    assert rec.store.leaves["image/3x4"].keys == 13


def test_a_family_takes_known_kinds_only():
    with pytest.raises(UnknownNameError, match="unknown kind of attention 'imge'"):
        Family("mine", ("P",), "image", kinds=(("*", "self+imge"),))


def test_two_kernel_calls_of_one_module_have_a_kind_each():
    pipe = restore_pipe()
    block = pipe.unet.attentions["middle"].transformer_blocks[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block.attn2 = Both(16, 16, 12, 4).requires_grad_(False)
    pipe.unet.register_forward_pre_hook(
        lambda _module, _args, given: setattr(block.attn2, "image", given["image"]), with_kwargs=True
    )
    request = {"prompt": "a red cat", "image": picture(), "seed": 0}
    layers = Capture(layers="attentions.middle.*attn2")
    with Recorder(pipe, None, layers) as rec, pytest.raises(ObservationError, match="made 2 attention calls"):
        rec(**request)
    both = Family(
        "both",
        ("RestorePipeline",),
        "text",
        kinds=(("attentions.middle.*attn2", "text+image"),),
        key_grid=handwritten.patches,
    )
    families.register_family(both)
    try:
        with Recorder(pipe, None, layers) as rec:
            rec(**request)
    finally:
        families.FAMILIES.remove(both)
    store = rec.store
    assert set(store.leaves) == {"text/3x4", "image/3x4"}
    assert store.leaves["image/3x4"].key_grid == (4, 3)
    block.attn2.image = None
    with pytest.raises(InvalidValueError, match="two calls of one kind cannot be told apart"):
        Family("mine", ("P",), "image", kinds=(("*", "text+text"),))


def test_attention_that_is_no_number_is_named_as_that():
    pipe = patch_pipe()
    pipe.unet.attentions["middle"].transformer_blocks[0].attn2.to_k.weight.data[0, 0] = float("nan")
    with Recorder(pipe, None, IMAGE) as rec, pytest.raises(ObservationError, match=r"middle.*attn2.*(not finite|NaN)"):
        rec(**REQUEST)


def test_every_module_is_a_site():
    found = sites(restore_pipe())
    heads = {(site.kind, site.heads) for site in found}
    assert heads == {(kind, count) for kind in ("text", "image", "self") for count in (2, 4)}
    assert sum(site.kind == "image" for site in found) == 4
    assert sum(site.kind == "self" for site in found) == 8


def test_class_token_and_features_side_by_side():
    pipe = warp_pipe()
    request = {"example_image": [picture(), picture(value=50)], "seed": [3, 4], "guidance_scale": 2.0}
    with pytest.warns(UserWarning, match="softmax over keys is 1"):
        store = assert_faithful(pipe, request, Capture(heads=[1]), branches=("cond", "uncond"), passes=True)
    shapes = {(leaf.query_grid, leaf.keys): leaf.keys_vary for leaf in store.leaves.values()}
    assert shapes == {((6, 8), 1): True, ((3, 4), 1): True, ((6, 8), 48): True, ((3, 4), 12): True}


def test_keys_that_change_where_the_family_says_they_do_not(recwarn):
    class Still(WarpPipeline):
        pass

    pipe = warp_pipe()
    pipe.__class__ = Still
    still = Family("still", ("Still",), "image", batch=("example_image",), kinds=(("warp_blocks.*attn2", "image"),))
    families.register_family(still)
    layers = Capture(kinds="image", layers="warp_blocks.*", encoding="factors")
    try:
        with Recorder(pipe, None, layers) as rec, pytest.raises(ObservationError, match="the keys of warp_blocks"):
            rec(**REQUEST)
    finally:
        families.FAMILIES.remove(still)


def test_record_takes_a_pipeline_that_is_no_more_than_a_call(tmp_path):
    requests = [REQUEST, {**REQUEST, "seed": 1}]
    with pytest.warns(UserWarning, match="softmax over keys is 1"):
        store = record(example_pipe(), tmp_path / "s.zarr", requests, IMAGE, progress=True)
    assert store.complete.all()


def test_selections_hold_for_handwritten_modules():
    pipe = restore_pipe()
    request = {"prompt": ["a red cat", "a dog"], "image": picture(), "seed": 5, "num_inference_steps": 3}
    capture = Capture(kinds=("image", "text"), layers="*.middle.*", heads=[0, 3], steps=[0, 2], branches="cond")
    store = assert_faithful(pipe, request, capture, branches=("uncond", "cond"))
    assert set(store.leaves) == {"image/3x4", "text/3x4"}
    assert store.leaves["image/3x4"].head_labels == (0, 3)
    np.testing.assert_array_equal(store.group["t"][...], [0, 2])


def test_weights_in_half_precision():
    pipe = patch_pipe()
    pipe.unet.to(torch.bfloat16)
    assert_faithful(pipe, REQUEST, IMAGE, branches=("uncond", "cond"))


class Passing(nn.Module):
    """In the place of a transformer that is not recorded: tracing it would take most of the time."""

    def forward(self, hidden, context):
        return hidden


def middle_pipe():
    pipe = patch_pipe()
    for name in set(pipe.unet.attentions) - {"middle"}:
        pipe.unet.attentions[name] = Passing()
    return pipe


@pytest.mark.slow
def test_a_compiled_denoiser_by_hand():
    pipe = middle_pipe()
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    pipe.components["unet"] = pipe.unet
    with Recorder(pipe, None, IMAGE) as rec:
        rec(**REQUEST)
    compiled = rec.store.group["image/3x4/g2r"][0]
    with Recorder(middle_pipe(), None, IMAGE) as rec:
        rec(**REQUEST)
    np.testing.assert_allclose(compiled, rec.store.group["image/3x4/g2r"][0], atol=1e-6)


def test_adapters_may_wrap_the_projections():
    class Wrapped(nn.Module):
        """A linear layer and a difference of low rank, as adapters wrap it."""

        def __init__(self, base):
            super().__init__()
            self.base_layer = base
            self.down, self.up = nn.Linear(base.in_features, 1, bias=False), nn.Linear(1, base.out_features, bias=False)

        def forward(self, x):
            return self.base_layer(x) + self.up(self.down(x))

    pipe = patch_pipe()
    attn = pipe.unet.attentions["middle"].transformer_blocks[0].attn2
    attn.to_q, attn.to_k = Wrapped(attn.to_q), Wrapped(attn.to_k)
    assert_faithful(pipe, REQUEST, IMAGE, branches=("uncond", "cond"))


def test_modules_of_diffusers_are_none_of_these():
    from diffusers.models.attention_processor import Attention

    assert not projects(Attention(query_dim=8, heads=2, dim_head=4))
    assert not any(projects(module) for module in (nn.Linear(2, 2), nn.MultiheadAttention(8, 2)))
    assert projects(CrossAttention(8))
    assert any(projects(module) for module in Denoiser().modules())

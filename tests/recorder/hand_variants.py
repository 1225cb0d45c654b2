"""Attention modules written out by hand in other ways than most, right and wrong, and one pass over them watched."""

import contextlib

import torch
from ldm_models import CrossAttention
from torch import nn
from torch.nn import functional as F

from attlas.recorder.observe import Watch


class InPlace(CrossAttention):
    """Writes over Q and K: scales Q, then uses up both."""

    def forward(self, x, context=None, mask=None):
        context = x if context is None else context
        query, key, value = self.to_q(x), self.to_k(context), self.fold(self.to_v(context))
        query.mul_(self.scale)
        attention = torch.bmm(self.fold(query), self.fold(key).mT).softmax(-1)
        query.zero_(), key.fill_(7.0)
        return self.to_out(self.unfold(attention @ value))


class Unscaled(CrossAttention):
    """Has no attribute `scale`."""

    def __init__(self, *settings):
        super().__init__(*settings)
        del self.scale

    def forward(self, x, context=None):
        self.__dict__["scale"] = (self.to_q.out_features // self.heads) ** -0.5
        out = super().forward(x, context)
        del self.__dict__["scale"]
        return out


class Tempered(CrossAttention):
    """A scale of its own, as a buffer."""

    def __init__(self, *settings):
        super().__init__(*settings)
        del self.scale
        self.register_buffer("scale", torch.tensor(0.9))


class Online(CrossAttention):
    """No softmax in sight: key by key with a running maximum, as memory-efficient kernels do."""

    def forward(self, x, context=None):
        context = x if context is None else context
        query, key, value = (self.fold(part) for part in (self.to_q(x), self.to_k(context), self.to_v(context)))
        top = torch.full((*query.shape[:2], 1), -torch.inf)
        total, out = torch.zeros_like(top), torch.zeros_like(query)
        for place in range(key.shape[1]):
            logit = self.scale * (query * key[:, place, None]).sum(-1, keepdim=True)
            new = torch.maximum(top, logit)
            shrink, weight = (top - new).exp(), (logit - new).exp()
            total, out, top = total * shrink + weight, out * shrink + weight * value[:, place, None], new
        return self.to_out(self.unfold(out / total))


class Kernel(CrossAttention):
    """Calls the kernel, with a mask where there is one."""

    def forward(self, x, context=None, mask=None):
        context = x if context is None else context
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).flatten(2))


class Normed(CrossAttention):
    """Turns Q into unit vectors after its projection."""

    def fold(self, tensor):
        return F.normalize(super().fold(tensor), dim=-1)


class Linear(CrossAttention):
    """Linear attention: no softmax of QK at all."""

    def forward(self, x, context=None):
        context = x if context is None else context
        query, key, value = (self.fold(part) for part in (self.to_q(x), self.to_k(context), self.to_v(context)))
        return self.to_out(self.unfold(query.softmax(-1) @ (key.softmax(1).mT @ value)))


class Twice(CrossAttention):
    """Looks at the context twice in one pass."""

    def forward(self, x, context=None):
        out = super().forward(x, context)
        return out + self.to_out(self.to_v(context)).mean(1, keepdim=True)


class Fused(CrossAttention):
    """Never calls its own projections."""

    def forward(self, x, context=None):
        return x


class Gathering(CrossAttention):
    """Adds a second attention to the first, as adapters do."""

    def unfold(self, tensor):
        return super().unfold(tensor) + 1.0


class Hidden(CrossAttention):
    """Masks keys that nobody gave a mask for."""

    def forward(self, x, context=None):
        mask = torch.ones(context.shape[:2], dtype=torch.bool)
        mask[:, 2:] = False
        return super().forward(x, context, mask=mask)


class Around(nn.Module):
    """Gives a module called attn2 a picture and a context."""

    def __init__(self, kind, *settings, rounds=1):
        super().__init__()
        self.block = nn.Module()
        self.block.attn2 = kind(8, 6, *settings)
        self.rounds = rounds

    def forward(self, x, context, **given):
        for _ in range(self.rounds):
            x = self.block.attn2(x, context, **given)
        return x


def watched(kind, path="block.attn2", rounds=1, dtype=torch.float32, around=contextlib.nullcontext, **given):
    """What one pass over a module shows, with the module's own Q, K, V and output; sharp weights."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Around(kind, rounds=rounds).eval().requires_grad_(False)
        x, context = torch.randn(2, 12, 8), torch.randn(2, 5, 6)
    for name in ("to_q", "to_k"):
        getattr(model.block.attn2, name).weight.data.mul_(3)
    model, x, context = model.to(dtype), x.to(dtype), context.to(dtype)
    seen, out = [], []
    with around():
        plain = model(x, context, **given)
        handle = model.block.attn2.to_out.register_forward_pre_hook(lambda _m, args: out.append(args[0].clone()))
        with Watch(model, [path], seen.append):
            recorded = model(x, context, **given)
    handle.remove()
    assert torch.equal(plain, recorded)
    attn = model.block.attn2
    # In the order of the module's own code, so that rounding is the same.
    value = F.linear(context, attn.to_v.weight).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    return seen, value, out


def attention(sighting):
    logits = sighting.scale * sighting.query.float() @ sighting.key.float().mT
    if sighting.mask is not None:
        logits = logits.masked_fill(~sighting.mask, -torch.inf)
    return logits.softmax(-1)


class Both(Kernel):
    """Looks at the text and then at a picture, with a kernel call each."""

    def __init__(self, width, text, image, heads):
        super().__init__(width, text, heads, width // heads)
        self.to_k_image, self.to_v_image = (nn.Linear(image, width, bias=False) for _ in range(2))
        self.image = None

    def forward(self, x, context=None):
        layers = ((self.to_k, self.to_v, context), (self.to_k_image, self.to_v_image, self.image))
        query = self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        out = 0
        for to_k, to_v, tokens in layers:
            key, value = (part(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (to_k, to_v))
            out = out + F.scaled_dot_product_attention(query, key, value)
        return self.to_out(out.transpose(1, 2).flatten(2))

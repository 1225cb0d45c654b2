"""Denoisers in the manner of latent diffusion's own code, with attention written out by hand, and pipelines round them.

Random weights, no file. Each stands for a family of models that were never ported: one class token, all patches of a
reference, features of a second network, an image attention beside every text attention.
"""

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from tiny_pipelines import text_encoder, tokenizer
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

PIXELS = 8
"""Pixels along the side of a latent pixel."""


class CrossAttention(nn.Module):
    """softmax(scale Q K^T) V, with einsum: heads are folded into rows."""

    def __init__(self, query_dim, context_dim=None, heads=2, dim_head=4):
        super().__init__()
        width = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.to_q = nn.Linear(query_dim, width, bias=False)
        self.to_k = nn.Linear(context_dim or query_dim, width, bias=False)
        self.to_v = nn.Linear(context_dim or query_dim, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, query_dim), nn.Dropout(0.0))

    def fold(self, tensor):
        rows, tokens, _ = tensor.shape
        tensor = tensor.view(rows, tokens, self.heads, -1).permute(0, 2, 1, 3)
        return tensor.reshape(rows * self.heads, tokens, -1)

    def unfold(self, tensor):
        tensor = tensor.view(-1, self.heads, *tensor.shape[1:]).permute(0, 2, 1, 3)
        return tensor.reshape(*tensor.shape[:2], -1)

    def forward(self, x, context=None, mask=None):
        context = x if context is None else context
        query, key, value = (self.fold(part) for part in (self.to_q(x), self.to_k(context), self.to_v(context)))
        logits = torch.einsum("bid,bjd->bij", query, key) * self.scale
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None].repeat_interleave(self.heads, 0), -torch.inf)
        return self.to_out(self.unfold(torch.einsum("bij,bjd->bid", logits.softmax(dim=-1), value)))


class TransformerBlock(nn.Module):
    """attn1 looks at the picture, attn2 at the context."""

    def __init__(self, width, context_dim, heads, attention=CrossAttention, checkpointed=False):
        super().__init__()
        self.attn1 = attention(width, None, heads, width // heads)
        self.attn2 = attention(width, context_dim, heads, width // heads)
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.checkpointed = checkpointed

    def forward(self, x, context=None):
        if self.checkpointed:
            return checkpoint(self.compute, x, context, use_reentrant=False)
        return self.compute(x, context)

    def compute(self, x, context):
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x), context=context) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    """A picture's rows and columns as tokens, and back."""

    def __init__(self, width, context_dim, heads, **settings):
        super().__init__()
        self.norm = nn.GroupNorm(2, width)
        self.proj_in, self.proj_out = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, context_dim, heads, **settings)])

    def forward(self, x, context=None):
        rows, columns = x.shape[-2:]
        hidden = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            hidden = block(hidden, context=context)
        return self.proj_out(hidden.transpose(1, 2).unflatten(2, (rows, columns))) + x


class Denoiser(nn.Module):
    """A U-Net of two resolutions with a transformer at each, down and up, and one in the middle.

    With `image_dim` there is an image attention beside each text attention; with `warps` one that looks at features of
    a second network, at its own resolution, in each block of the way up.
    """

    def __init__(
        self, channels=4, widths=(8, 16), heads=(2, 2), context_dim=12, image_dim=None, warps=False, **settings
    ):
        super().__init__()
        (fine, coarse), (few, many) = widths, heads
        self.conv_in = nn.Conv2d(channels, fine, 3, padding=1)
        self.time = nn.Linear(8, fine)
        self.down = nn.Conv2d(fine, coarse, 3, stride=2, padding=1)
        self.up = nn.Conv2d(coarse, fine, 1)
        self.conv_out = nn.Conv2d(fine, 4, 3, padding=1)
        sizes = {"input_0": (fine, few), "input_1": (coarse, many), "middle": (coarse, many), "output_1": (fine, few)}

        def blocks(keys):
            return nn.ModuleDict(
                {name: SpatialTransformer(width, keys, count, **settings) for name, (width, count) in sizes.items()}
            )

        self.attentions = blocks(context_dim)
        self.image_attentions = blocks(image_dim) if image_dim else None
        self.warp_blocks = None
        if warps:
            made = [SpatialTransformer(coarse, coarse, many, **settings), SpatialTransformer(fine, fine, few)]
            self.warp_blocks = nn.ModuleList(made)

    def attend(self, name, x, context, image):
        x = self.attentions[name](x, context)
        return x if self.image_attentions is None else self.image_attentions[name](x, image)

    def forward(self, x, timesteps, context=None, image=None, features=None):
        phases = timesteps.reshape(-1, 1).to(x.dtype) / 1000 * torch.arange(1, 9, device=x.device, dtype=x.dtype)
        x = self.conv_in(x) + self.time(phases.sin())[:, :, None, None]
        skip = x = self.attend("input_0", x, context, image)
        x = self.attend("input_1", self.down(x), context, image)
        x = self.attend("middle", x, context, image)
        if self.warp_blocks is not None:
            x = self.warp_blocks[0](x, features[1].flatten(2).transpose(1, 2))
        x = F.interpolate(self.up(x), skip.shape[-2:]) + skip
        x = self.attend("output_1", x, context, image)
        if self.warp_blocks is not None:
            x = self.warp_blocks[1](x, features[0].flatten(2).transpose(1, 2))
        return self.conv_out(x)


class ReferenceEncoder(nn.Module):
    """One token for the picture, then its patches row by row."""

    def __init__(self, width=12, patch=8):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.token = nn.Linear(width, width)

    def forward(self, picture):
        tokens = self.patches(picture).flatten(2).transpose(1, 2)
        return torch.cat([self.token(tokens.mean(1, keepdim=True)), tokens], dim=1)


class ReferenceNet(nn.Module):
    """Features of the noisy latents and of a reference, at both resolutions of the denoiser."""

    def __init__(self, widths=(8, 16)):
        super().__init__()
        self.fine = nn.Conv2d(7, widths[0], 3, padding=1)
        self.coarse = nn.Conv2d(widths[0], widths[1], 3, stride=2, padding=1)

    def forward(self, latents, picture):
        small = F.interpolate(picture, latents.shape[-2:])
        fine = self.fine(torch.cat([latents, small], dim=1)).sin()
        return fine, self.coarse(fine).sin()


class LatentPipeline:
    """What a recorder needs of a pipeline, and no more: components, a scheduler, a call."""

    vae_scale_factor = PIXELS

    def __init__(self, **components):
        self.components = {"scheduler": DDIMScheduler(clip_sample=False), **components}
        for name, part in self.components.items():
            setattr(self, name, part)
        self.surroundings: Callable = torch.no_grad

    def predict(self, latents, timestep, conditions, scale):
        """Both branches as rows of one call, `[uncond, cond]`."""
        if scale <= 1:
            return self.unet(latents, timestep, **conditions)
        rows = {name: torch.cat([torch.zeros_like(value), value]) for name, value in conditions.items()}
        uncond, cond = self.unet(torch.cat([latents] * 2), timestep, **rows).chunk(2)
        return uncond + scale * (cond - uncond)

    def run(self, conditions, pictures, height, width, steps, scale, generator, callback=None):
        """Pictures, (picture, row, column, channel) in [0, 1]."""
        shape = (pictures, 4, height // PIXELS, width // PIXELS)
        weight = next(self.unet.parameters())
        latents = randn_tensor(shape, generator=generator).to(weight.device, weight.dtype)
        self.scheduler.set_timesteps(steps)
        for number, timestep in enumerate(self.scheduler.timesteps):
            given = conditions(latents, timestep) if callable(conditions) else conditions
            with self.surroundings():
                predicted = self.predict(latents, timestep, given, scale)
            latents = self.scheduler.step(predicted.detach().to(latents.dtype), timestep, latents).prev_sample
            if callback is not None:
                callback(self, number)
        decoded = F.interpolate(latents[:, :3].float().sigmoid(), scale_factor=PIXELS)
        images = decoded.permute(0, 2, 3, 1).cpu().numpy()
        return SimpleOutput(images)


class SimpleOutput(SimpleNamespace):
    """Pictures as an attribute and as the first entry."""

    def __init__(self, images):
        super().__init__(images=images)

    def __getitem__(self, place):
        return (self.images,)[place]


def pixels(picture):
    """(picture, channel, row, column) in [-1, 1] of one uint8 array or a list of them."""
    arrays = picture if isinstance(picture, list) else [picture]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


class ExamplePipeline(LatentPipeline):
    """Paints after an example, of which the denoiser sees the class token only, or that and every patch."""

    whole = False

    def __call__(
        self,
        example_image,
        height=48,
        width=64,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=None,
        output_type="np",
        callback=None,
    ):
        with torch.no_grad():
            tokens = self.encoder(pixels(example_image))
            context = tokens if self.whole else tokens[:, :1]
        given = {"context": context.to(next(self.unet.parameters()).dtype)}
        return self.run(
            given, len(tokens), height, width, num_inference_steps, guidance_scale, generator, callback=callback
        )


class PatchPipeline(ExamplePipeline):
    """Paints after every patch of an example."""

    whole = True


class WarpPipeline(LatentPipeline):
    """Paints after the features of a second network, and computes the guidance branches one after the other."""

    def predict(self, latents, timestep, conditions, scale):
        cond = self.unet(latents, timestep, **conditions)
        if scale <= 1:
            return cond
        nothing = torch.zeros_like(conditions["context"])
        uncond = self.unet(latents, timestep, context=nothing, features=conditions["features"])
        return uncond + scale * (cond - uncond)

    def __call__(
        self,
        example_image,
        height=48,
        width=64,
        num_inference_steps=2,
        guidance_scale=1.0,
        generator=None,
        output_type="np",
    ):
        picture = pixels(example_image)

        @torch.no_grad()
        def conditions(latents, timestep):
            return {"context": self.encoder(picture)[:, :1], "features": self.reference(latents, picture)}

        return self.run(conditions, len(picture), height, width, num_inference_steps, guidance_scale, generator)


class RestorePipeline(LatentPipeline):
    """Restores a picture after a prompt, with an image attention beside each text attention."""

    @torch.no_grad()
    def __call__(
        self,
        prompt,
        image,
        height=48,
        width=64,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=None,
        output_type="np",
        negative_prompt=None,
    ):
        texts = [prompt] if isinstance(prompt, str) else prompt
        ids = self.tokenizer(texts, padding="max_length", return_tensors="pt", truncation=True).input_ids
        text, tokens = self.text_encoder(ids).last_hidden_state, self.encoder(pixels(image))[:, 1:]
        tokens = tokens.expand(len(texts), -1, -1)
        given = {"context": text, "image": tokens}
        return self.run(given, len(texts), height, width, num_inference_steps, guidance_scale, generator)


def finished(pipe, sharpness=4.0):
    """The pipeline with larger weights of Q and K: random ones give nearly flat attention."""
    for name, weight in pipe.unet.named_parameters():
        if name.endswith(("to_q.weight", "to_k.weight")):
            weight.data.mul_(sharpness)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    return pipe


def seeded(make):
    """`make()` with weights that are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def example_pipe(**settings):
    """One class token, as Paint by Example has it."""
    return seeded(lambda: finished(ExamplePipeline(unet=Denoiser(**settings), encoder=ReferenceEncoder())))


def patch_pipe(**settings):
    """All patches of a reference, fixed."""
    return seeded(lambda: finished(PatchPipeline(unet=Denoiser(**settings), encoder=ReferenceEncoder())))


def warp_pipe(**settings):
    """Features of a second network, as StableVITON has them."""
    unet = {"warps": True, **settings}
    return seeded(
        lambda: finished(
            WarpPipeline(unet=Denoiser(**unet), encoder=ReferenceEncoder(), reference=ReferenceNet()), sharpness=2.0
        )
    )


def restore_pipe(**settings):
    """An image attention beside each text attention, as SeeSR and PASD have them; more heads the coarser."""

    def make():
        words = tokenizer()
        unet = Denoiser(**{"context_dim": 16, "image_dim": 12, "heads": (2, 4), **settings})
        parts = {"tokenizer": words, "text_encoder": text_encoder(words), "encoder": ReferenceEncoder()}
        return finished(RestorePipeline(unet=unet, **parts))

    return seeded(make)


def picture(rows=32, columns=24, value=0):
    """A reference that differs everywhere."""
    y, x = np.mgrid[:rows, :columns]
    return np.stack([(y * 7 + value) % 256, (x * 11) % 256, (y * x + value) % 256], axis=-1).astype(np.uint8)


def patches(path, keys, grid):
    """Keys of the patches of `picture()`: 8x8 pixels each."""
    return (4, 3) if keys in (12, 13) else None


def own_resolution(path, keys, grid):
    """Features at the resolution of the queries."""
    return grid if keys == math.prod(grid) and keys > 1 else None

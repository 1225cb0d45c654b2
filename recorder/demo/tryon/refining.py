"""Fine-tune the shipped denoiser with losses on its attention, and as long without them.

This is I2AM's debugging loop (section 5.4, appendix A.5): find the layer whose attention is wrong, refine it by
the losses, record again. What the losses are is the caller's affair: `refine` takes them as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from attlas.recorder.demo.tryon.batches import FIGURE, draw_fresh_references, sample_numbers
from attlas.recorder.demo.tryon.denoiser import DROPPED, NOISE_BIAS, REGION_WEIGHT, cache_latents
from attlas.recorder.demo.tryon.garments import draw_garments, uniforms
from attlas.recorder.demo.tryon.loading import load
from attlas.recorder.demo.tryon.models import LATENT_SIZE, PATCH, PATCHES
from attlas.recorder.demo.tryon.scenes import Placements, References, draw_figures
from attlas.recorder.demo.tryon.stages import Average, Workshop, cosine_rate, run_stage, set_rate

AttentionLosses = Callable[[Tensor, Tensor, Tensor], Mapping[str, Tensor]]
"""From attention ``(n, 16, 16, 16, 16)``, queries that count ``(n, 16, 16)`` and the place of each patch on the upright
garment ``(n, 16, 16, 2)`` as (x, y) in patches, to named terms, each a scalar and weighted already."""

ALIGNED = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
"""The cross-attention whose SRAM follows the garment (PCK@1 .948), with .41 of its mass beside it.

The paper, too, refines the layer that maps places already, but scatters."""


@dataclass(frozen=True)
class Plan:
    """How the denoiser is refined; the defaults made the weights that ship.

    Attributes
    ----------
    steps, batch
        How long.
    rate
        Highest learning rate of AdamW.
    layers
        Cross-attention modules that the losses see.
    trained
        Modules whose weights move; everything else is frozen.
    scenes
        Training figures whose latents are cached.
    """

    steps: int = 160
    batch: int = 16
    rate: float = 3e-4
    layers: tuple[str, ...] = (ALIGNED,)
    trained: tuple[str, ...] = (ALIGNED,)
    scenes: int = 2_000


class Watch:
    """Differentiable attention of chosen cross-attention modules, computed from what `to_q` and `to_k` give.

    The modules' own processors run as ever; nothing about the forward pass changes.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        self._modules = list(modules)
        self._seen: dict[tuple[int, str], Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Keep queries and keys of every forward pass from here on; the hooks are gone afterwards."""
        handles = [
            getattr(module, name).register_forward_hook(self._keep(place, name))
            for place, module in enumerate(self._modules)
            for name in ("to_q", "to_k")
        ]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            self._seen.clear()

    def attention(self) -> Tensor:
        """Attention of the last forward pass, mean over heads, ``(layers, n, 256, 257)``; rows sum to 1."""
        made = []
        for place, module in enumerate(self._modules):
            query, key = (self._split(self._seen[place, name], module.heads) for name in ("to_q", "to_k"))
            made.append((query @ key.transpose(-1, -2) * module.scale).softmax(-1).mean(1))
        return torch.stack(made)

    def _keep(self, place: int, name: str) -> Callable[[Any, Any, Tensor], None]:
        def hook(module: Any, inputs: Any, output: Tensor) -> None:  # noqa: ARG001 - torch's signature
            self._seen[place, name] = output

        return hook

    @staticmethod
    def _split(vectors: Tensor, heads: int) -> Tensor:
        split: Tensor = vectors.reshape(*vectors.shape[:2], heads, -1).transpose(1, 2)
        return split


def upright_places(references: References, placements: Placements) -> Tensor:
    """Place of each reference patch on the upright garment, ``(n, 16, 16, 2)`` as (x, y), unit patches.

    References lie turned and mirrored, so order along their own rows means nothing. This is the picture's grid
    turned back, at its own scale: what row and column are where garments always hang upright.
    """
    points = F.avg_pool2d(references.points.permute(0, 3, 1, 2), PATCH).permute(0, 2, 3, 1)
    pixels = torch.linalg.det(placements.matrix).abs().sqrt()
    places: Tensor = points * (pixels / PATCH)[:, None, None, None] + (PATCHES - 1) / 2
    return places


def refine(
    out: Path,
    losses: AttentionLosses | None = None,
    *,
    name: str = "refined",
    plan: Plan | None = None,
    seed: int = 0,
) -> Path:
    """Train some weights of the shipped denoiser on, by the diffusion loss and, if given, losses on its attention.

    Parameters
    ----------
    out
        Folder for the log, checkpoints and the result; made if missing.
    losses
        Weighted terms that are added to the diffusion loss; None trains the control, which sees the same
        samples, noise and number of steps.
    name
        Of the result and of the stage in the log.
    plan
        What is trained and for how long; None is the default `Plan`.
    seed
        Of samples and noise.

    Returns
    -------
    ``out / f"{name}.safetensors"``: the trained weights, float16, named as in the denoiser.

    Raises
    ------
    ValueError
        If a module that the plan names is not in the denoiser.
    """
    plan = plan or Plan()
    out.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(out, seed, torch.device("cpu"))
    pipeline = load()
    unet = pipeline.unet
    trained = _trained(unet, plan.trained)
    watch = Watch([unet.get_submodule(layer) for layer in plan.layers])
    workshop.log(f"{name}: {sum(value.numel() for value in trained.parameters())} weights, seed {seed}, {plan}")
    cache = cache_latents(workshop, pipeline.vae, plan.scenes)
    numbers = sample_numbers(len(cache["latents"]), seed=seed, split="train")
    optimiser = torch.optim.AdamW([{"params": list(trained.parameters()), "base": plan.rate}], weight_decay=0.0)
    average = Average(trained, 0.99)

    def step(index: int) -> dict[str, Tensor]:
        # Not the stage's own name: the control sees what the refined model sees.
        generator = workshop.generator("refine", index)
        chosen = torch.randint(len(numbers), (plan.batch,), generator=generator)
        random = uniforms([numbers[k] for k in chosen.tolist()])
        garments = draw_garments(random)
        references, placements = draw_fresh_references(garments, generator)
        latents, condition = cache["latents"][chosen].float(), cache["condition"][chosen].float()
        noise = torch.randn(latents.shape, generator=generator)
        level = (torch.arange(plan.batch) + torch.rand(plan.batch, generator=generator)) / plan.batch
        times = (1000 * level**NOISE_BIAS).long().clamp(0, 999)
        kept = torch.rand(plan.batch, generator=generator) >= DROPPED
        with torch.no_grad():
            tokens = pipeline.encode_reference(references.image) * kept[:, None, None]
        noisy = torch.cat([pipeline.scheduler.add_noise(latents, noise, times), condition], dim=1)
        velocity = pipeline.scheduler.get_velocity(latents, noise, times)
        told = unet(noisy, times, encoder_hidden_states=tokens).sample
        weight = 1 + (REGION_WEIGHT - 1) * condition[:, 8:9]
        reported = {"diffusion": ((told - velocity).square() * weight).mean() / weight.mean()}
        if losses is not None and bool(kept.any()):
            worn = draw_figures(garments, random[:, FIGURE]).garment
            queries = F.avg_pool2d(worn[:, None].float(), worn.shape[-1] // LATENT_SIZE)[:, 0] > 0.5
            # The CLS token is no place; a reference that was dropped is nothing to look at.
            seen = watch.attention()[:, kept, :, 1:]
            seen = seen.reshape(*seen.shape[:2], LATENT_SIZE, LATENT_SIZE, PATCHES, PATCHES)
            places = upright_places(references, placements)[kept]
            reported |= losses(seen, queries[kept], places)
        set_rate(optimiser, cosine_rate(index, plan.steps, warm_up=30, hold=0.4))
        optimiser.zero_grad()
        torch.autograd.backward(sum(reported.values(), start=torch.zeros(())))
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimiser.step()
        average.update()
        return reported

    with watch.watching():
        run_stage(workshop, name, plan.steps, {"trained": trained, "optimiser": optimiser, "average": average}, step)
    average.copy_to(trained)
    path = out / f"{name}.safetensors"
    # Names as in the denoiser, for `load_state_dict`.
    owned = {id(value) for value in trained.parameters()}
    save_file({key: value.detach().half() for key, value in unet.named_parameters() if id(value) in owned}, path)
    workshop.log(f"{name}: saved {path.name}, {path.stat().st_size / 1e6:.2f} MB")
    return path


def _trained(unet: Any, names: Sequence[str]) -> torch.nn.ModuleList:
    """Freeze all but the named modules, and give those."""
    known = dict(unet.named_modules())
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"the denoiser has no modules {missing}; one of its cross-attentions is {ALIGNED}.")
    unet.requires_grad_(requires_grad=False)
    chosen = torch.nn.ModuleList([known[name] for name in names])
    return chosen.requires_grad_(requires_grad=True)

"""Training of the denoiser together with its text encoder."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from attlas.recorder.demo.shapes.architecture import build_scheduler
from attlas.recorder.demo.shapes.autoencoder import encode
from attlas.recorder.demo.shapes.learner import Run, Stage, fit
from attlas.recorder.demo.shapes.scenes import Scene, captions, draw
from attlas.recorder.demo.shapes.vocabulary import build_tokenizer
from attlas.recorder.demo.shapes.words import COLOURS, NOUNS, caption

__all__ = ["Denoiser", "train_denoiser"]

BATCH = 16
# Part of the samples whose cross-attention sees only bos and nouns; only bos, nouns and colours.
ONLY_NOUNS, ONLY_NOUNS_AND_COLOURS = 0.4, 0.2
UNCONDITIONAL = 0.1
# t = 1000 u ** 0.55: more of the noisy steps, in which the layout is decided.
TIME_BIAS = 0.55
PROBE_TIMESTEP = 700


class Denoiser(nn.Module):
    """UNet and text encoder as one module, with the loss that trains both."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.scheduler = build_scheduler()
        self.tokenizer = build_tokenizer()
        self._nouns = torch.tensor(self.tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in NOUNS]))
        self._colours = torch.tensor(self.tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in COLOURS]))

    def loss(
        self, latents: Tensor, prompts: list[str], times: Tensor, noise: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of the predicted velocity.

        Parameters
        ----------
        latents, noise : float32 tensors (sample, 4, 16, 16)
            Clean scaled latents, and unit noise.
        prompts : list of str
            One for each sample.
        times : int64 tensor (sample,)
            Timesteps in 0 to 999.
        visible : float tensor (sample,), optional
            Uniform draws in 0 to 1 that choose which tokens each sample's cross-attention sees.
            All tokens by default.
        """
        ids = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        mask = None if visible is None else self._mask(ids, visible).to(latents.device)
        hidden = self.text_encoder(ids.to(latents.device)).last_hidden_state
        noisy = self.scheduler.add_noise(latents, noise, times)
        target = self.scheduler.get_velocity(latents, noise, times)
        velocity: Tensor = self.unet(noisy, times, hidden, encoder_attention_mask=mask).sample
        return F.mse_loss(velocity, target)

    def _mask(self, ids: Tensor, visible: Tensor) -> Tensor:
        start: Tensor = ids == self.tokenizer.bos_token_id
        nouns = torch.isin(ids, self._nouns)
        colours = torch.isin(ids, self._colours) & (visible >= ONLY_NOUNS)[:, None]
        everything = (visible >= ONLY_NOUNS + ONLY_NOUNS_AND_COLOURS)[:, None]
        return start | nouns | colours | everything


def train_denoiser(
    model: Denoiser,
    autoencoder: AutoencoderKL,
    steps: int,
    run: Run,
) -> bool:
    """Train the denoiser and its text encoder in place on scenes with shapes in their slots.

    Parameters
    ----------
    model : Denoiser
        Where to start from, unless the run's folder holds a checkpoint.
    autoencoder : AutoencoderKL
        Trained, with its scaling factor; not changed.
    steps : int
        Length.
    run : Run
        Folder, log, data and seed.

    Returns
    -------
    bool
        Whether the stage is complete.
    """
    drawn = [draw(index) for index in range(run.scenes)]
    latents = encode(autoencoder, drawn) * autoencoder.config.scaling_factor
    device = latents.device

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng((run.seed, 2, step))
        chosen = rng.integers(run.scenes, size=BATCH)
        prompts = [next(captions(drawn[index], rng)) for index in chosen]
        prompts = ["" if rng.random() < UNCONDITIONAL else prompt for prompt in prompts]
        # Stratified: one time from each sixteenth, so that the loss of a batch is less noisy.
        times = torch.from_numpy(1000 * ((np.arange(BATCH) + rng.random(BATCH)) / BATCH) ** TIME_BIAS).long()
        noise = torch.from_numpy(rng.standard_normal((BATCH, *latents.shape[1:]), dtype=np.float32))
        visible = torch.from_numpy(rng.random(BATCH))
        batch = latents[torch.from_numpy(chosen).to(device)]
        return model.loss(batch, prompts, times.to(device), noise.to(device), visible)

    unseen = [draw(run.scenes + index) for index in range(min(run.scenes, 96))]
    held_out = [scene for scene in unseen if len(scene.objects) == 2]
    held_latents = encode(autoencoder, held_out) * autoencoder.config.scaling_factor

    def probe() -> dict[str, float]:
        return swap_probe(model, held_out, held_latents)

    stage = Stage("denoiser", steps, rate=1.2e-3, decay_from=0.45, average=0.998)
    return fit(model, stage, loss, probe, run)


def swap_probe(model: Denoiser, scenes: list[Scene], latents: Tensor) -> dict[str, float]:
    """How much the loss at t = 700 rises when the caption is wrong.

    A cheap sign, minutes into a training, of whether the model reads its prompt at all.

    Parameters
    ----------
    model : Denoiser
        In eval mode.
    scenes : list of Scene
        Pairs.
    latents : float32 tensor (scene, 4, 16, 16)
        Their scaled latents.

    Returns
    -------
    dict of str to float
        ``noun_swap`` and ``colour_swap``: relative rise of the loss when the two objects exchange their nouns
        or colours in the caption; near zero for a model that ignores them.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    times = torch.full((len(scenes),), PROBE_TIMESTEP, device=latents.device)
    said: Mapping[str, list[str]] = {"right": [], "noun": [], "colour": []}
    for scene in scenes:
        first, second = scene.objects
        said["right"].append(caption([first, second]))
        said["noun"].append(caption([replace(first, noun=second.noun), replace(second, noun=first.noun)]))
        said["colour"].append(caption([replace(first, colour=second.colour), replace(second, colour=first.colour)]))
    losses = {name: model.loss(latents, prompts, times, noise).item() for name, prompts in said.items()}
    return {
        "loss_t700": losses["right"],
        "noun_swap": losses["noun"] / losses["right"] - 1,
        "colour_swap": losses["colour"] / losses["right"] - 1,
    }

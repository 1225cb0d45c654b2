"""The pipeline that ships: trained, refined after that, or with its learning taken away."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from attlas.recorder.demo.tryon.inpainting import TryOnPipeline
from attlas.recorder.demo.tryon.models import new_image_encoder, new_unet

FOLDER = Path(__file__).parent / "pipeline"
"""The trained pipeline, in the form that ``TryOnPipeline.from_pretrained`` reads."""

REFINED = Path(__file__).parent / "refined"
"""Weights that were trained on, ``NAME.safetensors`` for each of `REFINEMENTS`."""

REFINEMENTS = ("refined", "control")
"""Trained on with losses on the attention, and as long with the diffusion loss alone; see `refining`."""


def load(*, trained: bool = True, seed: int = 0, refinement: str | None = None) -> TryOnPipeline:
    """Load the try-on pipeline in float32, ready for inference, with its progress bar off.

    Parameters
    ----------
    trained
        False replaces the denoiser and the image encoder by untrained ones of the same shape. The trained
        autoencoder stays. Maps of such a pipeline show what attention looks like when nothing was learnt.
    seed
        Of the untrained weights; without effect on the trained pipeline. The global random state is left alone.
    refinement
        ``refined`` or ``control``: the trained denoiser with those weights in place that were trained on.

    Returns
    -------
    `TryOnPipeline` on the CPU, its modules in evaluation mode.

    Raises
    ------
    ValueError
        If there is no such refinement, or it is asked for without the training that it goes on from.
    """
    if refinement is not None and (refinement not in REFINEMENTS or not trained):
        raise ValueError(f"refinement must be one of {REFINEMENTS}, of the trained pipeline; got {refinement!r}.")
    pipeline: TryOnPipeline = TryOnPipeline.from_pretrained(FOLDER)
    if not trained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pipeline.register_modules(unet=new_unet(), image_encoder=new_image_encoder())
    if refinement is not None:
        put_weights(pipeline.unet, REFINED / f"{refinement}.safetensors")
    for module in (pipeline.vae, pipeline.unet, pipeline.image_encoder):
        module.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def put_weights(unet: torch.nn.Module, path: Path) -> None:
    """Give a denoiser the weights in a file, which names some of its own; `ValueError` if it names others."""
    weights = load_file(path)
    unknown = unet.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    if unknown.unexpected_keys:
        raise ValueError(f"{path} has weights that the denoiser lacks: {unknown.unexpected_keys}.")

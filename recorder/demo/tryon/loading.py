"""The pipeline that ships, trained or with its learning taken away."""

from __future__ import annotations

from pathlib import Path

import torch

from attlas.recorder.demo.tryon.inpainting import TryOnPipeline
from attlas.recorder.demo.tryon.models import new_image_encoder, new_unet

FOLDER = Path(__file__).parent / "pipeline"
"""The trained pipeline, in the form that ``TryOnPipeline.from_pretrained`` reads."""


def load(*, trained: bool = True, seed: int = 0) -> TryOnPipeline:
    """Load the try-on pipeline in float32, ready for inference, with its progress bar off.

    Parameters
    ----------
    trained
        False replaces the denoiser and the image encoder by untrained ones of the same shape. The trained
        autoencoder stays. Maps of such a pipeline show what attention looks like when nothing was learnt.
    seed
        Of the untrained weights; without effect on the trained pipeline. The global random state is left alone.

    Returns
    -------
    `TryOnPipeline` on the CPU, its modules in evaluation mode.
    """
    pipeline: TryOnPipeline = TryOnPipeline.from_pretrained(FOLDER)
    if not trained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pipeline.register_modules(unet=new_unet(), image_encoder=new_image_encoder())
    for module in (pipeline.vae, pipeline.unet, pipeline.image_encoder):
        module.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

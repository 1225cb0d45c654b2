"""The shipped pipeline, and its untrained twin."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from attlas.recorder.demo.shapes.architecture import build_denoiser, build_text_encoder

__all__ = ["FOLDER", "load_pipeline"]

FOLDER = Path(__file__).parent / "pipeline"


def load_pipeline(*, trained: bool, seed: int) -> StableDiffusionPipeline:
    """Do what ``shapes.load`` says."""
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER, local_files_only=True)
    if not trained:
        # The caller's own random stream is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pipeline.register_modules(unet=build_denoiser(), text_encoder=build_text_encoder())
    for module in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        module.float().requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

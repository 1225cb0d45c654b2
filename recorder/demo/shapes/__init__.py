"""Coloured shapes from captions: a tiny trained ``StableDiffusionPipeline`` whose pictures have ground truth.

``requests`` gives prompts, ``load`` the pipeline, and ``annotate`` the true mask of each noun in what it made.
"""

from typing import TYPE_CHECKING

from attlas.recorder.demo.shapes.prompts import requests
from attlas.recorder.demo.shapes.truth import annotate

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["annotate", "load", "requests"]


def load(*, trained: bool = True, seed: int = 0) -> "StableDiffusionPipeline":
    """Load the shapes pipeline; nothing is downloaded.

    Parameters
    ----------
    trained : bool
        False gives freshly drawn weights to the UNet and the text encoder, as a control. The picture codec
        stays the trained one, so that there is a picture.
    seed : int
        Seed of those fresh weights; without effect if ``trained``.

    Returns
    -------
    diffusers.StableDiffusionPipeline
        On the CPU, float32, in eval mode, its progress bar off. Makes 64x64 pictures.
    """
    # diffusers takes seconds to import; the ground truth needs none of it.
    from attlas.recorder.demo.shapes.loading import load_pipeline

    return load_pipeline(trained=trained, seed=seed)

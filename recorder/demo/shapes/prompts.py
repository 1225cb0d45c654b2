"""Requests for the shapes pipeline: prompts and seeds, reproducible by number."""

from typing import Any, Literal

from attlas.recorder.demo.shapes.scenes import draw
from attlas.recorder.demo.shapes.words import caption

__all__ = ["HELD_OUT_START", "TRAINING_SCENES", "requests"]

TRAINING_SCENES = 6000
HELD_OUT_START = 1_000_000
_BLOCK = 100_000

STEPS = 20
GUIDANCE = 3.0


def requests(n: int, *, seed: int = 0, split: Literal["held_out", "train"] = "held_out") -> list[dict[str, Any]]:
    """Make requests, each the caption of one procedural scene.

    Captions are combinatorial: four shapes and six colours make 24 captions of one object and 360 of two, and
    training has seen practically all of them. What is held out is the scene behind the caption and the seed
    of the noise, not the wording.

    Parameters
    ----------
    n : int
        How many. The first ``m < n`` are the same as those of ``requests(m)``.
    seed : int
        Another seed gives other scenes; 0 to 9,999 for held-out requests.
    split : {"held_out", "train"}
        ``"held_out"`` takes scenes from 1,000,000 on, which training never drew; ``"train"`` takes scenes of
        the training set (0 to 5,999).

    Returns
    -------
    list of dict
        Keyword arguments of the pipeline (``prompt``, ``num_inference_steps`` 20, ``guidance_scale`` 3.0), with
        ``seed`` (int, the scene's number) and ``id`` (such as ``"shapes-0007"``). Four of five name two objects.

    Raises
    ------
    ValueError
        If ``n``, ``seed`` or ``split`` is out of range.
    """
    if split not in ("held_out", "train"):
        raise ValueError(f"split must be 'held_out' or 'train', got {split!r}")
    limit, seeds = (_BLOCK, 10_000) if split == "held_out" else (TRAINING_SCENES, TRAINING_SCENES)
    if not 0 <= n <= limit:
        raise ValueError(f"n must be 0 to {limit} for split {split!r}, got {n}")
    if not 0 <= seed < seeds:
        raise ValueError(f"seed must be 0 to {seeds - 1} for split {split!r}, got {seed}")
    if split == "held_out":
        numbers = [HELD_OUT_START + seed * _BLOCK + index for index in range(n)]
    else:
        numbers = [(seed + index) % TRAINING_SCENES for index in range(n)]
    return [
        {
            "id": f"shapes-{index:04d}",
            "prompt": caption(draw(number).objects),
            "seed": number,
            "num_inference_steps": STEPS,
            "guidance_scale": GUIDANCE,
        }
        for index, number in enumerate(numbers)
    ]

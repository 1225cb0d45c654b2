"""Rows of the U-Nets of Stable Diffusion."""

from matrix.rows import Row
from tiny_pipelines import make_pipe

PROMPT = "a red cat"

ROWS = [
    Row(
        "Stable Diffusion 1",
        "StableDiffusionPipeline",
        make_pipe,
        {"prompt": PROMPT, "negative_prompt": "blue dog", "height": 16, "width": 32},
        {"kinds": ("text", "self")},
        leaves={
            "text/8x16": "1 bos, 3 word, 1 eos, 7 pad",
            "self/8x16": "128 self",
            "text/4x8": "1 bos, 3 word, 1 eos, 7 pad",
            "self/4x8": "32 self",
        },
        words={"red": (2,), "cat": (3,)},
    ),
]

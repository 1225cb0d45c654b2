"""Rows of transformers whose text stays apart from the picture: cross-attention and self-attention."""

from matrix import cross_parts
from matrix.rows import Row

PROMPT = "a red cat"
BOTH = {"kinds": ("text", "self")}
T5 = "3 word, 1 eos, 12 pad"
PLAIN = {"max_sequence_length": 16, "clean_caption": False, "use_resolution_binning": False}

ROWS = [
    Row(
        "PixArt-alpha",
        "PixArtAlphaPipeline",
        cross_parts.pixart_alpha,
        {
            **PLAIN,
            "prompt": [PROMPT, "a dog"],
            "negative_prompt": "blue dog",
            "num_images_per_prompt": 2,
            "height": 24,
            "width": 40,
        },
        BOTH,
        leaves={"text/6x10": T5, "self/6x10": "60 self"},
        words={"red": (1,), "cat": (2,)},
        denoiser="transformer",
        notes="the padding of T5 is masked",
    ),
    Row(
        "PixArt-alpha, a size of one's own",
        "PixArtAlphaPipeline",
        cross_parts.pixart_256,
        {"prompt": PROMPT, "max_sequence_length": 16, "clean_caption": False, "height": 200, "width": 264}
        | {"guidance_scale": 1.0},
        branches=("cond",),
        leaves={"text/14x18": T5},
        words={"red": (1,), "cat": (2,)},
        denoiser="transformer",
        notes="the pipeline draws a size of its own, to which the grid belongs, and cuts the picture from it",
    ),
    Row(
        "PixArt-sigma",
        "PixArtSigmaPipeline",
        cross_parts.pixart_sigma,
        {**PLAIN, "prompt": PROMPT, "height": 24, "width": 40},
        {**BOTH, "encoding": "factors"},
        leaves={"text/6x10": T5, "self/6x10": "60 self"},
        words={"red": (1,), "cat": (2,)},
        denoiser="transformer",
        notes="the mask is one more channel of Q and K",
    ),
    Row(
        "PixArt-sigma, one word's keys kept",
        "PixArtSigmaPipeline",
        cross_parts.pixart_sigma,
        {**PLAIN, "prompt": PROMPT, "guidance_scale": 1.0, "height": 24, "width": 40},
        {"keys": ["cat", "red"]},
        branches=("cond",),
        leaves={"text/6x10": "2 word"},
        words={"red": (1,), "cat": (0,)},
        denoiser="transformer",
        keys=lambda _name, _run: (2, 1),
        notes="",
    ),
    Row(
        "HunyuanDiT",
        "HunyuanDiTPipeline",
        cross_parts.hunyuan_dit,
        {"prompt": PROMPT, "negative_prompt": "dog", "height": 48, "width": 80, "use_resolution_binning": False},
        BOTH,
        leaves={"text/3x5": "1 bos, 3 word, 1 eos, 72 pad, 3 word, 1 eos, 252 pad", "self/3x5": "15 self"},
        words={"red": (2, 78), "cat": (3, 79)},
        denoiser="transformer",
        notes="77 tokens of BERT and then 256 of T5: a word is there twice",
    ),
    Row(
        "Sana",
        "SanaPipeline",
        cross_parts.sana,
        {**PLAIN, "prompt": PROMPT, "height": 32, "width": 96, "complex_human_instruction": None},
        leaves={"text/16x48": "1 bos, 3 word, 12 pad"},
        words={"red": (2,), "cat": (3,)},
        denoiser="transformer",
        notes="`attn1` is linear: it has no softmax, and is not recorded",
    ),
    Row(
        "Sana Sprint",
        "SanaSprintPipeline",
        cross_parts.sana_sprint,
        {**PLAIN, "prompt": PROMPT, "height": 32, "width": 96, "complex_human_instruction": None},
        branches=("cond",),
        leaves={"text/16x48": "1 bos, 3 word, 12 pad"},
        words={"red": (2,), "cat": (3,)},
        denoiser="transformer",
        notes="guidance is distilled: one branch",
    ),
]

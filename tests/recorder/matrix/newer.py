"""Rows of transformers that read a large language model: requests give embeddings, whose tokens have no names."""

import torch
from matrix import newer_parts
from matrix.newer_parts import embeddings
from matrix.pieces import photo
from matrix.rows import Row

SIZE = {"height": 20, "width": 36}
GRID = "joint/5x9"
LAST = slice(-45, None)


def hunyuan():
    """Ten tokens, of which some are padding."""
    given = {"num_frames": 5, "height": 48, "width": 80, "true_cfg_scale": 2.0}
    for stem, tokens in (("", 7), ("negative_", 4)):
        given[f"{stem}prompt_embeds"] = embeddings(10, tokens)
        given[f"{stem}pooled_prompt_embeds"] = torch.ones(1, 8) / tokens
        given[f"{stem}prompt_attention_mask"] = (torch.arange(10) < tokens).long()[None]
    return given


ROWS = [
    Row(
        "AuraFlow",
        "AuraFlowPipeline",
        newer_parts.aura_flow,
        {**SIZE, "prompt": ["a red cat", "a dog"], "negative_prompt": ["dog", "cat"], "max_sequence_length": 16},
        leaves={GRID: "8 register, 16 text, 45 generated"},
        words={"red": (9,), "cat": (10,)},
        denoiser="transformer",
        queries=LAST,
        notes="learned tokens come before the text's",
    ),
    Row(
        "FLUX.2",
        "Flux2Pipeline",
        newer_parts.flux_2,
        {**SIZE, "prompt_embeds": embeddings(12)},
        branches=("cond",),
        leaves={GRID: "12 text, 45 generated"},
        denoiser="transformer",
        queries=LAST,
        notes="guidance is distilled: one branch",
    ),
    Row(
        "FLUX.2, with references",
        "Flux2Pipeline",
        newer_parts.flux_2,
        {**SIZE, "prompt_embeds": embeddings(12), "image": [photo(64, 128), photo(128, 72)], "num_inference_steps": 1},
        {"keys": "prompt"},
        branches=("cond",),
        leaves={GRID: "12 text"},
        calls=1,
        denoiser="transformer",
        queries=slice(12, 57),
        keys=lambda _name, _run: range(12),
        notes="each reference has a grid of its own",
    ),
    Row(
        "FLUX.2 klein",
        "Flux2KleinPipeline",
        newer_parts.flux_2_klein,
        {**SIZE, "prompt_embeds": embeddings(12), "negative_prompt_embeds": embeddings(12, 1)},
        branches=("cond", "uncond"),
        leaves={GRID: "12 text, 45 generated"},
        denoiser="transformer",
        passes=True,
        queries=LAST,
        notes="",
    ),
    Row(
        "CogView4",
        "CogView4Pipeline",
        newer_parts.cogview_4,
        {"height": 32, "width": 48, "prompt_embeds": embeddings(16), "negative_prompt_embeds": embeddings(32, 1)},
        branches=("cond", "uncond"),
        leaves={"joint/8x12": "64 text, 96 generated"},
        denoiser="transformer",
        passes=True,
        queries=slice(-96, None),
        notes="the text is as long as the prompt, filled up to a multiple of 16",
    ),
    Row(
        "Z-Image",
        "ZImagePipeline",
        newer_parts.z_image,
        {
            "height": 48,
            "width": 80,
            "prompt_embeds": [embeddings(7)[0]],
            "negative_prompt_embeds": [embeddings(40, 1)[0]],
        },
        {"kinds": ("joint", "self")},
        branches=("cond", "uncond"),
        leaves={"self/3x5": "15 self, 17 pad", "joint/3x5": "15 generated, 17 pad, 64 text"},
        denoiser="transformer",
        queries=slice(0, 15),
        notes="picture and text are filled up to multiples of 32 tokens, which all are looked at",
    ),
    Row(
        "HunyuanVideo",
        "HunyuanVideoPipeline",
        newer_parts.hunyuan_video,
        hunyuan(),
        branches=("cond", "uncond"),
        leaves={"joint/2x3x5": "30 generated, 10 text"},
        denoiser="transformer",
        passes=True,
        queries=slice(0, 30),
        notes="the text's padding is masked; its refiner has text queries only",
    ),
]

"""Tiny pipelines with random weights, made from configurations alone: no file, no network."""

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = ("a", "red", "blue", "cat", "dog", "and")
TOKENS = 12


def tokenizer(tokens: int = TOKENS, pad: str | None = None) -> CLIPTokenizer:
    """A CLIP tokenizer that knows a few words whole and the rest letter by letter; `pad` gets the id 0."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [*([pad] if pad else []), *letters, *(letter + "</w>" for letter in letters)]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
            vocabulary.append(pieces[0])
    vocabulary = list(dict.fromkeys([*vocabulary, "<|startoftext|>", "<|endoftext|>"]))
    merges = list(dict.fromkeys(merges))
    ids = {token: number for number, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=tokens, **({"pad_token": pad} if pad else {}))


def text_encoder(words: CLIPTokenizer, width: int = 16, layers: int = 1) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=words.model_max_length,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def unet(channels: int = 4, cross: int = 16, **changes) -> UNet2DConditionModel:
    settings = {
        "sample_size": 8,
        "in_channels": channels,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": cross,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**settings, **changes})


def autoencoder(levels: int = 2) -> AutoencoderKL:
    """Of `levels` levels: latents are 2 ** (levels - 1) times smaller than pictures."""
    return AutoencoderKL(
        block_out_channels=(4,) + (8,) * (levels - 1),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )


def parts(seed: int = 0) -> dict:
    """Components of a tiny Stable Diffusion pipeline: 16x16 pictures, 8x8 latents, 2 heads at 8x8 and 4x4."""
    words = tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = {
            "vae": autoencoder(),
            "text_encoder": text_encoder(words),
            "tokenizer": words,
            "unet": unet(),
            "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1),
        }
        # Random weights give nearly flat attention; larger ones make maps that a mistake would change.
        for name, weight in made["unet"].named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                weight.data.mul_(2)
    for module in made.values():
        if isinstance(module, torch.nn.Module):
            module.eval()
    return made


def make_pipe(seed: int = 0, **changes) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline(
        **{**parts(seed), **changes}, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, **arguments) -> np.ndarray:
    """Pictures of a plain call with these arguments, as floats."""
    seed = arguments.pop("seed", 0)
    generator = torch.Generator().manual_seed(seed)
    return pipe(**{"num_inference_steps": 2, "output_type": "np", **arguments}, generator=generator).images

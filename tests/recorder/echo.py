"""Pipelines that show at each text key which token their own code put there: the oracle of token labels."""

import inspect
from types import SimpleNamespace

import diffusers
import torch
from tiny_pipelines import WORDS, tokenizer
from tiny_tokenizers import bert_tokenizer, gemma_tokenizer, qwen_processor, qwen_tokenizer, t5_tokenizer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPTextModelOutput

WIDTH = 4


class Echo(torch.nn.Module):
    """A text encoder whose hidden states are the numbers of its tokens, from 1.

    However a pipeline moves, cuts and pads them, its text embeddings tell which token each key is; 0: none.
    """

    dtype, config = torch.float32, SimpleNamespace()

    def __init__(self, projected: bool = False, width: int = WIDTH) -> None:
        super().__init__()
        self.projected, self.width = projected, width
        self.scale = torch.nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, input_ids, attention_mask=None, **settings):
        hidden = (input_ids + 1).float()[..., None].expand(*input_ids.shape, self.width) * self.scale
        states, pooled = (hidden,) * 4, hidden[:, 0]
        if self.projected:
            return CLIPTextModelOutput(text_embeds=pooled, last_hidden_state=hidden, hidden_states=states)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled, hidden_states=states)


def _make(name, **parts):
    cls = getattr(diffusers, name)
    wanted = inspect.signature(cls.__init__).parameters.values()
    given = {p.name: parts.get(p.name) for p in wanted if p.name in parts or p.default is inspect.Parameter.empty}
    given.pop("self")
    if any(p.name == "requires_safety_checker" for p in wanted):
        given |= {"safety_checker": None, "requires_safety_checker": False}
    pipe = cls(**given)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def second_clip(tokens: int):
    """The second tokenizer of XL, which pads with another token."""
    words = tokenizer(tokens)
    words.pad_token = WORDS[1] + "</w>"
    return words


def make(name, **changes):
    """Make a pipeline of class `name` that can encode prompts and nothing else."""
    one = {"tokenizer": t5_tokenizer(), "text_encoder": Echo()}
    if name.startswith("StableDiffusion3"):
        one |= {"tokenizer": tokenizer(12), "tokenizer_2": second_clip(12), "tokenizer_3": t5_tokenizer()}
        one |= {"text_encoder": Echo(True), "text_encoder_2": Echo(True), "text_encoder_3": Echo(width=2 * WIDTH)}
    elif name.startswith("StableDiffusionXL"):
        one |= {"tokenizer": tokenizer(12), "tokenizer_2": second_clip(12)}
        one |= {"text_encoder": Echo(True), "text_encoder_2": Echo(True)}
    elif name.startswith("StableDiffusion"):
        one |= {"tokenizer": tokenizer(12)}
    elif name.startswith("Flux"):
        one |= {"tokenizer": tokenizer(12), "tokenizer_2": t5_tokenizer(), "text_encoder_2": Echo()}
    elif name.startswith("HunyuanDiT"):
        one |= {"tokenizer": bert_tokenizer(), "tokenizer_2": t5_tokenizer(), "text_encoder_2": Echo()}
    elif name.startswith("QwenImage"):
        one |= {"tokenizer": qwen_tokenizer(), "processor": qwen_processor()}
    elif name.startswith(("Sana", "Lumina2")):
        one |= {"tokenizer": gemma_tokenizer()}
    return _make(name, **{**one, **changes})


def encode(pipe, **arguments):
    """Text embeddings (branch, row, key, channel) that the pipeline makes with these arguments of a call.

    The negative prompt's come second, where the pipeline encodes both at once; HunyuanDiT's texts are joined as its
    denoiser joins them.
    """
    call, wanted = inspect.signature(type(pipe).__call__).parameters, inspect.signature(pipe.encode_prompt).parameters
    settings = {name: arguments.get(name, call[name].default) for name in wanted if name in call}
    if "do_classifier_free_guidance" in wanted:
        settings["do_classifier_free_guidance"] = True
    settings |= {name: 1 for name in wanted if name.startswith("num_")} | {"device": "cpu"}
    if "image" in arguments:
        settings["image"] = arguments["image"]

    def texts(**extra):
        return [t for t in pipe.encode_prompt(**settings, **extra) if t is not None and t.ndim == 3]

    if "text_encoder_index" not in wanted:
        return texts()
    parts = [texts(text_encoder_index=place, max_sequence_length=size) for place, size in ((0, 77), (1, 256))]
    return [torch.cat(halves, dim=1) for halves in zip(*parts, strict=True)]


def spelled(tokenizers, states):
    """Texts of the tokens that embeddings (key, channel) stand for; `tokenizers` are pairs of one and its keys."""
    numbers = [round(float(value)) - 1 for value in states[:, 0]]
    readers = [reader for reader, keys in tokenizers for _ in range(keys)]
    return tuple(
        "" if number < 0 else reader.convert_ids_to_tokens(number)
        for number, reader in zip(numbers, readers, strict=True)
    )

"""Labels of text keys: each token's text, what it is, which characters of the prompt it covers, and its chunk.

Pipelines differ in the tokenizers that they have and in how they lay texts out as keys; `LAYOUTS` says which does what.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from attlas.recorder.labels import instructed
from attlas.recorder.labels.asked import Asked
from attlas.recorder.labels.spelling import TokenLabels, joined, nothing, spell, unlabelled

__all__ = ["LAYOUTS", "Layout", "TokenLabels", "label_tokens", "unlabelled"]

HUNYUAN_FIRST = 77
"""Tokens that HunyuanDiT always gives to its first text encoder."""


@dataclass(frozen=True)
class Layout:
    """How pipelines lay their texts out as keys.

    Parameters
    ----------
    pipelines
        Shell patterns of class names; subclasses count too.
    label
        Labels the keys; `unlabelled` where their number is not what the layout makes.
    first
        Number of keys of the first chunk; 0 where all keys are one.
    repeats
        Whether chunks of this size follow one another to the end; else there are two.
    """

    pipelines: tuple[str, ...]
    label: Callable[[Asked], TokenLabels]
    first: Callable[[Asked], int] = lambda _: 0
    repeats: bool = False

    def chunks(self, asked: Asked) -> tuple[int, ...]:
        """Chunk of each key, as far as it can be told without the text."""
        size = self.first(asked)
        if size <= 0 or (self.repeats and asked.keys % size):
            return (0,) * asked.keys
        return tuple(place // size if self.repeats else min(place // size, 1) for place in range(asked.keys))


def label_tokens(
    pipe: Any,
    prompt: str | None,
    keys: int,
    arguments: Mapping[str, Any] | None = None,
    *,
    negative: bool = False,
    picture: int = 0,
    pictures: int = 1,
) -> TokenLabels:
    """Label the `keys` text keys of one picture and guidance branch.

    Parameters
    ----------
    pipe
        The pipeline, in the state in which it encodes its prompts.
    prompt
        The picture's prompt, to which spans refer; for the negative branch its negative prompt, None where the request
        gives none.
    keys
        Number of text keys that the denoiser got.
    arguments
        The request's pipeline arguments, whose other prompts and settings count.
    negative
        Whether the branch is conditioned on the negative prompt.
    picture, pictures
        Which picture of a batch of how many, for arguments that are lists.

    Returns
    -------
    `keys` labels. A span is the stretch of `prompt` that the token spells: tokens of a template, of another prompt's
    own words and of words that the pipeline's cleaning changed have none (-1). A word that was cut off has no token.
    Without texts, and where the number of keys is not what the pipeline is known to make of this prompt, tokens are
    empty and segments ``word``; chunks are there as far as the number of keys tells them.
    """
    asked = Asked(pipe, prompt, keys, arguments or {}, negative, picture, pictures)
    layout = _layout_of(asked)
    if layout is None:
        return unlabelled(keys)
    stem = "negative_prompt_embeds" if negative else "prompt_embeds"
    embedded = any(asked.arguments.get(name) is not None for name in (stem, f"{stem}_2"))
    if not embedded and (prompt is not None or negative):
        labels = layout.label(asked)
        if len(labels.tokens) == keys:
            return labels
    return unlabelled(keys, layout.chunks(asked))


def _layout_of(asked: Asked) -> Layout | None:
    """Layout by class; else, for pipelines of one's own, by the tokenizers that they have."""
    for cls in type(asked.pipe).__mro__:
        for layout in LAYOUTS:
            if any(fnmatchcase(cls.__name__, pattern) for pattern in layout.pipelines):
                return layout
    readers = _tokenizers(asked.pipe)
    if not readers:
        return None
    if any(_is_a(reader, "T5Tokenizer") for reader in readers) and asked.setting("max_sequence_length"):
        return _PADDED
    lengths = {int(reader.model_max_length) for reader in readers}
    return _CLIP if _is_a(readers[0], "CLIPTokenizer") or asked.keys in lengths else None


def _is_a(tokenizer: Any, name: str) -> bool:
    """Whether a tokenizer is of a class, or of its fast twin, which older transformers derive from another base."""
    return any(cls.__name__ in (name, f"{name}Fast") for cls in type(tokenizer).__mro__)


def _tokenizers(pipe: Any) -> list[Any]:
    """Tokenizers of a pipeline, in order, less those that it is without."""
    found = (getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2"))
    return [reader for reader in found if reader is not None]


def _clip_length(asked: Asked) -> int:
    readers = _tokenizers(asked.pipe)
    return int(readers[0].model_max_length) if readers else 0


def _clip(asked: Asked) -> TokenLabels:
    """Stable Diffusion, XL: CLIP's tokenizers read the same positions; the first one that has a text labels them."""
    readers = _tokenizers(asked.pipe)
    if not readers or asked.keys != _clip_length(asked):
        return unlabelled(0)
    config = getattr(asked.pipe, "config", None)
    if asked.negative and asked.prompt is None and getattr(config, "force_zeros_for_empty_prompt", False):
        return nothing(asked.keys)
    # The refiner has the second tokenizer alone, and reads the first prompt with it.
    texts = [asked.text(number + 1) for number in range(len(readers))]
    place = next((place for place, text in enumerate(texts) if text.strip()), 0)
    return spell(readers[place], asked.wording(place + 1, readers[place]), asked.keys)


def _clip_and_t5(asked: Asked) -> TokenLabels:
    """Stable Diffusion 3: CLIP's tokens, then T5's, which are zeros without its encoder."""
    first = _clip_length(asked)
    if asked.keys <= first:
        return unlabelled(0)
    reader = asked.pipe.tokenizer
    second = asked.keys - first
    if asked.pipe.text_encoder_3 is None:
        rest = nothing(second)
    else:
        rest = spell(asked.pipe.tokenizer_3, asked.wording(3), second)
    return joined(spell(reader, asked.wording(1, reader), first), rest)


def _bert_and_t5(asked: Asked) -> TokenLabels:
    """HunyuanDiT: 77 tokens of its BERT, then those of T5, of the same prompt."""
    pipe, rest = asked.pipe, asked.keys - HUNYUAN_FIRST
    if rest <= 0:
        return unlabelled(0)
    return joined(spell(pipe.tokenizer, asked.wording(), HUNYUAN_FIRST), spell(pipe.tokenizer_2, asked.wording(), rest))


def _padded(asked: Asked) -> TokenLabels:
    """One tokenizer whose tokens are padded to a number: T5 of FLUX (its second), PixArt, Wan, LTX and others."""
    expected = asked.setting("max_sequence_length")
    readers = _tokenizers(asked.pipe)
    if not readers or (isinstance(expected, int) and expected != asked.keys):
        return unlabelled(0)
    config = getattr(asked.pipe, "config", None)
    if not asked.texts()[-1] and getattr(config, "force_zeros_for_empty_prompt", False):
        return nothing(asked.keys)
    return spell(readers[-1], asked.wording(len(readers), readers[-1]), asked.keys)


_CLIP = Layout(
    ("StableDiffusion*", "AnimateDiff*", "LatentConsistencyModel*", "*T2IAdapter*"), _clip, _clip_length, True
)
_PADDED = Layout(
    (
        *("Flux*", "Chroma*", "PixArt*", "Wan*", "SkyReelsV2*", "CogVideoX*", "LTX*", "AuraFlow*", "Mochi*"),
        *("Allegro*", "IF*Pipeline", "CogView3Plus*"),
    ),
    _padded,
)

LAYOUTS: tuple[Layout, ...] = (
    Layout(("StableDiffusion3*",), _clip_and_t5, _clip_length),
    Layout(("HunyuanDiT*",), _bert_and_t5, lambda _: HUNYUAN_FIRST),
    Layout(("QwenImageEdit*",), instructed.qwen_edit),
    Layout(("QwenImagePipeline", "QwenImageImg2Img*", "QwenImageInpaint*", "QwenImageControlNet*"), instructed.qwen),
    Layout(("Lumina2*",), instructed.lumina_2),
    Layout(("SanaPipeline", "SanaSprint*", "SanaControlNet*", "SanaPAG*"), instructed.sana),
    # Their text comes to the keys in ways that are not known here.
    Layout(("Flux2*", "FluxPriorRedux*", "LTX2*", "*Long*", "WanAnimate*", "Bria*", "PRX*"), lambda _: unlabelled(0)),
    _CLIP,
    _PADDED,
)
"""Known layouts; the first whose pattern fits the class, or one that it derives from, counts."""

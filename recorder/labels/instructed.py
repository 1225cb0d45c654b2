"""Text keys of pipelines whose text encoder is a language model: the prompt stands in an instruction."""

from collections.abc import Sequence
from typing import Any

from attlas.recorder.labels.asked import Asked, from_module
from attlas.recorder.labels.spelling import TokenLabels, joined, nothing, spell, unlabelled
from attlas.recorder.labels.wording import Wording

__all__ = ["lumina_2", "qwen", "qwen_edit", "sana"]

PICTURE = "<|image_pad|>"
"""Token that Qwen's processor repeats once for each place of a picture."""


def qwen(asked: Asked) -> TokenLabels:
    """Qwen-Image: a chat less its first tokens, as long as it is; zeros up to the longest of the batch."""
    pipe = asked.pipe
    before, after = _template(pipe)
    drop = int(pipe.prompt_template_encode_start_idx)
    limit = int(pipe.tokenizer_max_length) + drop
    chat = spell(pipe.tokenizer, asked.wording().wrapped(before, after), limit, pad=False)
    return _filled(chat, drop, asked)


def qwen_edit(asked: Asked) -> TokenLabels:
    """Qwen-Image-Edit: as Qwen-Image, with tokens for the places of its pictures before the prompt."""
    pipe = asked.pipe
    tokenizer = getattr(pipe.processor, "tokenizer", pipe.tokenizer)
    drop = int(pipe.prompt_template_encode_start_idx)
    before, after = _template(pipe)
    if PICTURE not in before:
        # Edit Plus numbers its pictures; the template has no place for them.
        shown = asked.arguments.get("image")
        count = len(shown) if isinstance(shown, list | tuple) else int(shown is not None)
        before += "".join(f"Picture {place + 1}: <|vision_start|>{PICTURE}<|vision_end|>" for place in range(count))

    def chat(words: Wording, places: Sequence[int]) -> TokenLabels:
        pieces = before.split(PICTURE)
        filled = "".join(piece + PICTURE * number for piece, number in zip(pieces, (*places, 0), strict=True))
        return spell(tokenizer, words.wrapped(filled, after))

    pictures = before.count(PICTURE)
    bare = [chat(Wording.of(text), (1,) * pictures) for text in asked.texts()]
    room = asked.keys - (max(len(labels.tokens) for labels in bare) - drop - pictures)
    places = (room,) if pictures == 1 else _places(asked, pictures)
    if any(number < 1 for number in places) or sum(places) != room:
        return unlabelled(0)
    return _filled(chat(asked.wording(), places), drop, asked, cut=False)


def lumina_2(asked: Asked) -> TokenLabels:
    """Lumina 2: the system's prompt and the user's, without the padding that the encoder got."""
    words = asked.wording()
    if not asked.negative:
        system = asked.setting("system_prompt") or asked.pipe.system_prompt
        words = words.wrapped(f"{system} <Prompt Start> ")
    labels = spell(asked.pipe.tokenizer, words, int(asked.setting("max_sequence_length")))
    return labels.at(range(min(asked.keys, len(labels.tokens))))


def sana(asked: Asked) -> TokenLabels:
    """Sana: the first token and the last ones of an instruction and the prompt; the negative prompt has none."""
    tokenizer, words = asked.pipe.tokenizer, asked.wording()
    instruction = None if asked.negative else asked.setting("complex_human_instruction")
    if asked.setting("max_sequence_length") != asked.keys:
        return unlabelled(0)
    if not instruction:
        return spell(tokenizer, words, asked.keys)
    told = "\n".join(instruction)
    labels = spell(tokenizer, words.wrapped(told), len(tokenizer.encode(told)) + asked.keys - 2)
    count = len(labels.tokens)
    return labels.at([0, *range(count - asked.keys + 1, count)])


def _template(pipe: Any) -> tuple[str, str]:
    before, _, after = str(pipe.prompt_template_encode).partition("{}")
    return before, after


def _filled(chat: TokenLabels, drop: int, asked: Asked, *, cut: bool = True) -> TokenLabels:
    """Tokens after the first `drop`, cut as the pipeline cuts them, and zeros up to the longest text of the batch."""
    length = len(chat.tokens) - drop
    limit = asked.setting("max_sequence_length") if cut else None
    kept = chat.at(range(drop, drop + min(length, limit or length)))
    rest = asked.keys - len(kept.tokens)
    # With a batch of one there is nothing to fill; another number of keys is another layout.
    if rest < 0 or (rest and len(asked.texts()) == 1):
        return unlabelled(0)
    return joined(kept, nothing(rest), chunks=(0, 0))


def _places(asked: Asked, pictures: int) -> tuple[int, ...]:
    """Tokens of each picture, from its size, as the pipeline shrinks it and the processor cuts it into patches."""
    shrink, area = from_module(asked.pipe, "calculate_dimensions"), from_module(asked.pipe, "CONDITION_IMAGE_SIZE")
    reader = getattr(asked.pipe.processor, "image_processor", None)
    shown = asked.arguments.get("image")
    sizes = [getattr(picture, "size", None) for picture in shown] if isinstance(shown, list | tuple) else []
    if reader is None or not callable(shrink) or area is None or len(sizes) != pictures:
        return ()
    shrunk = [shrink(area, size[0] / size[1]) for size in sizes if isinstance(size, tuple)]
    patches = [int(reader.get_number_of_image_patches(height, width, {})) for width, height, *_ in shrunk]
    return tuple(number // int(reader.merge_size) ** 2 for number in patches)

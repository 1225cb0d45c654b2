"""Labels of text keys: each token's text, what it is, and which characters of the prompt it covers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["TokenLabels", "label_tokens", "tokenizer_of", "unlabelled"]


@dataclass(frozen=True)
class TokenLabels:
    """One entry per key: text as the tokenizer spells it, segment, first character and one past the last (-1: none)."""

    tokens: tuple[str, ...]
    segments: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    chunks: tuple[int, ...]


def tokenizer_of(pipe: Any) -> Any:
    """Tokenizer whose tokens are the keys of `pipe`'s cross-attention, or None."""
    return getattr(pipe, "tokenizer", None) or getattr(pipe, "tokenizer_2", None)


def label_tokens(pipe: Any, prompt: str, keys: int, arguments: Mapping[str, Any] | None = None) -> TokenLabels:
    """Label the `keys` tokens that a CLIP tokenizer makes of `prompt`, as the pipeline pads and cuts it.

    The first end-of-text token is ``eos`` and whatever follows is ``pad``, although Stable Diffusion 1 pads with
    end-of-text tokens. Words of a textual inversion are labelled by their vectors and have no characters.
    """
    tokenizer = tokenizer_of(pipe)
    if tokenizer is None or int(tokenizer.model_max_length) != keys:
        return unlabelled(keys)
    convert = getattr(pipe, "maybe_convert_prompt", None)
    text = str(convert(prompt, tokenizer)) if callable(convert) else prompt
    fast = bool(getattr(tokenizer, "is_fast", False))
    encoded = tokenizer(text, padding="max_length", max_length=keys, truncation=True, return_offsets_mapping=fast)
    ids = [int(number) for number in encoded["input_ids"]]
    tokens = tuple(str(token) for token in tokenizer.convert_ids_to_tokens(ids))
    spans = [(int(a), int(b)) for a, b in encoded["offset_mapping"]] if fast else _spans(text, tokens)
    segments = _segments(ids, spans, tokenizer.bos_token_id, tokenizer.eos_token_id)
    shown = [
        span if segment == "word" and text == prompt and span[1] > span[0] else (-1, -1)
        for segment, span in zip(segments, spans, strict=True)
    ]
    return TokenLabels(tokens, segments, tuple(a for a, _ in shown), tuple(b for _, b in shown), (0,) * keys)


def unlabelled(keys: int) -> TokenLabels:
    """Labels of keys whose text is not known, because the request gave embeddings."""
    return TokenLabels(("",) * keys, ("word",) * keys, (-1,) * keys, (-1,) * keys, (0,) * keys)


def _segments(ids: list[int], spans: list[tuple[int, int]], bos: int | None, eos: int | None) -> tuple[str, ...]:
    """Name what each token is; an end-of-text id that covers characters is CLIP's sign for an unknown word."""
    segments: list[str] = []
    for place, (number, (start, end)) in enumerate(zip(ids, spans, strict=True)):
        if "eos" in segments:
            segments.append("pad")
        elif place == 0 and number == bos:
            segments.append("bos")
        else:
            segments.append("eos" if number == eos and end <= start else "word")
    return tuple(segments)


def _spans(text: str, tokens: tuple[str, ...]) -> list[tuple[int, int]]:
    """Find the tokens one after the other in the text, for tokenizers that do not say where they were."""
    lowered = text.lower()
    place = 0
    spans = []
    for token in tokens:
        piece = token.removesuffix("</w>")
        found = lowered.find(piece, place) if piece and not piece.startswith("<|") else -1
        spans.append((found, found + len(piece)) if found >= 0 else (-1, -1))
        place = found + len(piece) if found >= 0 else place
    return spans

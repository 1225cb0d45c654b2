"""What one tokenizer makes of one text: the label of each of its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attlas.recorder.wording import NOWHERE, Wording

__all__ = ["TokenLabels", "joined", "nothing", "spell", "unlabelled"]


@dataclass(frozen=True)
class TokenLabels:
    """One entry per key.

    Parameters
    ----------
    tokens
        Text as the tokenizer spells it.
    segments
        ``bos``, ``word``, ``eos``, ``pad``, or ``template``: what the pipeline puts around the prompt.
    starts, ends
        First character of the prompt and one past the last; -1 where the token spells none of it.
    chunks
        Which encoder's or chunk's text the token belongs to, from 0.
    """

    tokens: tuple[str, ...]
    segments: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    chunks: tuple[int, ...]

    def at(self, places: Sequence[int]) -> "TokenLabels":
        """Labels of the keys at `places`."""
        return TokenLabels(
            tuple(self.tokens[place] for place in places),
            tuple(self.segments[place] for place in places),
            tuple(self.starts[place] for place in places),
            tuple(self.ends[place] for place in places),
            tuple(self.chunks[place] for place in places),
        )


def unlabelled(keys: int, chunks: Sequence[int] | None = None) -> TokenLabels:
    """Labels of keys whose text is not known, because the request gave embeddings."""
    return TokenLabels(
        ("",) * keys, ("word",) * keys, (-1,) * keys, (-1,) * keys, (0,) * keys if chunks is None else tuple(chunks)
    )


def nothing(keys: int) -> TokenLabels:
    """Labels of keys that the pipeline fills with zeros: ``pad`` without a text."""
    return TokenLabels(("",) * keys, ("pad",) * keys, (-1,) * keys, (-1,) * keys, (0,) * keys)


def joined(*parts: TokenLabels, chunks: Sequence[int] | None = None) -> TokenLabels:
    """Labels of keys that follow one another, each part a chunk of its own unless `chunks` says which it is."""
    numbers = range(len(parts)) if chunks is None else chunks
    return TokenLabels(
        tuple(token for part in parts for token in part.tokens),
        tuple(segment for part in parts for segment in part.segments),
        tuple(start for part in parts for start in part.starts),
        tuple(end for part in parts for end in part.ends),
        tuple(number for number, part in zip(numbers, parts, strict=True) for _ in part.tokens),
    )


def spell(tokenizer: Any, wording: Wording, length: int | None = None, *, pad: bool = True) -> TokenLabels:
    """Label the tokens that `tokenizer` makes of a text, cut to `length` tokens, and padded to it if `pad`.

    The first end token that spells nothing is ``eos`` and whatever follows is ``pad``, although Stable Diffusion 1
    pads with end tokens; an end token that spells characters is CLIP's sign for an unknown word.
    """
    fast = bool(getattr(tokenizer, "is_fast", False))
    settings: dict[str, Any] = {} if length is None else {"max_length": length, "truncation": True}
    if pad and length is not None:
        settings["padding"] = "max_length"
    encoded = tokenizer(wording.text, return_attention_mask=True, return_offsets_mapping=fast, **settings)
    ids = [int(number) for number in encoded["input_ids"]]
    tokens = tuple(str(token) for token in tokenizer.convert_ids_to_tokens(ids))
    if fast:
        covered = [(int(first), int(last)) for first, last in encoded["offset_mapping"]]
    else:
        covered = _searched(wording.text, tokens)
    segments = _segments(tokenizer, ids, [bool(flag) for flag in encoded["attention_mask"]], covered, wording)
    spans = [
        wording.span(*stretch) if segment == "word" else NOWHERE
        for segment, stretch in zip(segments, covered, strict=True)
    ]
    starts, ends = (tuple(span[side] for span in spans) for side in (0, 1))
    return TokenLabels(tokens, segments, starts, ends, (0,) * len(ids))


def _segments(
    tokenizer: Any, ids: list[int], seen: list[bool], covered: list[tuple[int, int]], wording: Wording
) -> tuple[str, ...]:
    begin, end = (
        {getattr(tokenizer, f"{name}_token_id", None) for name in names} for names in (("bos", "cls"), ("eos", "sep"))
    )
    special = set(getattr(tokenizer, "all_special_ids", ()))
    segments: list[str] = []
    for number, shown, (first, last) in zip(ids, seen, covered, strict=True):
        if not shown or "eos" in segments:
            segments.append("pad")
        elif last > first:
            segments.append("word" if wording.is_own(first, last) else "template")
        elif number in begin and set(segments) <= {"pad"}:
            segments.append("bos")
        elif number in end:
            segments.append("eos")
        else:
            segments.append("template" if number in special else "word")
    return tuple(segments)


def _searched(text: str, tokens: tuple[str, ...]) -> list[tuple[int, int]]:
    """Find the tokens one after the other in the text, for tokenizers that do not say where they were."""
    lowered = text.lower()
    place = 0
    found = []
    for token in tokens:
        piece = token.removesuffix("</w>").removeprefix("##").lstrip("▁Ġ").lower()
        spot = lowered.find(piece, place) if piece and not piece.startswith("<|") else -1
        found.append((spot, spot + len(piece)) if spot >= 0 else NOWHERE)
        place = spot + len(piece) if spot >= 0 else place
    return found

"""What one tokenizer makes of one text: the label of each of its tokens."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attlas.recorder.labels.wording import NOWHERE, Wording

__all__ = ["TokenLabels", "joined", "nothing", "spell", "unlabelled"]

_BYTE = re.compile("<0x([0-9A-F]{2})>")


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

    Whatever the tokenizer pads with is ``pad``, although Stable Diffusion 1 pads with end tokens; an end token within
    the text is CLIP's sign for an unknown word.
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
        covered = _searched(tokenizer, wording.text, ids, tokens)
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
    special = set(getattr(tokenizer, "all_special_ids", ())) - {getattr(tokenizer, "unk_token_id", None)}
    final = max((place for place, shown in enumerate(seen) if shown), default=-1)
    segments: list[str] = []
    for place, (number, shown, (first, last)) in enumerate(zip(ids, seen, covered, strict=True)):
        if not shown:
            segments.append("pad")
        elif last > first:
            segments.append("word" if wording.is_own(first, last) else "template")
        elif number in begin and set(segments) <= {"pad"}:
            segments.append("bos")
        elif number in end and place == final:
            segments.append("eos")
        else:
            segments.append("template" if number in special else "word")
    return tuple(segments)


def _searched(tokenizer: Any, text: str, ids: list[int], tokens: tuple[str, ...]) -> list[tuple[int, int]]:
    """Find the tokens one after the other in the text, for tokenizers that do not say where they were.

    A token stands where the one before ended; after one that is not there, which stands for something else than it
    spells, the next one is looked for further on.
    """
    lowered = [letter.lower() if len(letter.lower()) == 1 else letter for letter in text]
    # Tokens may be parts of a letter: bytes.
    owners = [place for place, letter in enumerate(lowered) for _ in letter.encode()]
    raw = "".join(lowered).encode()
    special = set(getattr(tokenizer, "all_special_ids", ()))
    unknown = getattr(tokenizer, "unk_token_id", None)
    letters: dict[str, int] = getattr(tokenizer, "byte_decoder", {})
    place, lost = 0, False
    found = []
    for number, token in zip(ids, tokens, strict=True):
        piece = b"" if number in special else _bytes(token, letters).lower()
        while place < len(raw) and text[owners[place]].isspace():
            place += 1
        spot = raw.find(piece, place) if piece else -1
        if spot < 0 or (spot > place and not lost):
            lost = lost or number not in special or number == unknown
            found.append(NOWHERE)
        else:
            place, lost = spot + len(piece), False
            found.append((owners[spot], owners[place - 1] + 1))
    return found


def _bytes(token: str, letters: dict[str, int]) -> bytes:
    """Return what a token spells, less the signs by which tokenizers say that a word begins, goes on or ends."""
    single = _BYTE.fullmatch(token)
    if single:
        return bytes([int(single[1], 16)])
    piece = token.removesuffix("</w>").removeprefix("##").lstrip("▁Ġ")
    if letters and all(letter in letters for letter in piece):
        return bytes(letters[letter] for letter in piece)
    return piece.encode()

"""The tokenizer of the shapes world: byte-pair encoding in which each of our words is one token."""

from transformers import CLIPTokenizer

from attlas.recorder.demo.shapes.words import COLOURS, NOUNS

__all__ = ["MAX_TOKENS", "build_tokenizer"]

# bos + "a red disc and a blue cross" + eos = 9, and a few more for the user's own wording.
MAX_TOKENS = 12

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_END = "</w>"


def build_tokenizer() -> CLIPTokenizer:
    """Build the tokenizer; it holds no learned state.

    Returns
    -------
    transformers.CLIPTokenizer
        Each colour, each noun, ``a`` and ``and`` is one token; other words of a-z fall into smaller pieces.
        Pads with the end token to at most 12, like the tokenizer of Stable Diffusion 1.
    """
    words = ["a", "and", *COLOURS, *NOUNS]
    merges: list[tuple[str, str]] = []
    for word in words:
        # A word is split by the merges before it, then joined left to right. Later merges rank below
        # these, so they can never break it.
        pieces = _split(word, merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = _split(word, merges)
    tokens = [*_LETTERS, *(letter + _END for letter in _LETTERS), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def _split(word: str, merges: list[tuple[str, str]]) -> list[str]:
    pieces = [*word[:-1], word[-1] + _END]
    for left, right in merges:
        place = 0
        while place < len(pieces) - 1:
            if (pieces[place], pieces[place + 1]) == (left, right):
                pieces[place : place + 2] = [left + right]
            place += 1
    return pieces

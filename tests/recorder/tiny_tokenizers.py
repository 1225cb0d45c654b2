"""Tiny tokenizers of the families beside CLIP's, made from a few words: no file, no network.

Each knows the words of `tiny_pipelines.WORDS` whole and spells the rest letter by letter, in the class, with the
special tokens and with the padding that pipelines meet.
"""

import re
import string

from tiny_pipelines import WORDS
from transformers import BertTokenizer, GemmaTokenizer, Qwen2Tokenizer, Qwen2VLProcessor, T5Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

CHARACTERS = string.ascii_letters + string.digits + string.punctuation

TEMPLATES = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background: Describe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new "
    "image that meets the user's requirements while maintaining consistency with the original input where "
    "appropriate. system user assistant Picture"
)
"""Words of QwenImage's templates: whole, so that the template is as many tokens as the pipeline drops of it."""

QWEN_VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *QWEN_VISION)


def byte_letters() -> dict[int, str]:
    """How byte-level vocabularies spell each byte: itself where it prints, else a letter from 256 on."""
    prints = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in prints]
    return {**{byte: chr(byte) for byte in prints}, **{byte: chr(256 + n) for n, byte in enumerate(others)}}


def _merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Merges that build each word from its left end."""
    pairs = ((word[:end], word[end]) for word in words for end in range(1, len(word)))
    return list(dict.fromkeys(pairs))


def t5_tokenizer(tokens: int = 16) -> T5Tokenizer:
    """T5: no start token, ``</s>`` at the end, then ``<pad>``; ``▁`` begins a word; ``<unk>`` for other letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [("▁" + word, -1.0) for word in WORDS]
    pieces += [(letter, -4.0) for letter in CHARACTERS]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=tokens)


def gemma_tokenizer(tokens: int = 64) -> GemmaTokenizer:
    """Gemma: ``<bos>``, no end token, ``<pad>``; spaces are ``▁``; bytes for what it does not know."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    words = tuple("▁" + word for word in WORDS)
    merges = _merges(words)
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *CHARACTERS, *(a + b for a, b in merges)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return GemmaTokenizer(vocab=vocabulary, merges=merges, model_max_length=tokens, add_bos_token=True)


def qwen_tokenizer(tokens: int = 512) -> Qwen2Tokenizer:
    """Qwen: bytes, spaces are ``Ġ``, no start and no end token, ``<|endoftext|>`` pads; the chat's special tokens.

    Whole words are those of `WORDS` and of QwenImage's templates.
    """
    template = re.findall(r"'s|[A-Za-z]+", TEMPLATES)
    words = tuple(dict.fromkeys([*WORDS, *("Ġ" + word for word in WORDS), *template, *("Ġ" + w for w in template)]))
    letters = byte_letters().values()
    merges = [*_merges(words), ("Ġ", "("), (")", ",")]
    pieces = dict.fromkeys([*letters, *(a + b for a, b in merges), *QWEN_SPECIAL])
    made = Qwen2Tokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=merges,
        model_max_length=tokens,
        extra_special_tokens=list(QWEN_SPECIAL[1:]),
    )
    made.backend_tokenizer.model.ignore_merges = True  # one word's merges would cut another
    made.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return made


class qwen_processor(Qwen2VLProcessor):  # noqa: N801 a function to its users
    """Qwen's processor of text and pictures, less its videos, which need torchvision; at most `places` tokens each."""

    def __init__(self, tokens: int = 512, places: int = 4) -> None:
        self.tokenizer, self.video_processor, self.chat_template = qwen_tokenizer(tokens), None, None
        size = {"shortest_edge": 28**2, "longest_edge": places * 28**2}
        self.image_processor = Qwen2VLImageProcessorPil(size=size)
        self.image_token, self.video_token = QWEN_VISION[2:]
        self.image_token_id, self.video_token_id = self.tokenizer.convert_tokens_to_ids(QWEN_VISION[2:])


def bert_tokenizer(tokens: int = 77) -> BertTokenizer:
    """BERT, as HunyuanDiT's first: ``[CLS]``, ``[SEP]``, ``[PAD]``; lower case; ``##`` continues a word."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *("##" + letter for letter in letters)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return BertTokenizer(vocab=vocabulary, model_max_length=tokens)

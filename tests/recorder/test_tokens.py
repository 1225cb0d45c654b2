"""Labels of prompt tokens."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_pipelines import TOKENS, make_pipe, tokenizer
from tiny_tokenizers import bert_tokenizer, byte_letters, gemma_tokenizer, qwen_tokenizer, t5_tokenizer

from attlas.recorder.labels.spelling import spell
from attlas.recorder.labels.tokens import label_tokens
from attlas.recorder.labels.wording import Wording
from attlas.schemas.words import covered, spans


class Slow:
    """A tokenizer that does not know where its tokens were, as the pure Python ones."""

    is_fast = False

    def __init__(self, fast):
        self._fast = fast
        for name in (
            "model_max_length",
            "bos_token_id",
            "eos_token_id",
            "cls_token_id",
            "sep_token_id",
            "unk_token_id",
        ):
            setattr(self, name, getattr(fast, name))
        self.all_special_ids = fast.all_special_ids
        if "Ġ" in fast.get_vocab():
            self.byte_decoder = {letter: byte for byte, letter in byte_letters().items()}

    def __call__(self, text, *, return_offsets_mapping, **settings):
        assert not return_offsets_mapping
        return self._fast(text, **settings)

    def convert_ids_to_tokens(self, ids):
        return self._fast.convert_ids_to_tokens(ids)


@pytest.fixture(params=["fast", "slow"])
def pipe(request):
    fast = tokenizer()
    return SimpleNamespace(tokenizer=fast if request.param == "fast" else Slow(fast))


READERS = (tokenizer, t5_tokenizer, gemma_tokenizer, qwen_tokenizer, bert_tokenizer)


@given(st.sampled_from(READERS), st.text(st.sampled_from("ab c,Dz1\N{CAT}\u4e2d'-"), max_size=14))
def test_searching_finds_what_the_fast_tokenizers_say(make, prompt):
    fast = make(64)
    want, got = (spell(reader, Wording.of(prompt), 64) for reader in (fast, Slow(fast)))
    assert (got.tokens, got.segments) == (want.tokens, want.segments)
    # What an unknown token stands for cannot be searched for, so that it is not certain where the next ones are.
    known = want.tokens.index(fast.unk_token) if fast.unk_token in want.tokens else 64
    for piece, *places in list(zip(want.tokens, want.starts, want.ends, got.starts, got.ends, strict=True))[:known]:
        assert places[:2] == places[2:] or piece == "▁"


def test_words_pieces_and_padding(pipe):
    prompt = "a Red  cat zz"
    labels = label_tokens(pipe, prompt, TOKENS)
    assert labels.segments == ("bos", *("word",) * 5, "eos", *("pad",) * 5)
    assert labels.tokens[:7] == ("<|startoftext|>", "a</w>", "red</w>", "cat</w>", "z", "z</w>", "<|endoftext|>")
    spelled = [prompt[a:b] for a, b in zip(labels.starts, labels.ends, strict=True) if a >= 0]
    assert spelled == ["a", "Red", "cat", "z", "z"]
    assert labels.starts[0] == labels.ends[0] == labels.starts[-1] == -1


def test_a_word_twice_has_two_places(pipe):
    labels = label_tokens(pipe, "cat cat", TOKENS)
    assert list(zip(labels.starts, labels.ends, strict=True))[1:3] == [(0, 3), (4, 7)]


def test_an_empty_prompt_is_padding(pipe):
    assert label_tokens(pipe, "", TOKENS).segments == ("bos", "eos", *("pad",) * (TOKENS - 2))


def test_a_long_prompt_is_cut_where_the_pipeline_cuts_it(pipe):
    labels = label_tokens(pipe, "cat " * 30, TOKENS)
    assert labels.segments == ("bos", *("word",) * (TOKENS - 2), "eos")


def test_an_unknown_word_is_no_end_of_text():
    # This tokenizer has no comma, and CLIP spells what it does not know as end-of-text.
    labels = label_tokens(SimpleNamespace(tokenizer=tokenizer()), "a cat , a dog", TOKENS)
    assert labels.segments[:7] == ("bos", *("word",) * 5, "eos")
    assert (labels.starts[3], labels.ends[3]) == (6, 7)


def test_words_that_a_pipeline_replaces_have_no_characters():
    pipe = SimpleNamespace(tokenizer=tokenizer(), maybe_convert_prompt=lambda text, _: text.replace("toy", "cat dog"))
    labels = label_tokens(pipe, "a toy", TOKENS)
    assert labels.tokens[1:4] == ("a</w>", "cat</w>", "dog</w>")
    assert labels.starts[1:4] == (0, -1, -1)


def test_every_vector_of_a_learned_word_stands_for_the_word():
    pipe = make_pipe()
    pipe.load_textual_inversion({"<toy>": torch.zeros(3, 16)})
    prompt = "a <toy>, a cat"
    fed = []
    pipe.text_encoder.register_forward_pre_hook(lambda module, args: fed.append(args[0]))
    pipe.encode_prompt(prompt, "cpu", 1, False)
    labels = label_tokens(pipe, prompt, TOKENS)
    assert labels.tokens == tuple(pipe.tokenizer.convert_ids_to_tokens(fed[0][0]))
    assert labels.tokens[2:5] == ("<toy>", "<toy>_1", "<toy>_2")
    places = list(zip(labels.starts, labels.ends, strict=True))
    assert places[1:8] == [(0, 1), *[(2, 7)] * 3, (7, 8), (9, 10), (11, 14)]


def test_words_of_a_prompt_that_is_cut_are_not_there():
    prompt = "red " * TOKENS + "cat"
    labels = label_tokens(SimpleNamespace(tokenizer=tokenizer()), prompt, TOKENS)
    assert max(labels.ends) == 4 * (TOKENS - 2) - 1
    assert not covered(labels.starts, labels.ends, spans(prompt, "cat")).any()


def test_other_numbers_of_keys_are_not_guessed():
    labels = label_tokens(SimpleNamespace(tokenizer=tokenizer()), "a cat", 5)
    assert labels.tokens == ("",) * 5

"""Labels of text keys by pipeline, beside the tokens that each pipeline's own code puts there (`echo`)."""

import numpy as np
import pytest
from echo import Echo, encode, make, spelled
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attlas.recorder.labels.tokens import label_tokens
from attlas.schemas.words import covered, spans

ONE = ("StableDiffusionPipeline", "PixArtAlphaPipeline", "PixArtSigmaPipeline", "WanPipeline", "CogVideoXPipeline")
ONE += ("LTXPipeline", "MochiPipeline", "ChromaPipeline", "AuraFlowPipeline", "AllegroPipeline", "QwenImagePipeline")
ONE += ("Lumina2Pipeline", "SanaPipeline", "SanaSprintPipeline", "StableDiffusionXLPipeline")
TWO = ("StableDiffusion3Pipeline", "HunyuanDiTPipeline")
ALL = (*ONE, *TWO, "FluxPipeline", "FluxImg2ImgPipeline")

PROMPT = "A red cat, a blue dog & ONE zebra's \N{CAT} caf\N{LATIN SMALL LETTER E WITH ACUTE}"

made = {}


def piped(name):
    if name not in made:
        made[name] = make(name)
    return made[name]


def tokenizers_of(pipe, keys):
    name = type(pipe).__name__
    if name.startswith("StableDiffusion3"):
        return [(pipe.tokenizer, 12), (pipe.tokenizer_3, keys - 12)]
    if name.startswith("HunyuanDiT"):
        return [(pipe.tokenizer, 77), (pipe.tokenizer_2, keys - 77)]
    return [(pipe.tokenizer_2 if name.startswith("Flux") else pipe.tokenizer, keys)]


def check(pipe, prompt, negative="a dog", **arguments):
    """Labels of both branches, after they are what the pipeline does."""
    arguments = {"prompt": [prompt], "negative_prompt": [negative], **arguments}
    labelled = []
    for place, states in enumerate(encode(pipe, **arguments)):
        keys = states.shape[1]
        text = negative if place else prompt
        labels = label_tokens(pipe, text, keys, arguments, negative=bool(place))
        want = spelled(tokenizers_of(pipe, keys), states[0])
        # Wan and AuraFlow put zeros where the tokenizer pads.
        zeros = [not token and segment == "pad" for token, segment in zip(want, labels.segments, strict=True)]
        seen = ["" if zero else token for token, zero in zip(labels.tokens, zeros, strict=True)]
        assert tuple(seen) == want
        assert len(labels.starts) == len(labels.ends) == len(labels.chunks) == keys
        labelled.append(labels)
    return labelled


def words_of(text, labels, word):
    """Tokens that cover `word`, by chunk."""
    places = np.flatnonzero(covered(labels.starts, labels.ends, spans(text, word)))
    return {
        chunk: [labels.tokens[p] for p in places if labels.chunks[p] == chunk] for chunk in sorted(set(labels.chunks))
    }


@pytest.mark.parametrize("name", ALL)
def test_labels_are_what_the_pipeline_feeds_its_denoiser(name):
    labels = check(piped(name), PROMPT)[0]
    assert set(labels.segments) <= {"bos", "word", "eos", "pad", "template"}
    for segment, start, end in zip(labels.segments, labels.starts, labels.ends, strict=True):
        assert (start >= 0) == (end > start >= 0)
        assert start < 0 or segment == "word"


@pytest.mark.parametrize("name", ALL)
def test_an_empty_prompt_has_no_word(name):
    for labels in check(piped(name), "", ""):
        assert set(labels.starts) == {-1}
        assert "word" not in labels.segments


texts = st.text(st.sampled_from("a b c R,.!\N{CAT}\N{LATIN SMALL LETTER E WITH ACUTE}\u4e2d'-(&1"), max_size=10)
prompts = st.lists(st.one_of(st.sampled_from(["a", "red", "blue", "cat", "dog", "and", "Cat", "A"]), texts), max_size=6)


@given(st.sampled_from(ALL), prompts.map(" ".join))
def test_spans_cover_the_prompt(name, prompt):
    labels = check(piped(name), prompt)[0]
    for chunk in sorted(set(labels.chunks)):
        seen = set()
        for start, end, own in zip(labels.starts, labels.ends, labels.chunks, strict=True):
            seen |= set(range(start, end)) if own == chunk and start >= 0 else set()
            assert own != chunk or start < 0 or not (prompt[start].isspace() or prompt[end - 1].isspace())
        visible = [place for place, letter in enumerate(prompt) if not letter.isspace()]
        # What is cut off is at the end.
        assert seen == set(visible[: len(seen)])
        assert len(seen) == len(visible) or len([s for s in labels.chunks if s == chunk]) == 12


@pytest.mark.parametrize("name", ALL)
def test_words_have_their_own_tokens_only(name):
    prompt = "a cat, and a CAT in a"
    labels = check(piped(name), prompt)[0]
    plain = {"</w>": "", "▁": "", "Ġ": "", "##": ""}

    def letters(tokens):
        for old, new in plain.items():
            tokens = [token.replace(old, new) for token in tokens]
        return "".join(tokens).lower()

    for own in words_of(prompt, labels, "and a CAT").values():
        assert letters(own) == "andacat"
    for own in words_of(prompt, labels, "cat").values():
        assert letters(own) == "catcat"
    for own in words_of(prompt, labels, "a").values():  # not the one in "and" or "cat"
        assert letters(own) in ("aaa", "aa")  # the last one is beyond CLIP's 12


@pytest.mark.parametrize("name", TWO)
def test_each_encoder_is_a_chunk(name):
    labels = check(piped(name), "a red cat")[0]
    first = labels.chunks.index(1)
    assert labels.chunks == (0,) * first + (1,) * (len(labels.chunks) - first)
    assert labels.segments[first : first + 4] == ("word", "word", "word", "eos")
    assert words_of("a red cat", labels, "red") == {0: [labels.tokens[2]], 1: ["▁red"]}


def test_segments_by_tokenizer():
    clip = check(piped("StableDiffusionPipeline"), "a cat")[0]
    assert clip.segments == ("bos", "word", "word", "eos", *("pad",) * 8)
    t5 = check(piped("FluxPipeline"), "a cat")[0]
    assert t5.segments[:5] == ("word", "word", "eos", "pad", "pad")
    bert = check(piped("HunyuanDiTPipeline"), "a cat")[0]
    assert bert.segments[:5] == ("bos", "word", "word", "eos", "pad")


def test_the_second_tokenizer_of_xl_pads_otherwise():
    pipe = make("StableDiffusionXLPipeline", tokenizer=None, text_encoder=None)
    labels = label_tokens(pipe, "a cat", 12)
    assert labels.tokens[3:5] == ("<|endoftext|>", "red</w>")
    assert labels.segments[3:] == ("eos", *("pad",) * 8)


def test_xl_is_labelled_by_the_first_tokenizer_that_has_a_text():
    pipe = piped("StableDiffusionXLPipeline")
    arguments = {"prompt_2": "a dog"}
    assert label_tokens(pipe, "a cat", 12, arguments).tokens[2] == "cat</w>"
    labels = label_tokens(pipe, "", 12, arguments)
    assert labels.tokens[2] == "dog</w>"
    # Spans are places in the prompt, and this is another text.
    assert set(labels.starts) == {-1}


def test_xl_without_a_negative_prompt_has_zeros_for_it():
    pipe = piped("StableDiffusionXLPipeline")
    _, states = encode(pipe, prompt=["a cat"])
    assert not states.any()
    labels = label_tokens(pipe, None, 12, {"prompt": ["a cat"]}, negative=True)
    assert set(labels.segments) == {"pad"}
    assert set(labels.tokens) == {""}


def test_stable_diffusion_3_without_t5_has_zeros_for_it():
    pipe = make("StableDiffusion3Pipeline", text_encoder_3=None, tokenizer_3=None)
    pipe.transformer = type("Denoiser", (), {"config": type("Config", (), {"joint_attention_dim": 8})()})()
    states = encode(pipe, prompt=["a cat"], negative_prompt=["a dog"])[0]
    labels = label_tokens(pipe, "a cat", states.shape[1])
    assert not states[:, 12:].any()
    assert set(labels.segments[12:]) == {"pad"}
    assert labels.segments[:4] == ("bos", "word", "word", "eos")


def test_prompts_for_other_tokenizers():
    pipe = piped("StableDiffusion3Pipeline")
    labels = check(pipe, "a cat", prompt_3="a blue cat", negative_prompt_3="red")
    assert words_of("a cat", labels[0], "cat")[1] == ["▁cat"]
    assert labels[0].tokens[12:15] == ("▁a", "▁blue", "▁cat")
    assert labels[0].starts[12:15] == (0, -1, 2)
    assert labels[1].tokens[12] == "▁red"
    flux = piped("FluxPipeline")
    assert check(flux, "a cat", prompt_2="a dog")[0].tokens[1] == "▁dog"


def test_arguments_with_one_entry_a_picture():
    pipe = piped("FluxPipeline")
    arguments = {"prompt": ["a cat", "a dog"], "prompt_2": ["red", "blue"]}
    tokens = [label_tokens(pipe, "", 512, arguments, picture=n, pictures=4).tokens[0] for n in range(4)]
    assert tokens == ["▁red", "▁red", "▁blue", "▁blue"]


@pytest.mark.parametrize("name", ["PixArtAlphaPipeline", "SanaPipeline", "WanPipeline"])
def test_cleaned_prompts_keep_their_places(name):
    prompt = "  A &amp; RED   cat\n"
    labels = check(piped(name), prompt)[0]
    assert [prompt[a:b] for a, b in zip(labels.starts, labels.ends, strict=True) if prompt[a:b] == "cat"] == ["cat"]
    starts = [start for start in labels.starts if start >= 0]
    assert min(starts) == 2


@pytest.mark.parametrize("name", ["QwenImagePipeline", "Lumina2Pipeline"])
def test_template_tokens_are_none_of_the_prompt(name):
    labels = check(piped(name), "a cat")[0]
    assert "template" in labels.segments
    words = [token for token, segment in zip(labels.tokens, labels.segments, strict=True) if segment == "word"]
    assert len(words) == 2
    # The prompt's own words, and not the same ones of the instruction.
    assert sum(len(own) for own in words_of("a cat", labels, "a").values()) == 1


@pytest.mark.parametrize("instruction", [[], ["Draw it as a cat.", "User Prompt: "], ["a" * 400]])
def test_sana_keeps_the_last_tokens_of_its_instruction(instruction):
    labels = check(piped("SanaPipeline"), "a cat", complex_human_instruction=instruction, max_sequence_length=5)[0]
    assert labels.segments[0] == "bos"
    assert words_of("a cat", labels, "cat") == {0: ["▁cat"]}
    assert labels.segments[-1] == "pad"


def test_lumina_2_drops_its_padding():
    pipe = piped("Lumina2Pipeline")
    whole = label_tokens(pipe, "a cat", 256, {"system_prompt": "Draw"})
    seen = whole.segments.index("pad")
    cut = label_tokens(pipe, "a cat", seen, {"system_prompt": "Draw"})
    assert cut.tokens == whole.tokens[:seen]
    assert cut.segments[0] == "bos"
    assert cut.segments[-2:] == ("word", "word")


def test_qwen_fills_a_batch_up_with_zeros():
    pipe = piped("QwenImagePipeline")
    batch = ["a cat", "a red cat and a blue dog"]
    (states,) = encode(pipe, prompt=batch)
    for place, text in enumerate(batch):
        labels = label_tokens(pipe, text, states.shape[1], {"prompt": batch}, picture=place, pictures=2)
        assert labels.tokens == spelled([(pipe.tokenizer, states.shape[1])], states[place])
    assert label_tokens(pipe, "a cat", states.shape[1], {"prompt": batch}).segments[-6:] == ("template", *("pad",) * 5)


def test_qwen_cuts_a_long_prompt():
    labels = check(piped("QwenImagePipeline"), "a cat " * 20, max_sequence_length=7)[0]
    assert labels.segments == ("word",) * 7


@pytest.mark.parametrize("size", [(28, 28), (56, 28), (90, 60)])
def test_qwen_edit_has_a_token_for_each_place_of_its_picture(size):
    pipe = piped("QwenImageEditPipeline")
    arguments = {"prompt": ["a cat"], "image": Image.new("RGB", size)}
    (states,) = encode(pipe, **arguments)
    labels = label_tokens(pipe, "a cat", states.shape[1], arguments)
    assert labels.tokens == spelled([(pipe.tokenizer, states.shape[1])], states[0])
    assert labels.segments[labels.tokens.index("<|image_pad|>")] == "template"
    assert words_of("a cat", labels, "cat") == {0: ["Ġcat"]}


def test_qwen_edit_plus_numbers_its_pictures():
    pipe = piped("QwenImageEditPlusPipeline")
    pictures = [Image.new("RGB", (384, 384)), Image.new("RGB", (768, 192))]
    shrunk = [Image.new("RGB", (384, 384)), Image.new("RGB", (768, 192))]  # areas of 384 x 384
    (states,) = encode(pipe, prompt=["a cat"], image=shrunk)
    labels = label_tokens(pipe, "a cat", states.shape[1], {"prompt": "a cat", "image": pictures})
    assert labels.tokens == spelled([(pipe.tokenizer, states.shape[1])], states[0])
    assert words_of("a cat", labels, "cat") == {0: ["Ġcat"]}


@pytest.mark.parametrize("name", ALL)
def test_embeddings_have_no_text_but_chunks(name):
    pipe = piped(name)
    keys = encode(pipe, prompt=["a cat"], negative_prompt=["a dog"])[0].shape[1]
    for negative, stem in ((False, "prompt_embeds"), (True, "negative_prompt_embeds")):
        labels = label_tokens(pipe, None, keys, {stem: np.zeros((1, keys, 4))}, negative=negative)
        assert set(labels.tokens) == {""}
        assert set(labels.chunks) == ({0, 1} if name in TWO else {0})


def test_chunks_of_long_prompts():
    # Tools that cut long prompts into pieces of the tokenizer's length give the pieces' embeddings.
    pipe = piped("StableDiffusionPipeline")
    labels = label_tokens(pipe, None, 36, {"prompt_embeds": np.zeros((1, 36, 4))})
    assert labels.chunks == (0,) * 12 + (1,) * 12 + (2,) * 12
    assert set(labels.tokens) == {""}


@pytest.mark.parametrize("name", ALL)
def test_another_number_of_keys_is_not_guessed(name):
    labels = label_tokens(piped(name), "a cat", 9, {"prompt": "a cat"})
    if name != "Lumina2Pipeline":
        assert set(labels.tokens) == {""}
        assert set(labels.starts) == {-1}


def test_pipelines_of_ones_own_are_told_by_their_tokenizers():
    flux = piped("FluxPipeline")

    class Mine:
        tokenizer = flux.tokenizer_2

        def __call__(self, prompt, max_sequence_length=20):
            return prompt

    labels = label_tokens(Mine(), "a cat", 20)
    assert labels.segments[:4] == ("word", "word", "eos", "pad")
    Mine.tokenizer = Echo()
    Mine.tokenizer.model_max_length = 77
    assert set(label_tokens(Mine(), "a cat", 20).tokens) == {""}
    Mine.tokenizer = None
    assert set(label_tokens(Mine(), "a cat", 20).tokens) == {""}

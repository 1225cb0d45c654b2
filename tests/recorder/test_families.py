"""Pipelines other than plain Stable Diffusion: branch order, kinds, reference pictures."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    PaintByExamplePipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from diffusers.pipelines.deprecated.paint_by_example.image_encoder import PaintByExampleImageEncoder
from PIL import Image
from tiny_pipelines import autoencoder, draw, parts, text_encoder, tokenizer, unet
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from attlas.recorder import Capture, Family, Recorder, register_family, sites
from attlas.recorder.demo.tryon import TryOnPipeline
from attlas.recorder.models import families
from attlas.recorder.models.families import family_of
from attlas.schemas.errors import CaptureError, InvalidValueError, ObservationError, UnknownNameError

PLAIN = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(make, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(**settings).eval()


def ddim():
    return DDIMScheduler(clip_sample=False, steps_offset=1)


def picture(value, size=16):
    return Image.fromarray(np.full((size, size, 3), value, np.uint8))


@pytest.fixture
def tryon():
    vae = seeded(
        lambda: type(autoencoder())(
            block_out_channels=(4, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=8,
            norm_num_groups=2,
        )
    )
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    encoder = seeded(CLIPVisionModel, config=config)
    return quiet(TryOnPipeline(vae, seeded(unet, in_channels=19, out_channels=8), encoder, ddim()))


def tryon_request(value=90, **changes):
    figure = np.full((32, 32, 3), 60, np.uint8)
    request = {
        "reference_image": np.full((32, 32, 3), value, np.uint8),
        "figure_image": figure,
        "mask_image": np.eye(32, dtype=bool),
        "body_uv": np.zeros((32, 32, 2), np.float32),
        "num_inference_steps": 2,
        "output_type": "np",
        "seed": 1,
    }
    return {**request, **changes}


def test_every_patch_of_a_reference_is_a_labelled_key(tryon):
    plain = draw(tryon, **tryon_request(seed=1))
    with Recorder(tryon, None, Capture()) as rec:
        seen = rec(**tryon_request()).images
    np.testing.assert_array_equal(seen, plain)
    store = rec.store
    assert {leaf.kind for leaf in store.leaves.values()} == {"image"}
    assert store.branches == ("cond",)
    leaf = store.leaves["image/8x8"]
    assert leaf.keys == 17
    assert leaf.key_segments == ("cls", *("reference",) * 16)
    assert leaf.key_y[:7] == (-1, 0, 0, 0, 0, 1, 1)
    assert leaf.key_x[:7] == (-1, 0, 1, 2, 3, 0, 1)
    np.testing.assert_array_equal(store.group["reference_image"][0], np.full((32, 32, 3), 90))
    assert store.group["prompt"][0] == ""


def test_guidance_over_references(tryon):
    with Recorder(tryon, None, Capture(encoding="factors")) as rec:
        rec(**tryon_request(guidance_scale=2.0))
    assert rec.store.branches == ("uncond", "cond")
    keys = rec.store.group["image/8x8/key_vectors"][0].astype("f4")
    assert keys.ndim == 5, "keys of a reference do not change with t"
    np.testing.assert_array_equal(keys[0], 0)
    assert np.abs(keys[1]).max() > 0


def test_a_batch_of_references(tryon):
    pair = {
        name: [value, value]
        for name, value in tryon_request().items()
        if name in ("figure_image", "mask_image", "body_uv")
    }
    references = [np.full((32, 32, 3), value, np.uint8) for value in (10, 200)]
    with Recorder(tryon, None, Capture(detail="summary")) as rec:
        rec(**tryon_request(**pair, reference_image=references))
    assert rec.store.group["reference_image"][:, 0, 0, 0].tolist() == [10, 200]


def test_masks_are_checked_against_the_figure_before_the_run(tryon):
    with Recorder(tryon, None) as rec:
        with pytest.raises(InvalidValueError, match="annotation 'garment' is a mask of 8x8; its picture is 32x32"):
            rec(**tryon_request(annotations={"garment": np.zeros((8, 8), bool)}))
        with pytest.raises(InvalidValueError, match="annotation 'reference_garment' is a mask of 9x9"):
            rec(**tryon_request(annotations={"reference_garment": np.zeros((9, 9), bool)}))


def test_keys_that_change_with_t_are_refused_as_factors_and_fine_as_dense(tryon):
    def drift(pipe, step, timestep, tensors):
        return {"image_embeddings": tensors["image_embeddings"] * 1.5}

    request = tryon_request(callback_on_step_end=drift, callback_on_step_end_tensor_inputs=("image_embeddings",))
    words = r"the keys of .*attn2 changed at call 1.*encoding='dense'"
    with Recorder(tryon, None, Capture(encoding="factors")) as rec, pytest.raises(ObservationError, match=words):
        rec(**request)
    with Recorder(tryon, None, Capture(encoding="dense")) as rec:
        rec(**request)
    assert rec.store.complete.all()


def test_instruct_pix2pix_has_three_branches_in_its_own_order():
    pipe = quiet(StableDiffusionInstructPix2PixPipeline(**{**parts(), "unet": seeded(unet, channels=8)}, **PLAIN))
    image = np.full((1, 16, 16, 3), 0.5, np.float32)
    plain = draw(pipe, prompt="a cat", image=image)
    with Recorder(pipe, None, Capture(kinds="text")) as rec:
        seen = rec(prompt="a cat", image=image, num_inference_steps=2, seed=0, output_type="np").images
    np.testing.assert_array_equal(seen, plain)
    assert rec.store.branches == ("cond", "image_uncond", "uncond")
    words = rec.store.group["text/8x8/token_segment"][0]
    assert [list(branch).count("word") for branch in words] == [2, 0, 0]
    attention = rec.store.group["text/8x8/log_attention"][0]
    assert not np.array_equal(attention[0], attention[1])


def test_paint_by_example_looks_at_one_class_token():
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=5, num_attention_heads=2, image_size=32, patch_size=8
    )
    pipe = quiet(
        PaintByExamplePipeline(
            vae=seeded(autoencoder),
            image_encoder=seeded(PaintByExampleImageEncoder, config=config, proj_size=16),
            unet=seeded(unet, channels=9),
            scheduler=ddim(),
            safety_checker=None,
            feature_extractor=CLIPImageProcessorPil(crop_size={"height": 32, "width": 32}, size={"shortest_edge": 32}),
            requires_safety_checker=False,
        )
    )
    request = {"image": picture(90), "mask_image": picture(255), "example_image": picture(9, 20)}
    request |= {"height": 16, "width": 16}
    plain = draw(pipe, **request)
    with Recorder(pipe, None, Capture()) as rec, pytest.warns(UserWarning, match="softmax over keys is 1"):
        seen = rec(**request, num_inference_steps=2, seed=0, output_type="np").images
    np.testing.assert_array_equal(seen, plain)
    assert rec.store.branches == ("uncond", "cond")
    assert rec.store.leaves["image/8x8"].key_segments == ("cls",)
    assert rec.store.reference_shape == (20, 20)


def test_inpainting():
    pipe = quiet(StableDiffusionInpaintPipeline(**{**parts(), "unet": seeded(unet, channels=9)}, **PLAIN))
    request = {"prompt": "a cat", "image": picture(90), "mask_image": picture(255), "height": 16, "width": 16}
    plain = draw(pipe, **request)
    with Recorder(pipe, None, Capture(kinds="text")) as rec:
        seen = rec(**request, num_inference_steps=2, seed=0, output_type="np").images
    np.testing.assert_array_equal(seen, plain)
    assert rec.store.branches == ("uncond", "cond")


def test_stable_diffusion_xl():
    words = tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=words.model_max_length,
        projection_dim=16,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    settings = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    pipe = quiet(
        StableDiffusionXLPipeline(
            vae=seeded(autoencoder),
            text_encoder=seeded(text_encoder, words=words, layers=2),
            text_encoder_2=seeded(CLIPTextModelWithProjection, config=config),
            tokenizer=words,
            tokenizer_2=words,
            unet=seeded(unet, cross=32, projection_class_embeddings_input_dim=64, **settings),
            scheduler=ddim(),
            add_watermarker=False,
        )
    )
    plain = draw(pipe, prompt="a cat", height=16, width=16)
    with Recorder(pipe, None, Capture(kinds="text")) as rec:
        seen = rec(prompt="a cat", height=16, width=16, num_inference_steps=2, seed=0, output_type="np").images
    np.testing.assert_array_equal(seen, plain)
    assert rec.store.branches == ("uncond", "cond")
    assert {site.grid for site in sites(pipe)} == {(8, 8), (4, 4)}


def ip_adapter(pipe):
    """Give the tiny pipeline an IP-Adapter of 4 tokens with random weights."""
    projection = seeded(ImageProjection, image_embed_dim=6, cross_attention_dim=16, num_image_text_embeds=4)
    pipe.unet.encoder_hid_proj = MultiIPAdapterImageProjection([projection])
    pipe.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    processors = {}
    for name in pipe.unet.attn_processors:
        width = pipe.unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
        cross = ".attn2." in name
        processors[name] = (
            seeded(IPAdapterAttnProcessor2_0, hidden_size=width, cross_attention_dim=16, num_tokens=(4,))
            if cross
            else AttnProcessor2_0()
        )
    pipe.unet.set_attn_processor(processors)
    return {"prompt": "a cat", "ip_adapter_image_embeds": [torch.linspace(-1, 1, 12).reshape(2, 1, 6)]}


def test_an_ip_adapter_is_a_kind_of_its_own(pipe):
    request = ip_adapter(pipe)
    before = dict(pipe.unet.attn_processors)
    plain = draw(pipe, **request)
    assert {site.kind for site in sites(pipe)} == {"text", "image", "self"}
    assert {site.grid for site in sites(pipe)} == {(8, 8), (4, 4)}
    with Recorder(pipe, None, Capture()) as rec:
        seen = rec(**request, num_inference_steps=2, seed=0, output_type="np").images
    np.testing.assert_array_equal(seen, plain)
    store = rec.store
    assert set(store.leaves) == {"text/8x8", "text/4x4", "image/8x8", "image/4x4"}
    assert (store.leaves["text/8x8"].keys, store.leaves["image/8x8"].keys) == (12, 4)
    assert store.leaves["text/8x8"].layers == store.leaves["image/8x8"].layers
    assert store.leaves["image/8x8"].key_grid is None
    assert {id(p) for p in before.values()} == {id(p) for p in pipe.unet.attn_processors.values()}


def test_only_the_text_of_an_ip_adapter(pipe):
    request = ip_adapter(pipe)
    with Recorder(pipe, None, Capture(kinds="text")) as rec:
        rec(**request, num_inference_steps=2, seed=0)
    assert set(rec.store.leaves) == {"text/8x8", "text/4x4"}


def test_one_key_warns_that_the_map_is_inert(tryon):
    cls_only = type(tryon).encode_reference

    class OneKey(TryOnPipeline):
        def encode_reference(self, pictures):
            return cls_only(self, pictures)[:, :1]

    tryon.__class__ = OneKey
    with Recorder(tryon, None, Capture()) as rec, pytest.warns(UserWarning, match="softmax over keys is 1"):
        rec(**tryon_request())
    leaf = rec.store.leaves["image/8x8"]
    assert leaf.key_segments == ("cls",)
    np.testing.assert_allclose(rec.store.group["image/8x8/g2r"][0], 1)
    np.testing.assert_allclose(rec.store.group["image/8x8/r2g"][0].sum(-1), 1, rtol=1e-5)


class Perturbed(StableDiffusionPipeline):
    """As pipelines with one more guidance branch do: three rows for each picture."""

    @property
    def do_classifier_free_guidance(self):
        return True


def test_an_unknown_order_of_branches_is_refused(pipe):
    forward = pipe.unet.forward

    def three_rows(sample, timestep, encoder_hidden_states, **kwargs):
        sample, states = sample[:1].repeat(3, 1, 1, 1), encoder_hidden_states[:1].repeat(3, 1, 1)
        return (forward(sample, timestep, states, **kwargs)[0][:2],)

    pipe.unet.forward = three_rows
    with Recorder(pipe) as rec, pytest.raises(CaptureError, match="got 3 rows for one picture.*is not known"):
        rec(prompt="a cat", num_inference_steps=2, seed=0)


def test_a_subclass_is_of_its_parents_family(pipe):
    pipe.__class__ = Perturbed
    assert family_of(pipe).name == "stable diffusion"


class Stranger:
    """No pipeline that anyone knows."""


def test_an_unknown_pipeline_is_refused_and_can_be_registered(pipe, monkeypatch):
    with pytest.raises(CaptureError, match="Stranger is of no known pipeline family; known: .*StableDiffusionPipeline"):
        family_of(Stranger())
    monkeypatch.setattr(families, "FAMILIES", list(families.FAMILIES))
    register_family(Family("strange", ("Stranger",), "text", (("cond", "uncond"),)))
    assert family_of(Stranger()).labels(2) == ("cond", "uncond")
    with pytest.raises(UnknownNameError, match="unknown kind of cross-attention 'self'"):
        register_family(Family("strange", ("Stranger",), "self"))


def test_a_pipeline_outside_the_table_is_recorded_where_branches_cannot_be_confused(pipe):
    # Not a subclass of anything known, but with the same parts.
    class Outside(type(pipe).__bases__[0]):
        unet, tokenizer = pipe.unet, pipe.tokenizer

    family = family_of(Outside.__new__(Outside))
    assert family.labels(1) == ("cond",)
    with pytest.raises(CaptureError, match="got 2 rows"):
        family.labels(2)


def test_a_branch_that_this_run_does_not_have(pipe):
    with (
        Recorder(pipe, None, Capture(branches="uncond")) as rec,
        pytest.raises(CaptureError, match="branch 'uncond' is asked for, but this run has cond only; guidance is off"),
    ):
        rec(prompt="a cat", guidance_scale=1.0, seed=0, num_inference_steps=2)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"kinds": "image"}, UnknownNameError, "unknown kind 'image' in StableDiffusionPipeline: it has no attention"),
        ({"layers": "up_block.*"}, UnknownNameError, "unknown layer pattern 'up_block.*'"),
        ({"heads": [2]}, CaptureError, "head 2 is asked for, but .* has 2 heads, 0 to 1"),
        ({"branches": "kond"}, UnknownNameError, "unknown branch 'kond' .* did you mean 'cond'"),
    ],
)
def test_what_a_pipeline_does_not_have_is_said_before_it_runs(pipe, tmp_path, settings, error, words):
    with pytest.raises(error, match=words), Recorder(pipe, tmp_path / "s.zarr", Capture(**settings)):
        pytest.fail("entered")
    assert not (tmp_path / "s.zarr").exists()


def test_sites_is_a_table(pipe):
    found = sites(pipe)
    assert len(found) == 14
    assert repr(found) == found.table()
    assert found[0].path.startswith("down_blocks.0")
    assert [site.grid for site in found if site.path.startswith("mid")] == [(4, 4), (4, 4)]
    assert {site.keys for site in found if site.kind == "text"} == {12}

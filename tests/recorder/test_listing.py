"""`sites`: the table of what can be recorded, its grids and keys without drawing."""

import pytest
import torch
from diffusers import UNet2DConditionModel, WanTransformer3DModel
from matrix.cross_parts import hunyuan_dit, pixart_alpha, sana
from matrix.joint_parts import chroma, flux, flux_kontext, lumina_2, qwen_image, sd3, sd35
from matrix.unet_parts import sdxl, upscale
from matrix.video_parts import cogvideox, ltx, wan
from tiny_pipelines import make_pipe, unet

from attlas.recorder import sites

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def shown(pipe):
    """Kind, grid, total of keys and segments of the sites that can be recorded, each once."""
    return {(site.kind, site.grid, site.keys, site.segments) for site in sites(pipe) if not site.reason}


# Sizes by hand: pixels of the default picture over pixels of a patch, which is the autoencoder's factor times the
# denoiser's patch; text as long as the pipeline's own default pads it.
@pytest.mark.parametrize(
    ("build", "expected"),
    [
        # 8x8 latents in patches of 2; 77 tokens of CLIP and 256 of T5.
        (sd3, {("joint", (4, 4), 349, (("generated", 16), ("text", 333)))}),
        (
            sd35,
            {
                ("joint", (4, 4), 349, (("generated", 16), ("text", 333))),
                ("self", (4, 4), 16, (("self", 16),)),
            },
        ),
        # 128x128 latents, packed by 2.
        (flux, {("joint", (64, 64), 4608, (("text", 512), ("generated", 4096)))}),
        (chroma, {("joint", (64, 64), 4608, (("text", 512), ("generated", 4096)))}),
        (flux_kontext, {("joint", (64, 64), 4608, (("text", 512), ("generated", 4096)))}),
        (qwen_image, {("joint", (64, 64), None, (("text", None), ("generated", 4096)))}),
        # A default of 64x64 pixels, patches of 2x8.
        (
            lumina_2,
            {
                ("self", (4, 4), 16, (("self", 16),)),
                ("joint", (4, 4), None, (("text", None), ("generated", 16))),
            },
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_sequences_of_transformers(build, expected):
    assert shown(build()) == expected


@pytest.mark.parametrize("build", [pixart_alpha, hunyuan_dit, sana], ids=lambda build: build.__name__)
def test_text_and_self_of_transformers(build):
    pipe = build()
    config = pipe.transformer.config
    found = sites(pipe)
    assert {site.kind for site in found} == {"text", "self"}
    (grid,) = {site.grid for site in found if not site.reason}
    side = {hunyuan_dit: config.sample_size, pixart_alpha: config.sample_size, sana: 1024 // pipe.vae_scale_factor}
    assert grid == (side[build] // config.patch_size,) * 2
    tokens = {hunyuan_dit: config.get("text_len", 0) + config.get("text_len_t5", 0), pixart_alpha: 120, sana: 300}
    assert {site.keys for site in found if site.kind == "text"} == {tokens[build]}
    if build is sana:
        assert {site.reason for site in found if site.kind == "self"} == {
            "linear attention has no softmax, so that there is no attention to record"
        }
        assert "cannot be recorded:\n  transformer_blocks" in repr(found)


def test_videos_have_frames():
    pipe = wan()
    # The tiny one has no places for the default size.
    pipe.transformer = WanTransformer3DModel.from_config({**pipe.transformer.config, "rope_max_seq_len": 64})
    found = sites(pipe)
    # 81 frames of 480x832 pixels, the first of them alone, the others by 4; patches of 1x16x16.
    assert {site.grid for site in found} == {(21, 30, 52)}
    assert {site.keys for site in found if site.kind == "text"} == {512}
    assert "832x480 (width x height), 81 frames" in found.title
    assert "21x30x52" in repr(found)


@pytest.mark.parametrize("build", [cogvideox, ltx], ids=lambda build: build.__name__)
def test_other_videos_have_frames(build):
    assert {len(site.grid) for site in sites(build())} == {3}


def test_like_modules_share_a_line():
    found = sites(sdxl())
    lines = repr(found).splitlines()
    table = lines[lines.index("") + 1 :]
    rows = [line.split() for line in table[1 : table.index("")]]
    assert sum(int(row[1]) for row in rows) == len(found)
    assert len(rows) < len(found)
    whole = found.table(every=True)
    assert all(f" {site.path}\n" in whole for site in found)


def test_a_pattern_of_the_table_selects_its_modules():
    from fnmatch import fnmatchcase

    found = sites(sdxl())
    lines = repr(found).splitlines()
    table = lines[lines.index("") + 1 :]
    for row in (line.split() for line in table[1 : table.index("")]):
        fitting = [site for site in found if fnmatchcase(site.path, row[-1])]
        assert len(fitting) == int(row[1])
        assert {site.kind for site in fitting} == {row[0]}


def test_hints_say_how():
    text = repr(sites(flux()))
    assert 'Capture(kinds="joint", keys="prompt")' in text
    assert "512 text + 4096 generated" in text
    assert 'Capture(kinds="self")' in repr(sites(make_pipe()))


def test_where_shapes_need_numbers_they_show_in_a_run(pipe):
    class Picky(UNet2DConditionModel):
        def forward(self, sample, timestep, encoder_hidden_states, **more):
            if float(encoder_hidden_states.sum()) > 0:
                timestep = timestep + 0
            return super().forward(sample, timestep, encoder_hidden_states, **more)

    pipe.unet = Picky.from_config(unet().config)
    found = sites(pipe)
    assert {site.grid for site in found} == {None}
    assert {site.keys for site in found} == {None}
    assert repr(found).count("in a run  in a run") == len(repr(found).split("\n\n")[1].splitlines()) - 1


def test_a_denoiser_whose_inputs_are_not_known_shows_in_a_run():
    found = sites(upscale())
    assert {site.grid for site in found} == {None}
    assert all(site.heads for site in found)


def test_the_pipeline_is_not_touched(pipe):
    before = {name: weight.clone() for name, weight in pipe.unet.named_parameters()}
    state = torch.random.get_rng_state()
    sites(pipe)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(weight, before[name]) for name, weight in pipe.unet.named_parameters())
    assert not pipe.unet._forward_hooks

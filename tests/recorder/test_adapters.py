"""IP-Adapters: names, tokens, which of them compute, and the pictures that are stored with a run."""

import numpy as np
import pytest
from matrix.pieces import photo
from matrix.reference_parts import base, ip_adapter, plus

from attlas.recorder import Capture, Recorder, sites
from attlas.recorder.models.adapters import Adapter, adapters_of
from attlas.schemas.errors import CaptureError, ObservationError

MID = "mid_block.attentions.0.transformer_blocks.0.attn2"
REQUEST = {"prompt": ["a cat", "a dog"], "num_inference_steps": 1, "height": 16, "width": 16, "seed": 0}


def middle(pipe):
    return pipe.unet.get_submodule(MID)


@pytest.mark.parametrize(
    ("adapters", "scale", "expected"),
    [
        ((base,), 1.0, [Adapter(MID, 4, True)]),
        ((base,), 0.0, [Adapter(MID, 4, False)]),
        ((base, plus), [0.0, 0.5], [(0, 4, False), (1, 5, True)]),
        ((base, base), [[0.0, 0.5], 0.0], [(0, 4, True), (1, 4, False)]),
    ],
)
def test_which_compute(adapters, scale, expected):
    pipe = ip_adapter(*adapters)
    pipe.set_ip_adapter_scale(scale)
    named = [
        one if isinstance(one, Adapter) else Adapter(f"{MID}.processor.to_k_ip.{one[0]}", *one[1:]) for one in expected
    ]
    assert adapters_of(MID, middle(pipe)) == named
    assert adapters_of("", pipe.unet.get_submodule(MID.replace("attn2", "attn1"))) == []
    own = {site.label: site.reason for site in sites(pipe) if site.path == MID and site.kind == "image"}
    assert {label: not reason for label, reason in own.items()} == {one.label: one.computes for one in named}


def test_one_that_is_switched_off_has_nothing_to_record():
    pipe = ip_adapter(base)
    pipe.set_ip_adapter_scale(0.0)
    words = r"'image' attention of StableDiffusionPipeline cannot be recorded: down.*attn2: the scale of its IP-Adapter"
    with pytest.raises(CaptureError, match=words), Recorder(pipe, None, Capture(kinds="image")):
        pytest.fail("entered")
    with Recorder(pipe) as rec:
        rec(**REQUEST, ip_adapter_image=photo(16, 16))
    assert set(rec.store.leaves) == {"text/8x8", "text/4x4"}


@pytest.mark.parametrize(("before", "after", "words"), [(1.0, 0.0, "did not compute"), (0.0, 1.0, "made 2 attention")])
def test_one_that_is_switched_in_a_run_is_an_error(before, after, words):
    def switch(pipe, step, timestep, tensors):
        pipe.set_ip_adapter_scale(after)
        return tensors

    pipe = ip_adapter(base)
    pipe.set_ip_adapter_scale(before)
    request = {**REQUEST, "num_inference_steps": 2, "ip_adapter_image": photo(16, 16)}
    with Recorder(pipe) as rec, pytest.raises(ObservationError, match=words):
        rec(**request, callback_on_step_end=switch)


def test_of_two_of_which_one_is_off_the_other_keeps_its_name():
    pipe = ip_adapter(base, plus)
    pipe.set_ip_adapter_scale([0.0, 1.0])
    with Recorder(pipe, None, Capture(kinds="image")) as rec:
        rec(**REQUEST, ip_adapter_image=[photo(16, 16)] * 2)
    for leaf in rec.store.leaves.values():
        assert all(label.endswith(".processor.to_k_ip.1") for label in leaf.layers)
        assert leaf.keys == 5


def test_one_picture_is_stored_with_every_run():
    pipe, picture = ip_adapter(base), photo(24, 16)
    with Recorder(pipe, None, Capture(kinds="image", detail="summary")) as rec:
        rec(**REQUEST, ip_adapter_image=picture)
    for run in range(2):
        np.testing.assert_array_equal(rec.store.group["reference_image"][run], np.asarray(picture))


@pytest.mark.parametrize(
    ("adapters", "pictures"),
    [((base, base), [photo(24, 16), photo(16, 16)]), ((base,), [[photo(24, 16), photo(24, 16, 1)]])],
)
def test_of_several_pictures_none_is_the_one(adapters, pictures):
    pipe = ip_adapter(*adapters)
    with Recorder(pipe, None, Capture(kinds="image", detail="summary")) as rec:
        rec(**REQUEST, ip_adapter_image=pictures)
    assert rec.store.complete.all()
    assert "reference_image" not in rec.store.group

"""IP-Adapters: names, tokens, which of them compute, and the pictures that are stored with a run."""

import numpy as np
import pytest
from matrix.pieces import photo
from matrix.reference_parts import base, ip_adapter, plus

from attlas.recorder import Capture, Recorder, sites
from attlas.recorder.adapters import Adapter, adapter_named, adapters_of

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
    assert adapter_named(named[-1].label, MID, middle(pipe)) == named[-1]
    assert adapters_of("", pipe.unet.get_submodule(MID.replace("attn2", "attn1"))) == []
    own = {site.label: site.reason for site in sites(pipe) if site.path == MID and site.kind == "image"}
    assert {label: not reason for label, reason in own.items()} == {one.label: one.computes for one in named}


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

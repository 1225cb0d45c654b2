"""The checker of recordings notices what is wrong: here the model's side is spoilt, and the recording is right."""

import numpy as np
import pytest
from fidelity import Kernel, Kernels, assert_faithful
from tiny_pipelines import make_pipe

from attlas.recorder import Capture

REQUEST = {"prompt": "a red cat", "num_inference_steps": 1}
CAPTURE = {"kinds": ("text", "self"), "branches": "cond", "layers": "mid_block.*"}
ORDER = ("uncond", "cond")


@pytest.fixture(scope="module")
def pipe():
    pipe = make_pipe()
    for name, weight in pipe.unet.named_parameters():
        if name.endswith(("to_q.weight", "to_k.weight")):
            weight.data.mul_(2)
    return pipe


def rolled(axis):
    return lambda array: np.roll(array, 1, axis)


def check(pipe, *, branches=ORDER, queries=None, **changes):
    assert_faithful(pipe, REQUEST, Capture(**{**CAPTURE, **changes}), branches=branches, queries=queries)


@pytest.mark.parametrize(
    ("what", "spoil"),
    [
        ("query", lambda query: 1.1 * query),
        ("query", rolled(0)),
        ("query", rolled(1)),
        ("query", rolled(2)),
        ("key", rolled(2)),
        ("key", rolled(3)),
        ("value", rolled(2)),
        ("output", rolled(1)),
        ("scale", lambda scale: 0.9 * scale),
    ],
)
@pytest.mark.parametrize("encoding", ["dense", "factors"])
def test_what_the_kernel_did_counts(pipe, monkeypatch, what, spoil, encoding):
    keep = Kernels._keep

    def wrong(self, *args, **kwargs):
        keep(self, *args, **kwargs)
        kernel: Kernel = self.calls[-1][self.open[-1]][-1]
        setattr(kernel, what, spoil(getattr(kernel, what)))

    monkeypatch.setattr(Kernels, "_keep", wrong)
    with pytest.raises(AssertionError):
        check(pipe, encoding=encoding)


def test_branches_count(pipe):
    check(pipe)
    with pytest.raises(AssertionError):
        check(pipe, branches=ORDER[::-1])


def test_queries_count(pipe):
    with pytest.raises(AssertionError):
        check(pipe, kinds="text", queries=lambda path: slice(None, None, -1))


def test_a_hook_that_stays_is_noticed(pipe):
    handle = pipe.unet.mid_block.register_forward_hook(lambda *_: None)
    with pytest.raises(AssertionError):
        check(pipe)
    handle.remove()

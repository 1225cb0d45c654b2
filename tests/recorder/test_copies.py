"""Copies of live tensors: exact, the recorder's own, and on CUDA on their way while the model goes on."""

import pytest
import torch

from attlas.recorder.copies import copy_out

LENGTHS = {torch.float64: 8, torch.float32: 4, torch.float16: 2, torch.bfloat16: 2}


@pytest.mark.parametrize("source", LENGTHS)
@pytest.mark.parametrize("scale", [None, 40**-0.5])
def test_a_copy_has_every_digit_of_float32(source, scale):
    live = torch.randn(2, 3, 5, dtype=torch.float64).to(source)
    held = copy_out(live, scale=scale)
    want = live.float() if scale is None else live.float() * scale
    assert torch.equal(held.tensor.float(), want)
    assert held.bytes == 30 * min(4, LENGTHS[source])


def test_a_copy_may_be_no_longer_than_what_is_stored():
    live = torch.randn(7, 5)
    held = copy_out(live, torch.float16, 0.3)
    assert held.bytes == 70
    assert torch.equal(held.tensor, (live * 0.3).half())


@pytest.mark.parametrize("source", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_later_work_on_the_tensor_does_not_change_the_copy(source, dtype, scale):
    live = torch.ones(4, 6, dtype=source)
    held = copy_out(live, dtype, scale)
    live.zero_()
    assert torch.equal(held.tensor.float(), torch.ones(4, 6))
    assert torch.equal(held.tensor.float(), torch.ones(4, 6))


@pytest.mark.parametrize("source", LENGTHS)
def test_views_of_any_strides_are_copied_whole(source):
    whole = torch.arange(24.0).reshape(2, 3, 4).to(source)
    for view in (whole.transpose(0, 2), whole[:, 1:2], whole[:1].expand(5, 3, 4)):
        held = copy_out(view)
        assert held.tensor.is_contiguous()
        assert torch.equal(held.tensor.float(), view.float())
        assert held.bytes == view.numel() * min(4, LENGTHS[source])


def test_gradients_are_left_behind():
    live = torch.ones(3, requires_grad=True)
    assert not copy_out(live * 2, scale=2.0).tensor.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the copies of the CPU are tested above")
@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.bfloat16])
def test_from_cuda_while_the_tensor_is_overwritten_and_its_memory_reused(source):
    held, want = [], []
    for number in range(50):
        live = torch.full((8, 256, 256), float(number), device="cuda", dtype=source)
        held.append(copy_out(live, scale=0.5))
        want.append(number * 0.5)
        live.fill_(-1.0)
        del live
    for copy, value in zip(held, want, strict=True):
        assert copy.tensor.device.type == "cpu"
        assert torch.equal(copy.tensor.float(), torch.full((8, 256, 256), value))

"""Copies of tensors in the recorder's own memory: the one place that takes them off a device."""

from functools import cache

import torch
from torch import Tensor

__all__ = ["Held", "copy_out"]

SHORT = (torch.float16, torch.bfloat16)


class Held:
    """A copy of a tensor, or one that is on its way.

    Parameters
    ----------
    raw
        Tensor on the CPU.
    scale
        What it is yet to be multiplied by, in float32.
    arrived
        Event of a CUDA stream after which `raw` may be read.
    """

    def __init__(self, raw: Tensor, scale: float | None = None, arrived: torch.cuda.Event | None = None) -> None:
        self._raw = raw
        self._scale = scale
        self._arrived = arrived

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return self._raw.numel() * self._raw.element_size()

    @property
    def tensor(self) -> Tensor:
        """The copy, once it has arrived: float32 or float16, on the CPU, never to be written to."""
        if self._arrived is not None:
            self._arrived.synchronize()
        if self._scale is not None:
            return self._raw.float().mul_(self._scale)
        return self._raw.float() if self._raw.dtype is torch.bfloat16 else self._raw


def copy_out(tensor: Tensor, dtype: torch.dtype = torch.float32, scale: float | None = None) -> Held:
    """Begin to copy `tensor`; whatever is done to it afterwards does not change the copy.

    Parameters
    ----------
    tensor
        Floating point, on any device, of any strides. From CUDA it travels in a stream of its own, into pinned memory
        (which torch keeps and uses again), while the model computes on.
    dtype
        float32, or float16 where no more than that is kept of it. A shorter tensor travels as it is.
    scale
        The copy is `tensor` times this, multiplied in float32.

    Examples
    --------
    >>> live = torch.ones(2)
    >>> held = copy_out(live, scale=0.5)
    >>> live.zero_(), held.tensor
    (tensor([0., 0.]), tensor([0.5000, 0.5000]))
    """
    tensor = tensor.detach()
    if tensor.dtype in SHORT:
        # The scale comes later, because a product may need more digits than the tensor has.
        staged = tensor.to(tensor.dtype, copy=True, memory_format=torch.contiguous_format)
    else:
        scaled = tensor.float() if scale is None else tensor.float() * scale
        staged, scale = scaled.to(dtype, copy=scale is None, memory_format=torch.contiguous_format), None
    if staged.device.type == "cpu":
        return Held(staged, scale)
    if staged.device.type == "cuda":
        return _travel(staged, scale)
    return Held(staged.cpu(), scale)


def _travel(staged: Tensor, scale: float | None) -> Held:
    """Copy from CUDA while the device goes on; `staged` is the recorder's own, made in the model's stream."""
    stream = _stream(staged.device)
    host = torch.empty(staged.shape, dtype=staged.dtype, pin_memory=True)
    stream.wait_stream(torch.cuda.current_stream(staged.device))
    with torch.cuda.stream(stream):
        host.copy_(staged, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(stream)
    # Its memory is given to nobody else before the copy is done.
    staged.record_stream(stream)
    return Held(host, scale, arrived)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

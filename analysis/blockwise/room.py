"""Memory that is used again from block to block: fresh memory costs as much as an exponential."""

import threading
from math import prod

import torch
from torch import Tensor

__all__ = ["Room", "room_of"]


class Room:
    """Work space by name, as large as it was ever asked for; what was in it is gone when it is asked for again."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = device
        self._space: dict[str, Tensor] = {}

    def of(self, name: str, *shape: int) -> Tensor:
        """Give float32 numbers of this shape, whatever is in them."""
        elements = prod(shape)
        if name not in self._space or self._space[name].numel() < elements:
            self._space[name] = torch.empty(elements, device=self._device)
        return self._space[name][:elements].view(shape)


_rooms = threading.local()


def room_of(device: torch.device | str) -> Room:
    """Give this thread's room on `device`, for as long as the thread lives: a matrix that is held whole at most."""
    own: dict[str, Room] = _rooms.__dict__.setdefault("own", {})
    return own.setdefault(str(device), Room(device))

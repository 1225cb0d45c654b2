"""What attention that is written out by hand computed: its softmax, seen by a mode and hooks of the test's own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

SOFTMAX = (torch.Tensor.softmax, torch.softmax, F.softmax)


@dataclass
class ByHand:
    """One pass of a module in float64: logits (row, head, query, key), V alike, and what its to_out got, as V."""

    heads: int
    entered: np.ndarray | None = None
    value: np.ndarray | None = None
    output: np.ndarray | None = None

    def logits(self, row: int, heads: Sequence[int]) -> np.ndarray:
        """(head, query, key)"""
        return self.entered[row][heads]

    def see_softmax(self, logits):
        """The softmax's argument, whose first axis is rows and heads."""
        assert self.entered is None, "a second softmax"
        logits = logits.detach().double()
        self.entered = logits.reshape(-1, self.heads, *logits.shape[-2:]).numpy().copy()

    def split(self, tensor):
        """(row, token, channels of all heads) as (row, head, token, channel)."""
        return tensor.detach().double().unflatten(-1, (self.heads, -1)).transpose(1, 2).numpy().copy()


def is_by_hand(module) -> bool:
    return hasattr(module, "to_q") and not hasattr(module, "processor")


def watch_by_hand(module, now):
    """Hooks that note V and the input of to_out; `now()` gives the pass that computes."""

    def value(_module, _args, output):
        now().value = now().split(output)

    def out(_module, args):
        now().output = now().split(args[0])

    return [module.to_v.register_forward_hook(value), module.to_out.register_forward_pre_hook(out)]

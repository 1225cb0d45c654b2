"""Pipelines that workers of a cluster make; what is defined here is one and the same for all workers of a process."""

import os
import signal
import weakref
from pathlib import Path

from tiny_pipelines import make_pipe

__all__ = ["CALLS", "MADE", "Dying", "make_pipe", "make_watched"]

MADE = []
"""Denoisers, held by nobody here."""

CALLS = []
"""An entry for each of their calls."""


def make_watched():
    pipe = make_pipe()
    MADE.append(weakref.ref(pipe.unet))
    pipe.unet.register_forward_hook(lambda *_: CALLS.append(1))
    return pipe


class Dying:
    """Makes pipelines whose process is killed in the middle of a run, `times` times in all."""

    def __init__(self, folder, times):
        self.folder = Path(folder)
        self.times = times
        self.calls = 0

    def __call__(self):
        pipe = make_pipe()
        pipe.unet.register_forward_pre_hook(self._perhaps_die)
        return pipe

    def _perhaps_die(self, *_):
        self.calls += 1
        # After the second call of the first run that this process draws.
        if self.calls != 2:
            return
        for number in range(self.times):
            try:
                (self.folder / f"death{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)

"""Recorders that share one list of requests: what a thread or a process of its own does, and what it drew."""

import os
import signal

from tiny_pipelines import make_pipe

from attlas.recorder import Capture, record

CAPTURE = Capture(kinds="text", detail="summary")


def requests(number, **more):
    return [{"prompt": "a red cat", "seed": seed, "num_inference_steps": 2, **more} for seed in range(number)]


class Counting:
    """A tiny pipeline that counts its denoiser calls, and may end its process before one of them."""

    def __init__(self, dies_at=None):
        self.pipe = make_pipe()
        self.calls = 0
        self._dies_at = dies_at
        self.pipe.unet.register_forward_pre_hook(self._count)

    def _count(self, *_):
        if self.calls == self._dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls += 1


def share(path, number, told, dies_at=None):
    """Record in this process; tell how many denoiser calls that took, and how many runs are complete."""
    drawer = Counting(dies_at)
    store = record(drawer.pipe, path, requests(number), CAPTURE, progress=False)
    told.put((drawer.calls, int(store.complete.sum())))

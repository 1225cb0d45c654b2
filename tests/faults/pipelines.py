"""Tiny pipelines for recordings that are killed by the thousand: made once, before any process is forked."""

import atexit
import importlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
import xarray as xr
from faults.children import in_child, quiet_before_forks
from faults.scratch import scratch
from matrix.joint_parts import flux
from tiny_pipelines import make_pipe, unet
from tqdm import tqdm

__all__ = ["joint", "prepare_forks", "saved", "small"]


@cache
def small() -> Any:
    """One grid with text and self-attention: few files, so that every operation on them can be a fault."""
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = unet(block_out_channels=(8,), **blocks).eval()
    return make_pipe(unet=denoiser)


@cache
def joint() -> Any:
    """FLUX: the picture's and the text's tokens in one softmax."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return flux()


@cache
def saved() -> Path:
    """Folder that holds `small`, as a command takes it; it goes when the process ends that made it."""
    folder = tempfile.mkdtemp(prefix="attlas-pipeline-", dir=scratch())
    maker = os.getpid()
    atexit.register(lambda: os.getpid() == maker and shutil.rmtree(folder, ignore_errors=True))
    small().save_pretrained(folder)
    return Path(folder)


def prepare_forks(example: Callable[[], Any]) -> None:
    """Import, make and find now what each forked process would need anew; no thread runs afterwards.

    `example` does in a process of its own what others will do: what it imports on the way is imported here.
    """
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    # Bars otherwise start a thread that looks after them.
    tqdm.monitor_interval = 0
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    # The first pictures make and import more than the second.
    small()(prompt="a cat", num_inference_steps=1)
    joint()(prompt="a cat", num_inference_steps=1, height=8, width=8, max_sequence_length=16)
    saved()
    xr.backends.list_engines()
    tried = in_child(lambda _: (example(), list(sys.modules))[1])
    if not tried.returned:
        raise RuntimeError(f"the example {tried}\n{tried.trace}")
    for name in tried.value:
        # Some stand for another module, or are made by what imports them.
        with suppress(ImportError):
            importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    quiet_before_forks()

"""A store of a few kilobytes, and processes that record into it."""

import os
import time

import numpy as np

from attlas.schemas import Leaf, Manifest, create_store, open_store
from attlas.schemas.errors import AttlasError

MANIFEST = Manifest("tiny", "digest", "StableDiffusionPipeline", {"class": "DDIM"}, {"precision": "exact"})
LEAF = Leaf("text", (2, 3), 2, 4, ("down.attn2", "up.attn2"), 5)
NAME = "text/2x3"


def make(path):
    return create_store(path, MANIFEST, (LEAF,), ("cond",), 2, (4, 4))


def record(store, run):
    """Record a run whose numbers follow from its name, which is a number."""
    row = store.claim(run, prompt=f"prompt of {run}", seed=int(run))
    for name in LEAF.variables():
        if name.dims[0] == "run" and name.group != "tokens":
            layout = store.layout(NAME, name.name)
            store.write(NAME, name.name, row, np.full(layout.shape[1:], int(run), layout.dtype))
    labels = {"tokens": list("abcde"), "segments": ["word"] * 5, "starts": range(5), "ends": range(1, 6)}
    store.write_tokens(NAME, row, 0, **labels)
    store.write_clock(row, steps=[0, 1], timesteps=[9.0, 1.0], sigmas=[np.inf, 0.5])
    store.write_image(row, np.full((4, 4, 3), int(run), "u1"))
    store.write_annotations(row, {})
    store.complete_run(row)


def record_all(url, runs):
    """Record runs in a process of its own."""
    store = open_store(url)
    for run in runs:
        record(store, run)
    store.finish()


def record_and_tell(url, runs, told):
    """Record runs in a process of its own, and say what went wrong."""
    try:
        record_all(url, runs)
    except AttlasError as err:
        told.put(str(err))
    else:
        told.put("nothing")


def record_until_killed(url, runs, ready):
    """Record runs, say so, and be in the midst of another."""
    store = open_store(url)
    for run in runs:
        record(store, run)
    store.claim("99", prompt="", seed=99)
    ready.put(os.getpid())
    time.sleep(60)


def numbers(store):
    """What a store holds, by run: one number of each array, and the prompt."""
    found = {}
    for row, run in enumerate(store.run_ids):
        if store.complete[row]:
            group = store.group[NAME]
            values = {float(np.asarray(group[name][row]).max()) for name in ("g2r", "r2g", "attention_mean")}
            found[run] = (values, int(store.group["generated_image"][row].max()), str(store.group["prompt"][row]))
    return found


def expected(runs):
    return {run: ({float(run)}, int(run), f"prompt of {run}") for run in runs}

"""Sizes, errors and speeds of every array that a leaf stores, in each precision and encoding."""

import math
import time

import numpy as np
import pytest
import torch
import zarr
from zarr.storage import MemoryStore

from attlas.recorder import Capture, record
from attlas.recorder.copies import Held
from attlas.recorder.scribe import Scribe
from attlas.schemas import PRECISIONS, round_values
from attlas.schemas.codecs import codecs
from attlas.schemas.precision import ERROR

ENCODINGS = {
    "dense": ("log_attention", "logsumexp"),
    "factors": ("query_vectors", "key_vectors", "logsumexp"),
}

SHOWN = ("log_attention", "query_vectors", "key_vectors", "logsumexp", "g2r", "r2g")
SHOWN += ("attention_mean", "attention_mean_r2g")

# How many times smaller than raw float16 attention, on the largest grid of a demo world: exact, balanced.
TARGETS = {
    ("shapes", "text", "dense"): (1.6, 2.9),
    ("shapes", "text", "factors"): (2.2, 3.4),
    ("shapes", "self", "factors"): (16, 22),
    ("tryon", "image", "dense"): (1.6, 2.9),
    ("tryon", "image", "factors"): (16, 22),
    ("tryon", "self", "dense"): (1.6, 2.9),
    ("tryon", "self", "factors"): (10.5, 22),
}


@pytest.fixture
def seen(monkeypatch):
    """Q and K of the first run as the kernel saw them, by kind, layer and call."""
    found = {}
    write = Scribe.write

    def keep(self, copied):
        pair = [each.tensor if isinstance(each, Held) else each for each in (copied.query, copied.key)]
        found.setdefault((copied.kind, copied.path, copied.t), tuple(each[:, 0].float() for each in pair))
        write(self, copied)

    monkeypatch.setattr(Scribe, "write", keep)
    return found


def stored_logits(node, encoding, at):
    """Ln of the attention and logits of one call and layer, rebuilt from what is stored."""
    if encoding == "dense":
        log_attention = torch.from_numpy(node["log_attention"][at]).float()
        return log_attention, log_attention + torch.from_numpy(node["logsumexp"][at])[..., None]
    key = node["key_vectors"]
    query = torch.from_numpy(node["query_vectors"][at]).float()
    logits = query @ torch.from_numpy(key[at if key.ndim == 7 else (*at[:2], at[3])]).float().transpose(-1, -2)
    return logits.log_softmax(-1), logits


def errors(node, leaf, encoding, seen, calls):
    """Mean L1 error of the softmax over keys and over queries in run 0."""
    total = np.zeros(2)
    for t in calls:
        for layer, path in enumerate(leaf.layers):
            query, key = seen[leaf.kind, path, t]
            true = query @ key.transpose(-1, -2)
            log_attention, logits = stored_logits(node, encoding, (0, slice(None), t, layer))
            total += (
                float((true.softmax(-1) - log_attention.exp()).abs().sum(-1).mean()),
                float((true.softmax(-2) - logits.softmax(-2)).abs().sum(-2).mean()),
            )
    return total / (len(calls) * len(leaf.layers))


def stored_bytes(path):
    return sum(p.stat().st_size for p in path.glob("c.*"))


def cpu_seconds(work):
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def print_array(array, variable, precision, size):
    """One line of an array: its own ratio, what a number takes, and CPU speed of writing and reading."""
    reading, values = cpu_seconds(lambda: array[...])
    copy = zarr.create_array(
        MemoryStore(),
        shape=array.shape,
        dtype=array.dtype,
        chunks=array.chunks,
        shards=array.shards,
        fill_value=variable.fill,
        config={"write_empty_chunks": True},
        **codecs(variable),
    )

    def write():
        for run in range(len(values)):
            copy[run : run + 1] = round_values(values[run : run + 1], variable.name, precision)

    writing, _ = cpu_seconds(write)
    raw = values.nbytes
    print(
        f"    {variable.name:18s} {raw / size:6.2f}x smaller than {array.dtype}, {8 * size / values.size:5.2f} bits a "
        f"number, write {raw / 2**20 / max(writing, 1e-9):5.0f} MB/s, read {raw / 2**20 / max(reading, 1e-9):5.0f} MB/s"
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_codecs(benchmark, size, world, tmp_path, seen, precision):
    path = tmp_path / "s.zarr"
    requests = [{**request, "num_inference_steps": 20} for request in world.requests(min(size.runs, 2))]
    # As a test the last layers are enough.
    layers = ("up_blocks.*",) if benchmark.disabled else None
    kinds = ("text", "image", "self")
    capture = Capture(kinds=kinds, layers=layers, detail="full", encoding="both", precision=precision)
    store = benchmark.pedantic(
        lambda: record(world.load(), path, requests, capture, progress=False), rounds=1, iterations=1
    )
    calls = [0, store.calls - 1] if benchmark.disabled else range(0, store.calls, 3)
    largest = max(leaf.queries for leaf in store.leaves.values())
    for name, leaf in store.leaves.items():
        node = store.group[name]
        shape = leaf.sizes(runs=len(requests), branches=len(store.branches), calls=store.calls)
        raw = 2 * math.prod(shape[dim] for dim in ("run", "branch", "t", "layer", "head", "query", "key"))
        for encoding, arrays in ENCODINGS.items():
            ratio = raw / sum(stored_bytes(path / name / array) for array in arrays)
            over_keys, over_queries = errors(node, leaf, encoding, seen, calls)
            print(
                f"{world.label:6s} {name:11s} {encoding:7s} {precision:8s} {ratio:6.2f}x smaller than "
                f"{raw / 2**20:6.1f} MiB, error g2r {over_keys:7.3%} r2g {over_queries:7.3%}"
            )
            assert max(over_keys, over_queries) <= ERROR[precision], f"{name} {encoding}: {over_keys}, {over_queries}"
            targets = TARGETS.get((world.label, leaf.kind, encoding))
            if targets and leaf.queries == largest and precision != "small":
                target = targets[precision == "balanced"]
                assert ratio >= target, f"{name} {encoding} is only {ratio:.2f}x smaller than raw float16"
        for variable in leaf.variables():
            if leaf.queries == largest and variable.name in SHOWN and not benchmark.disabled:
                print_array(node[variable.name], variable, precision, stored_bytes(path / name / variable.name))

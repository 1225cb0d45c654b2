"""Bytes of a store against raw float16 attention, per leaf and precision."""

import math

import pytest

from attlas.recorder import Capture, record

EXACT_TARGETS = {"dense": 1.6, "factors": 10.0}


def leaf_sizes(store, path):
    """Raw float16 bytes of the attention and stored bytes of its encoding, for each leaf."""
    arrays = {
        "dense": ("log_attention", "logsumexp"),
        "factors": ("query_vectors", "key_vectors", "logsumexp"),
    }
    runs = int(store.complete.sum())
    for name, leaf in store.leaves.items():
        shape = leaf.sizes(runs=runs, branches=len(store.branches), calls=store.calls)
        raw = 2 * math.prod(shape[dim] for dim in ("run", "branch", "t", "layer", "head", "query", "key"))
        files = [p for array in arrays[leaf.encoding] for p in (path / name / array / "c").rglob("*") if p.is_file()]
        yield name, leaf, raw, sum(p.stat().st_size for p in files)


@pytest.mark.parametrize("precision", ["exact", "balanced", "small"])
def test_size(benchmark, size, world, tmp_path, precision):
    path = tmp_path / "s.zarr"
    requests = [{**request, "num_inference_steps": 20} for request in world.requests(size.runs)]
    capture = Capture(kinds=("text", "image", "self"), detail="full", precision=precision)

    def run():
        return record(world.load(), path, requests, capture, progress=False)

    store = benchmark.pedantic(run, rounds=1)
    largest = max(leaf.queries for leaf in store.leaves.values())
    for name, leaf, raw, stored in leaf_sizes(store, path):
        ratio = raw / stored
        print(f"{world.label:7s} {precision:9s} {name:12s} {leaf.encoding:8s} {raw / 2**20:8.1f} MiB raw {ratio:7.3f}x")
        if precision == "exact" and leaf.queries == largest:
            assert ratio >= EXACT_TARGETS[leaf.encoding], f"{name} is only {ratio:.2f}x smaller than raw float16"

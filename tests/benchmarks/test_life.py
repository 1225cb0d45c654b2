"""What the life of a store costs: claiming and completing a run, opening many, flushing to disk, files of a picture."""

import statistics
import time
from collections import Counter
from math import prod

import numpy as np
import pytest
import xarray as xr

from attlas.schemas import Leaf, Manifest, create_store, open_store
from attlas.schemas.growth import grow, show
from attlas.schemas.layout import array_layout

MANIFEST = Manifest("tiny", "digest", "StableDiffusionPipeline", {"class": "DDIM"}, {"precision": "exact"})
LEAF = Leaf("text", (8, 8), 8, 40, tuple(f"block.{number}.attn2" for number in range(4)), 77)
SHAPE = (64, 64)
TOKENS = {
    "tokens": [f"token{number}" for number in range(77)],
    "segments": ["word"] * 77,
    "starts": list(range(77)),
    "ends": list(range(1, 78)),
}


TOKEN_COLUMNS = ("token_start", "token_end", "token_chunk")


def make(path, **options):
    return create_store(path, MANIFEST, (LEAF,), ("uncond", "cond"), 50, SHAPE, **options)


def crowd(store, runs):
    """Give a store a table of so many complete runs, without their attention."""
    rows = range(runs)
    with store.locked():
        commits = store._commits
        commits.snapshot = grow(commits.snapshot, runs, 1)
        table, none = commits.snapshot.wide.table, np.zeros(commits.snapshot.doc.room, bool)
        for name in TOKEN_COLUMNS:
            # Of the block into which the next run comes.
            entries = dict.fromkeys(range(runs // 64 * 64, runs), np.zeros((2, 77), "i4"))
            table.write(f"text/8x8/{name}", entries, none)
        for name in ("token", "token_segment"):
            entries = dict.fromkeys(range(runs // 64 * 64, runs), np.full((2, 77), "word", dtype=object))
            table.write(f"text/8x8/{name}", entries, none)
        table.write("run", {row: f"run-{row:07d}" for row in rows}, none)
        table.write("prompt", {row: f"a photo of cat number {row} in a field of flowers" for row in rows}, none)
        table.write(
            "request", {row: f'{{"prompt": "a photo of cat number {row}", "seed": {row}}}' for row in rows}, none
        )
        table.write("holds", dict.fromkeys(rows, '["generated_image"]'), none)
        table.write("seed", {row: row for row in rows}, none)
        for name in ("step", "timestep", "sigma"):
            table.write(name, dict.fromkeys(rows, np.arange(50)), none)
        table.write("complete", dict.fromkeys(rows, True), none)
        commits.snapshot = show(commits.snapshot, runs)


def run(store, label):
    """Claim and complete a run; seconds of each, and of what is written between them."""
    start = time.perf_counter()
    row = store.claim(label, prompt="a photo of a cat", request='{"prompt": "a photo of a cat"}')
    claimed = time.perf_counter()
    for variable in LEAF.variables():
        if variable.dims[0] == "run" and variable.group != "tokens":
            layout = store.layout("text/8x8", variable.name)
            store.write("text/8x8", variable.name, row, np.zeros(layout.shape[1:], layout.dtype))
    for branch in range(2):
        store.write_tokens("text/8x8", row, branch, **TOKENS)
    store.write_clock(row, steps=range(50), timesteps=range(50), sigmas=range(50))
    store.write_image(row, np.zeros((*SHAPE, 3), "u1"))
    written = time.perf_counter()
    store.complete_run(row)
    return claimed - start, written - claimed, time.perf_counter() - written


def spread(values):
    return (
        f"{statistics.median(values) * 1e3:.1f} ms ({min(values) * 1e3:.1f}-{max(values) * 1e3:.1f}, n={len(values)})"
    )


@pytest.mark.parametrize("runs", [10, 1_000, 100_000])
def test_claim_and_commit(benchmark, size, tmp_path, runs):
    runs = min(runs, 50) if benchmark.disabled else runs
    store = make(tmp_path / "s.zarr")
    crowd(store, runs)
    store = open_store(tmp_path / "s.zarr")
    run(store, "first")
    took = [run(store, f"new-{number}") for number in range(1 if benchmark.disabled else 30)]
    benchmark(lambda: None)
    claims, _, commits = zip(*took, strict=True)
    print(f"\n{runs} runs there: claim {spread(claims)}, commit {spread(commits)}")
    assert store.complete.sum() == runs + len(took) + 1


@pytest.mark.parametrize("runs", [5_000, 100_000])
def test_open(benchmark, tmp_path, runs):
    from attlas.analysis import open_trace

    runs = min(runs, 50) if benchmark.disabled else runs
    crowd(make(tmp_path / "s.zarr"), runs)

    def timed(work):
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    rounds = range(1 if benchmark.disabled else 7)
    benchmark(lambda: None)
    own = [timed(lambda: open_trace(tmp_path / "s.zarr").run_ids) for _ in rounds]
    plain = [timed(lambda: xr.open_datatree(tmp_path / "s.zarr", engine="zarr")) for _ in rounds]
    print(f"\n{runs} runs: open_trace {spread(own)}, xr.open_datatree {spread(plain)}")


def test_durability(benchmark, tmp_path):
    stores = {name: make(tmp_path / name, durable=name == "flushed") for name in ("flushed", "not")}
    pairs = range(1 if benchmark.disabled else 30)
    took = {name: [] for name in stores}
    for number in pairs:
        for name, store in stores.items():
            took[name].append(sum(run(store, str(number))))
    benchmark(lambda: None)
    ratios = [one / other for one, other in zip(took["flushed"], took["not"], strict=True)]
    print(
        f"\na run flushed to disk {spread(took['flushed'])}, not {spread(took['not'])}, "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    )


def sd15():
    """Text attention of Stable Diffusion 1.5 at 512x512."""
    layers = {64: (5, 40), 32: (5, 80), 16: (5, 160), 8: (1, 160)}
    return (
        [
            Leaf("text", (side, side), 8, channels, _paths("attn2", count), 77)
            for side, (count, channels) in layers.items()
        ],
        50,
        512,
    )


def sdxl():
    """Text attention of SDXL at 1024x1024."""
    return (
        [
            Leaf("text", (64, 64), 10, 64, _paths("attn2", 10), 77),
            Leaf("text", (32, 32), 20, 64, _paths("attn2", 60), 77),
        ],
        50,
        1024,
    )


def flux():
    """Joint attention of FLUX.1 at 1024x1024: 19 double and 38 single blocks, 512 text tokens."""
    side, text = 64, 512
    segments = ("text",) * text + ("generated",) * side**2
    places = [divmod(place, side) for place in range(side**2)]
    return (
        [
            Leaf(
                *("joint", (side, side), 24, 128, _paths("attn", 57), text + side**2),
                key_segments=segments,
                key_y=(*(-1,) * text, *(y for y, _ in places)),
                key_x=(*(-1,) * text, *(x for _, x in places)),
            )
        ],
        28,
        1024,
    )


def _paths(name, count):
    return tuple(f"blocks.{number}.{name}" for number in range(count))


@pytest.mark.parametrize("model", [sd15, sdxl, flux])
def test_objects_and_bytes_of_a_picture(benchmark, model):
    """A summary of one picture, conditional branch; before compression."""
    leaves, calls, side = model()
    objects, raw = 1, side * side * 3
    for leaf in leaves:
        sizes = leaf.sizes(runs=1, branches=1, calls=calls)
        for variable in leaf.variables():
            if variable.dims[0] == "run" and variable.group != "tokens":
                layout = array_layout(variable, sizes)
                objects += prod(-(-length // part) for length, part in zip(layout.shape, layout.shard, strict=True))
                raw += prod(layout.shape) * np.dtype(layout.dtype).itemsize
    benchmark(lambda: None)
    print(f"\n{model.__name__}: {objects} objects and {raw / 1e6:.0f} MB raw a picture")
    assert objects < {"sd15": 30, "sdxl": 156, "flux": 203}[model.__name__]


def test_requests_of_a_run(benchmark, size, s3_url, monkeypatch):
    """In an object store, one recorder: requests beside the objects of the run itself."""
    from attlas.schemas.storage.object_storage import ObjectStorage

    store = make(f"{s3_url}/s.zarr")
    asked = Counter()
    request = ObjectStorage._request

    def counted(self, doing, key, ask, **absent):
        asked[doing] += 1
        return request(self, doing, key, ask, **absent)

    monkeypatch.setattr(ObjectStorage, "_request", counted)
    run(store, "first")
    asked.clear()
    rounds = 2 if benchmark.disabled else 20
    took = [sum(run(store, f"new-{number}")[0::2]) for number in range(rounds)]
    own = sum(variable.dims[0] == "run" and variable.group != "tokens" for variable in LEAF.variables()) + 1
    benchmark(lambda: None)
    each = ", ".join(f"{doing} {count / rounds:.1f}" for doing, count in asked.most_common())
    print(f"\nrequests a run: {each}; of them {own} write the run itself; claim and commit {spread(took)}")

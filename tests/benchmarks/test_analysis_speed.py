"""Attention elements a second: of the kernel, and from a store on disk to both directions' maps; time of small maps.

CPU time of one thread, so that what else the machine does counts little; elements are counted once for both
directions. Printed beside: two plain torch softmaxes of the same logits, the product alone and with one exponential,
and what zarr and zstd take by themselves.
"""

import statistics
import time

import dask
import numpy as np
import pytest
import torch
from numcodecs import Blosc, blosc

from attlas.analysis import maps, open_trace
from attlas.analysis.blockwise import kernels
from attlas.analysis.blockwise.fused import Ask, several_means
from attlas.analysis.blockwise.matrices import Factors, LogAttention
from attlas.analysis.blockwise.room import Room
from attlas.schemas import Leaf, Manifest, create_store

# Queries, keys, channels: of Stable Diffusion 1.5 (text, self) and of the demo's try-on (image), at 512 and 64 pixels.
SHAPES = {
    "text 64x64": (4096, 77, 40),
    "self 64x64": (4096, 4096, 40),
    "self 32x32": (1024, 1024, 80),
    "image 64x64": (4096, 257, 16),
    "image 16x16": (256, 257, 16),
}
BOTH = (Ask("g2r", "key"), Ask("r2g", "query"))
CHECKSUM = 4
"""Bytes of CRC-32C at the end of a chunk."""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(blosc, "use_threads", False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with dask.config.set(scheduler="synchronous"):
        yield
    torch.set_num_threads(threads)


def cpu_times(functions, rounds):
    """CPU seconds of each function, by turns, after one call of each."""
    found = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            started = time.process_time()
            function()
            if number:
                found[name].append(time.process_time() - started)
    return found


def rates(times, elements):
    """M elements/s: median, best and worst."""
    made = sorted(elements / own / 1e6 for own in times)
    return f"{statistics.median(made):4.0f} M elements/s (n={len(made)}, {made[0]:.0f}-{made[-1]:.0f})"


def plain(query, key, step):
    with torch.inference_mode():
        for start in range(0, len(query), step):
            logits = query[start : start + step].float() @ key[start : start + step].float().transpose(-1, -2)
            logits.softmax(-1).mean(-2)
            logits.softmax(-2).mean(-1)


def bound(query, key, step, space, *, exponential):
    """What no way of computing can leave out: the product, and one exponential, of what lies as a store gives it."""
    with torch.inference_mode():
        for start in range(0, len(query), step):
            own = key[start : start + step]
            logits = space[: own.shape[0] * own.shape[1] * query.shape[1]].view(*own.shape[:2], query.shape[1])
            torch.bmm(own, query[start : start + step].transpose(-1, -2), out=logits)
            if exponential:
                logits.exp2_()


def one_pass(stack, count, queries, keys):
    with torch.inference_mode():
        for place in kernels.blocks(count, queries, keys):
            several_means(stack(place), BOTH)


def as_stored(values):
    """The same numbers, key by key or channel by channel in memory, as a store gives them."""
    return values.transpose(-1, -2).contiguous().transpose(-1, -2)


@pytest.mark.parametrize("name", SHAPES)
def test_kernel(benchmark, name):
    queries, keys, channels = SHAPES[name]
    rounds = 1 if benchmark.disabled else 15
    count = max(1, (2**18 if benchmark.disabled else 2**25) // (queries * keys))
    generator = torch.Generator().manual_seed(0)
    query = (torch.randn(count, queries, channels, generator=generator) / channels**0.5).half()
    key = torch.randn(count, keys, channels, generator=generator).half()
    logits = query[: max(1, count // 4)].float() @ key[: max(1, count // 4)].float().transpose(-1, -2)
    log_attention, logsumexp = as_stored(logits.log_softmax(-1).half()), logits.logsumexp(-1)
    query, key = as_stored(query), as_stored(key)
    floats = query.float(), key.float()
    room = Room("cpu")
    step = max(1, 2**19 // (queries * keys))
    few = len(log_attention)
    space = torch.empty(step * queries * keys)
    functions = {
        "two softmaxes": lambda: plain(query, key, step),
        "product": lambda: bound(*floats, step, space, exponential=False),
        "product, exp2": lambda: bound(*floats, step, space, exponential=True),
        "factors": lambda: one_pass(lambda place: Factors(query[place], key[place], room), count, queries, keys),
        "dense": lambda: one_pass(
            lambda place: LogAttention(log_attention[place], logsumexp[place], False, room), few, queries, keys
        ),
    }
    found = benchmark.pedantic(lambda: cpu_times(functions, rounds), rounds=1)
    for way, times in found.items():
        elements = queries * keys * (few if way == "dense" else count)
        print(f"kernel {name:11s} {way:13s} {rates(times, elements)}")


def large_run(path, encoding, side, calls):
    """One run of image attention as the demo's try-on has it, on a grid of `side`: smooth Q and K."""
    rng = np.random.default_rng(0)
    rows, columns = (own.ravel().tolist() for own in np.indices((16, 16)))
    leaf = Leaf(
        "image", (side, side), 4, 16, ("up.0.attn", "up.1.attn"), 257, ("cls", *["reference"] * 256),
        (-1, *rows), (-1, *columns), encoding=encoding,
    )  # fmt: skip
    manifest = Manifest("simulated", "-", "simulated", {}, {"precision": "exact", "detail": "full"})
    store = create_store(path, manifest, (leaf,), ("cond",), calls, (16, 16), (16, 16))
    row = store.claim("run")
    store.write_clock(row, steps=list(range(calls)), timesteps=[1.0] * calls, sigmas=[1.0] * calls)
    (name,) = store.leaves
    key = rng.normal(size=(1, 2, 4, 257, 16)).astype("f2")
    coarse = rng.normal(size=(1, 1, 2, 4, 8, 8, 16))
    smooth = np.repeat(np.repeat(coarse, side // 8, 4), side // 8, 5).reshape(1, 1, 2, 4, side * side, 16)
    drift = rng.normal(size=(1, calls, 1, 1, 1, 16)).cumsum(1) * 0.1
    query = ((smooth + drift + 0.02 * rng.normal(size=smooth.shape)) / 2).astype("f2")
    logits = query.astype("f4") @ key.astype("f4")[:, None].swapaxes(-1, -2)
    logsumexp = np.log(np.exp(logits).sum(-1))
    g2r, r2g = (np.exp(logits - np.log(np.exp(logits).sum(axis, keepdims=True))) for axis in (-1, -2))
    arrays = {
        "query_vectors": query, "key_vectors": key, "log_attention": logits - logsumexp[..., None],
        "logsumexp": logsumexp, "g2r": g2r.mean(-2), "r2g": r2g.mean(-1), "attention_mean": g2r.mean(1),
        "attention_mean_r2g": r2g.mean(1) / leaf.variable("attention_mean_r2g").scale,
        "computed": np.ones((1, calls, 2), bool),
    }  # fmt: skip
    for variable in leaf.variables():
        if variable.name in arrays:
            layout, values = store.layout(name, variable.name), arrays[variable.name]
            t, layer = (layout.dims.index(dim) - 1 if dim in layout.dims else None for dim in ("t", "layer"))
            for t0 in range(0, calls if t is not None else 1, layout.t_block):
                for layer0 in range(0, 2, layout.layer_block):
                    place = [slice(None)] * values.ndim
                    place[layer] = slice(layer0, layer0 + layout.layer_block)
                    if t is not None:
                        place[t] = slice(t0, t0 + layout.t_block)
                    store.write(name, variable.name, row, values[tuple(place)], t0=t0, layer0=layer0)
    store.complete_run(row)
    store.finish()
    return open_trace(path), 2 * 4 * calls * side * side * 257


def one_by_one(function, things):
    for thing in things:
        function(thing)


@pytest.mark.parametrize("encoding", ["factors", "dense"])
def test_from_a_store_to_maps(benchmark, tmp_path, encoding):
    side, calls = (8, 2) if benchmark.disabled else (64, 10)
    trace, elements = large_run(tmp_path / "s.zarr", encoding, side, calls)

    def both():
        joined = maps.together({d: maps.ulam(trace, d, source="full") for d in ("g2r", "r2g")})
        dask.compute(joined)

    functions = {"maps": both}
    if encoding == "dense":
        array = trace.store.group["image" + f"/{side}x{side}"]["log_attention"]
        places = [(0, 0, t, layer) for t in range(calls) for layer in range(2)]
        functions["zarr alone"] = lambda: one_by_one(array.__getitem__, places)
        files = (tmp_path / "s.zarr" / array.path).glob("c.*")
        chunks = [file.read_bytes()[:-CHECKSUM] for file in files]
        functions["zstd alone"] = lambda: one_by_one(Blosc().decode, chunks)
    found = benchmark.pedantic(lambda: cpu_times(functions, 1 if benchmark.disabled else 7), rounds=1)
    for way, times in found.items():
        print(f"store to both maps, {encoding:7s} {side}x{side}x257: {way:14s} {rates(times, elements)}")


def questions(trace, world, groups):
    """Maps by name; all but the reverse SRAM from summaries, which do not tell it."""
    first = trace.runs["prompt"].values[0].split()
    word = next((own for own in first if len(own) > 3), None)
    brief = {"kind": world, "source": "summary"}
    asked = {}
    for way in ("r2g", "g2r"):
        asked |= {
            f"ulam {way}": lambda way=way: maps.ulam(trace, way, **brief),
            f"tlam {way}, {groups} groups": lambda way=way: maps.tlam(trace, way, groups, **brief),
            f"hlam {way}": lambda way=way: maps.hlam(trace, way, **brief),
            f"llam {way}": lambda way=way: maps.llam(trace, way, **brief),
            f"layer and t {way}": lambda way=way: maps.aggregate(trace, way, ("layer", "t"), **brief),
            f"two heads {way}": lambda way=way: maps.ulam(trace, way, heads=[0, 2], **brief),
        }
    if world == "image":
        return {
            **asked,
            "sram": lambda: maps.sram(trace, (2, 2), **brief),
            "reverse sram": lambda: maps.reverse_sram(trace, (2, 2), kind=world),
        }
    return {
        **asked,
        "daam": lambda: maps.daam(trace, word, **brief),
        "daam, phrase": lambda: maps.daam(trace, " ".join(first[1:3]), **brief),
        "daam, two heads": lambda: maps.daam(trace, word, heads=[0, 2], **brief),
        "daam, normalised": lambda: maps.daam(trace, word, normalize=True, **brief),
        "daam, released": lambda: maps.daam(trace, word, variant="released", **brief),
    }


def test_a_map_from_the_summary(benchmark, world, tmp_path):
    """Graph building and computing, of one run of the demo."""
    from attlas.recorder import Capture, record

    kind = "text" if world.label == "shapes" else "image"
    steps = 3 if benchmark.disabled else 20
    requests = [{**request, "num_inference_steps": steps} for request in world.requests(1)]
    record(world.load(), tmp_path / "s.zarr", requests, Capture(kinds=kind), progress=False)
    trace = open_trace(tmp_path / "s.zarr")
    asked = questions(trace, kind, groups=min(5, steps))
    functions = {name: (lambda make=make: make().compute()) for name, make in asked.items()}
    found = benchmark.pedantic(lambda: cpu_times(functions, 1 if benchmark.disabled else 15), rounds=1)
    for name, times in found.items():
        made = sorted(1e3 * own for own in times)
        print(
            f"map of one run from the summary, {world.label:6s} {name:18s} {statistics.median(made):5.1f} ms CPU "
            f"(n={len(made)}, {made[0]:.1f}-{made[-1]:.1f})"
        )

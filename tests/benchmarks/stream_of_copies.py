"""Record a stream of copies of Stable Diffusion 1.5's text attention, and print the memory that it took.

Run as a program, because the peak of a process is that of its whole life: folder, encoding, side of the largest grid,
and pairs of steps and runs in, ``2,1 2,3``; for each pair MiB of resident memory at the peak over those before out.
Each is a process of its own, forked before anything is computed. As in a recording, the first call's copies wait for
its end, and the writer has a thread of its own.
"""

import multiprocessing
import sys
from functools import partial
from pathlib import Path

import torch

from attlas.recorder.copies import copy_out
from attlas.recorder.recording import QUEUE_BYTES
from attlas.recorder.scribe import Copied, Scribe
from attlas.recorder.sink import Sink
from attlas.schemas import Leaf, Manifest, Store, create_store

HEADS, KEYS = 8, 77


def shaped(path: str, encoding: str, side: int, steps: int) -> Store:
    grids = ((side, 5, 40), (side // 2, 5, 80), (side // 4, 5, 160), (side // 8, 1, 160))
    leaves = [
        Leaf("text", (size, size), HEADS, width, tuple(f"{size}.{n}" for n in range(layers)), KEYS, encoding=encoding)
        for size, layers, width in grids
    ]
    manifest = Manifest("simulated", "-", "simulated", {}, {"precision": "exact"})
    return create_store(path, manifest, leaves, ("uncond", "cond"), steps, (8 * side, 8 * side))


def record_run(store: Store, row: int, live: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
    scribe, sink = Scribe(store, [row]), Sink(QUEUE_BYTES)
    for step in range(store.calls):
        early = []
        for leaf in store.leaves.values():
            query, key = live[leaf.queries]
            dtype = torch.float16 if leaf.encoding == "factors" else torch.float32
            for path in leaf.layers:
                copied = Copied(path, "text", step, step, copy_out(query, dtype, 0.9), copy_out(key, dtype), None)
                if step:
                    sink.put(partial(scribe.write, copied), copied.bytes)
                else:
                    early.append(copied)
        while early:
            copied = early.pop(0)
            sink.put(partial(scribe.write, copied), copied.bytes)
        del copied
    sink.close()
    scribe.finish()
    store.complete_run(row)


def memory(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def measure(path: str, encoding: str, side: int, steps: int, runs: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    store = shaped(path, encoding, side, steps)
    live = {
        leaf.queries: (
            torch.randn(2, 1, HEADS, leaf.queries, leaf.channels) / leaf.channels**0.5,
            torch.randn(2, 1, HEADS, KEYS, leaf.channels),
        )
        for leaf in store.leaves.values()
    }
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = memory("VmRSS")
    for run in range(runs):
        record_run(store, store.claim(f"{run}"), live)
    print(memory("VmHWM") - before, flush=True)


def main(folder: str, encoding: str, side: str, *pairs: str) -> None:
    for pair in pairs:
        steps, runs = (int(number) for number in pair.split(","))
        asked = (f"{folder}/{steps}-{runs}", encoding, int(side), steps, runs)
        process = multiprocessing.get_context("fork").Process(target=measure, args=asked)
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{pair}: the measurement ended with {process.exitcode}")


if __name__ == "__main__":
    main(*sys.argv[1:])

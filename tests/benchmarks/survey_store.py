"""Survey a store from its full arrays, and print as JSON the time that it took and each process's CPU time and memory.

Run as a program, because the peak of a process is that of its whole life: ``python tests/benchmarks/survey_store.py
FOLDER WORKERS [RUNS]``. 0 workers: this process, with one thread. Else so many Dask worker processes of one thread. The
clock starts when the modules are loaded, in this process and in the workers.
"""

import json
import resource
import sys
import time
from pathlib import Path

import dask
import torch

from attlas.analysis import open_trace, survey
from attlas.analysis.surveys.workers import local_workers

QUESTIONS = [f"ulam:direction={direction},kind=image,source=full" for direction in ("g2r", "r2g")]


def peak() -> float:
    """MiB of resident memory at the peak of this program."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # Linux hands the peak of getrusage down from the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def main(path: str, workers: int, runs: int | None = None) -> None:
    torch.set_num_threads(1)
    trace = open_trace(path)
    trace = trace if runs is None else trace.isel(range(runs))
    leaves = [leaf for leaf in trace.leaves.values() if leaf.kind == "image"]
    one = sum(len(leaf.layers) * leaf.heads * leaf.queries * leaf.keys for leaf in leaves) * trace.calls
    options = {"maps": QUESTIONS, "cache": False, "progress": False, "block": 2}
    if workers:
        with local_workers(workers) as client:
            client.run(torch.set_num_threads, 1)
            before = [time.process_time(), *client.run(time.process_time).values()]
            started = time.monotonic()
            survey(trace, **options, client=client)
            seconds = time.monotonic() - started
            after = [time.process_time(), *client.run(time.process_time).values()]
            peaks = [peak(), *client.run(peak).values()]
    else:
        with dask.config.set(scheduler="synchronous"):
            before = [time.process_time()]
            started = time.monotonic()
            survey(trace, **options)
            seconds = time.monotonic() - started
            after = [time.process_time()]
        peaks = [peak()]
    cpu = [end - start for start, end in zip(before, after, strict=True)]
    found = {"runs": len(trace.rows), "elements": one * len(trace.rows), "seconds": seconds, "cpu": cpu, "peaks": peaks}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *(int(number) for number in sys.argv[3:]))

"""Paired measurements: two functions run by turns, so that a busy machine slows both."""

import statistics
import time
from collections.abc import Callable


def paired_ratios(base: Callable[[], object], changed: Callable[[], object], pairs: int) -> list[list[float]]:
    """Wall and CPU time (of all threads) of `changed` over those of `base`, in pairs run by turns."""
    ratios: list[list[float]] = [[], []]
    for index in range(pairs):
        seconds = {}
        order = [("base", base), ("changed", changed)]
        for name, function in order if index % 2 else reversed(order):
            start = time.perf_counter(), time.process_time()
            function()
            seconds[name] = time.perf_counter() - start[0], time.process_time() - start[1]
        for place, found in enumerate(ratios):
            found.append(seconds["changed"][place] / seconds["base"][place])
    return ratios


def spread(ratios: list[float]) -> str:
    """Median with quartiles and the number of pairs."""
    if len(ratios) < 4:
        return f"{statistics.median(ratios):.3f}x (n={len(ratios)})"
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f}x (quartiles {low:.3f}-{high:.3f}, n={len(ratios)})"

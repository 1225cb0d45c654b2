"""A bar over the denoiser calls of many requests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

__all__ = ["call_bar"]


@contextmanager
def call_bar(pipe: Any, requests: int, *, show: bool, what: str = "run") -> Iterator[Callable[[int], None]]:
    """Count denoiser calls of all requests on one bar; the pipeline's own bar is off meanwhile.

    Gives what is to be called after each denoiser call, with the number of calls of a run; `what` names a request.
    """
    missing = object()
    before = getattr(pipe, "_progress_bar_config", missing)
    if hasattr(pipe, "set_progress_bar_config"):
        pipe.set_progress_bar_config(**{**(before if isinstance(before, dict) else {}), "disable": True})
    bar = tqdm(total=None, unit="call", disable=not show or not requests, dynamic_ncols=True)
    done = 0

    def ticked(calls: int) -> None:
        nonlocal done
        done += 1
        bar.total = calls * requests
        bar.set_description(f"{what} {min(requests, (done - 1) // calls + 1)}/{requests}", refresh=False)
        bar.update()

    try:
        yield ticked
    finally:
        bar.close()
        if before is missing:
            vars(pipe).pop("_progress_bar_config", None)
        else:
            pipe._progress_bar_config = before

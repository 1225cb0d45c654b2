"""A bar over the denoiser calls of many requests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

__all__ = ["CallBar", "call_bar"]


class CallBar:
    """Counts denoiser calls of all requests on one bar; it is called with the number of calls of a run after each.

    Parameters
    ----------
    requests
        How many are to be drawn; None where nobody knows.
    show
        Whether anything is shown.
    what
        Names a request.
    """

    def __init__(self, requests: int | None, *, show: bool, what: str = "run") -> None:
        self._requests = requests
        self._what = what
        self._calls = 0
        self._done = 0
        self._bar = tqdm(total=None, unit="call", disable=not show or requests == 0, dynamic_ncols=True)

    def __call__(self, calls: int) -> None:
        """Count a denoiser call, of so many of a run."""
        self._done += 1
        self._calls = calls
        self._say_total()
        number = (self._done - 1) // calls + 1
        of = "" if self._requests is None else f"/{self._requests}"
        shown = number if self._requests is None else min(self._requests, number)
        self._bar.set_description(f"{self._what} {shown}{of}", refresh=False)
        self._bar.update()

    def passed(self) -> None:
        """Take a request out, as another recorder has drawn it."""
        if self._requests is not None:
            self._requests = max(0, self._requests - 1)
            self._say_total()

    def waiting(self, why: str) -> None:
        """Say what is waited for."""
        self._bar.set_description(f"waiting for {why}")

    def close(self) -> None:
        """End the bar."""
        self._bar.close()

    def _say_total(self) -> None:
        if self._requests is not None and self._calls:
            self._bar.total = self._calls * self._requests


@contextmanager
def call_bar(pipe: Any, requests: int | None, *, show: bool, what: str = "run") -> Iterator[CallBar]:
    """Give a bar of denoiser calls; the pipeline's own is off meanwhile."""
    missing = object()
    before = getattr(pipe, "_progress_bar_config", missing)
    if hasattr(pipe, "set_progress_bar_config"):
        pipe.set_progress_bar_config(**{**(before if isinstance(before, dict) else {}), "disable": True})
    bar = CallBar(requests, show=show, what=what)
    try:
        yield bar
    finally:
        bar.close()
        if before is missing:
            vars(pipe).pop("_progress_bar_config", None)
        else:
            pipe._progress_bar_config = before

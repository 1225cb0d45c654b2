"""The share of one recorder in the requests of a call: what it claims, draws, and takes over from others."""

import random
import time
from collections.abc import Sequence
from itertools import islice

from attlas.recorder.agenda import Agenda, Item
from attlas.recorder.progress import CallBar
from attlas.recorder.recording import Recorder
from attlas.recorder.requests import Request
from attlas.schemas.errors import RunTakenError

__all__ = ["Share"]

MOST_AHEAD = 16
"""Most requests that are claimed at once where each claim is several requests to a server."""

POLLS = {True: (0.1, 2.0), False: (2.0, 30.0)}
"""Seconds between two looks at what others are at work on, at first and at most: in a folder, and elsewhere."""


class Share:
    """Draws what others do not.

    Parameters
    ----------
    recorder
        Inside its ``with``.
    agenda
        What is asked for.
    bar
        Counts denoiser calls.
    """

    def __init__(self, recorder: Recorder, agenda: Agenda, bar: CallBar) -> None:
        self._recorder = recorder
        self._agenda = agenda
        self._bar = bar
        self._others: list[Item] = []

    def draw(self) -> None:
        """Draw until every run that is asked for is complete, or raise."""
        items = iter(self._agenda)
        while batch := list(islice(items, self._ahead())):
            self._draw(batch)
        self._draw_what_others_leave()
        self._recorder.drain()

    def _ahead(self) -> int:
        """Say how many requests to claim at once: fewer at the end, when others would wait for what is only claimed."""
        if not self._recorder.far:
            return 1
        left = MOST_AHEAD**2 if not self._agenda.listed else self._agenda.runs
        return max(1, min(MOST_AHEAD, left // MOST_AHEAD))

    def _draw_what_others_leave(self) -> None:
        """Wait for runs that others are at work on, and take over those of others that died or gave up."""
        first, longest = POLLS[not self._recorder.far]
        pause = first
        while self._others:
            # What this recorder has finished, others may be waiting for.
            self._recorder.drain()
            self._say_waiting(len(self._others))
            time.sleep(pause * random.uniform(0.5, 1))
            number = self._ahead()
            batch, self._others = self._others[:number], self._others[number:]
            before = len(self._others)
            self._draw(batch, again=True)
            progress = len(self._others) - before < len(batch)
            pause = first if progress else min(1.5 * pause, longest)

    def _say_waiting(self, requests: int) -> None:
        self._bar.waiting(f"other recorders ({requests} request{'s' if requests != 1 else ''})")

    def _draw(self, batch: list[Item], *, again: bool = False) -> None:
        """Claim the runs of some requests at once, and draw what was to be had; `again` says that they are admitted."""
        asked = []
        for item in batch:
            request = self._recorder.prepare(item.given, item.name)
            if again or self._agenda.admit(request.draft):
                asked.append((item, request))
        while asked and not self._recorder.wait_for_store(lambda: self._say_waiting(len(asked))):
            item, request = asked.pop(0)
            self._run(item, request, request.ids)
        refused = self._recorder.claim([request for _, request in asked], self._agenda.capacity)
        for error in refused.values():
            if error.why == "another request":
                raise error
        self._agenda.made(run for run, error in refused.items() if error.why == "complete")
        for item, request in asked:
            busy = any(run in refused and refused[run].why == "recording" for run in request.ids)
            wanted = [run for run in request.ids if run not in refused]
            if busy:
                self._others.append(item)
            if wanted:
                self._run(item, request, wanted)
            elif not busy:
                self._bar.passed()

    def _run(self, item: Item, request: Request, wanted: Sequence[str]) -> None:
        try:
            self._recorder.run(request, wanted, capacity=self._agenda.capacity, wait=False, ticked=self._bar)
        except RunTakenError as taken:
            # In a new store another was quicker.
            if taken.why == "another request":
                raise
            self._others.append(item)
        else:
            self._agenda.made(wanted)

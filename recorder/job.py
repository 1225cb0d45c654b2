"""One recorded call of a pipeline: its rows in the store, its writer, and what is written when the picture is there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.recorder.clock import Clock
from attlas.recorder.destination import check_geometry, check_present, make_store, storing
from attlas.recorder.geometry import build_leaves
from attlas.recorder.inventory import Subject
from attlas.recorder.pictures import generated_pictures
from attlas.recorder.requests import Request
from attlas.recorder.scribe import Copied, Scribe
from attlas.recorder.sink import Sink
from attlas.recorder.take import Geometry
from attlas.recorder.tokens import TokenLabels, label_tokens, unlabelled
from attlas.schemas import Manifest, Store
from attlas.schemas.errors import ObservationError

__all__ = ["Annotate", "Job"]

QUEUE_BYTES = 256 * 2**20
"""Copies on their way to the writer; the pipeline waits when there are more."""

Annotate = Callable[[dict[str, Any], NDArray[np.uint8]], Mapping[str, Any]]


class Job:
    """The runs that one call of the pipeline makes.

    Parameters
    ----------
    subject, manifest, path
        What is recorded, and where to.
    store
        The open store, or None where the first denoiser call is to make it.
    request
        What is asked of the pipeline.
    wanted
        Ids of the runs to write; others of the batch are complete already.
    capacity
        Runs still to come, so that the store grows once.
    """

    def __init__(
        self,
        subject: Subject,
        manifest: Manifest,
        path: str | None,
        store: Store | None,
        request: Request,
        wanted: Sequence[str],
        capacity: int,
    ) -> None:
        self.store = store
        self._subject = subject
        self._manifest = manifest
        self._path = path
        self._request = request
        self._wanted = wanted
        self._capacity = capacity
        self._rows: list[int | None] = []
        self._scribe: Scribe | None = None
        self._sink: Sink[Copied] | None = None

    def open(self, geometry: Geometry) -> Callable[[Copied], None]:
        """Make the store or check that the run fits into it, claim the rows, and start the writer."""
        request = self._request
        reference = None if request.references is None else request.references[0].shape[:2]
        fit = (
            build_leaves(self._subject.pipe, geometry.shapes, self._subject.capture, len(geometry.kept)),
            geometry.branches,
            geometry.kept,
            geometry.image_shape,
            None if reference is None else (reference[0], reference[1]),
        )
        with storing(self._path, "the store"):
            if self.store is None:
                self.store = make_store(self._path, self._manifest, *fit)
            check_geometry(self.store, *fit)
            self._claim(self.store)
        scribe = Scribe(self.store, self._rows)
        what = f"run {request.ids[0]!r}"

        def consume(copied: Copied) -> None:
            with storing(self._path, what):
                scribe.write(copied)

        sink = Sink(consume, QUEUE_BYTES)
        self._scribe, self._sink = scribe, sink
        return lambda copied: sink.put(copied, copied.bytes)

    def complete(self, clock: Clock, output: Any, annotate: Annotate | None) -> None:
        """Wait for the writer, write the labels and the pictures, and mark the runs complete."""
        if self.store is None or self._sink is None or self._scribe is None:
            raise ObservationError("the pipeline ended before its first denoiser call did; nothing was recorded")
        self._sink.close()
        self._scribe.finish()
        pictures = generated_pictures(output)
        if len(pictures) != len(self._rows):
            raise ObservationError(f"the pipeline gave {len(pictures)} pictures where {len(self._rows)} were expected")
        for place, row in enumerate(self._rows):
            if row is None:
                continue
            extra = {} if annotate is None else annotate(self._request.shown(place), pictures[place])
            with storing(self._path, f"run {self._request.ids[place]!r}"):
                check_present(self.store)
                self._describe(self.store, place, row, clock)
                self.store.write_image(row, pictures[place])
                if self._request.references is not None:
                    self.store.write_reference(row, self._request.references[place])
                self.store.write_annotations(row, {**self._request.annotations[place], **extra})
                self.store.complete_run(row)

    def release(self) -> None:
        """Stop the writer and give back rows that are not complete; after `complete` there are none."""
        if self._sink is not None:
            self._sink.abort()
        if self.store is not None:
            for row in self._rows:
                if row is not None:
                    self.store.release(row)
        self._sink = self._scribe = None

    def _claim(self, store: Store) -> None:
        request = self._request
        left = self._capacity
        for place, run in enumerate(request.ids):
            if run not in self._wanted:
                self._rows.append(None)
                continue
            row = store.claim(
                run,
                seed=request.seeds[place],
                prompt=request.prompts[place] or "",
                request=request.text,
                capacity=max(1, left),
            )
            self._rows.append(row)
            left -= 1

    def _describe(self, store: Store, place: int, row: int, clock: Clock) -> None:
        """Write clock and token labels of one run."""
        kept = [int(call) for call in store.group["t"][...]]
        store.write_clock(
            row,
            steps=[clock.steps[call] for call in kept],
            timesteps=[clock.timesteps[call] for call in kept],
            sigmas=[clock.sigmas[call] for call in kept],
        )
        for name, leaf in store.leaves.items():
            if leaf.kind != "text":
                continue
            for number, branch in enumerate(store.branches):
                labels = self._tokens(place, branch, leaf.keys)
                store.write_tokens(
                    name,
                    row,
                    number,
                    tokens=labels.tokens,
                    segments=labels.segments,
                    starts=labels.starts,
                    ends=labels.ends,
                )

    def _tokens(self, place: int, branch: str, keys: int) -> TokenLabels:
        request = self._request
        if branch == "cond":
            text, embedded = request.prompts[place], "prompt_embeds"
        else:
            text, embedded = request.negatives[place] or "", "negative_prompt_embeds"
        if text is None or embedded in request.arguments:
            return unlabelled(keys)
        return label_tokens(self._subject.pipe, text, keys)

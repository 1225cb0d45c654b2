"""One recorded call of a pipeline: its rows in the store, its writer, and what is written when the picture is there."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.recorder.clock import Clock
from attlas.recorder.destination import Target, check_geometry, check_present, make_store, storing
from attlas.recorder.geometry import build_leaves
from attlas.recorder.labels.key_labels import in_sequence, only
from attlas.recorder.labels.tokens import TokenLabels, label_tokens
from attlas.recorder.models.inventory import Subject
from attlas.recorder.pictures import generated_pictures
from attlas.recorder.requests import Request
from attlas.recorder.scribe import Copied, Scribe
from attlas.recorder.sink import Sink
from attlas.recorder.take import Geometry
from attlas.recorder.vocabulary import key_projection
from attlas.schemas import Leaf, Manifest, Store
from attlas.schemas.errors import CaptureError, ObservationError, RunTakenError
from attlas.schemas.vocabulary import Vocabulary
from attlas.schemas.words import covered, spans

__all__ = ["Annotate", "Job"]

Annotate = Callable[[dict[str, Any], NDArray[np.uint8]], Mapping[str, Any]]


class Job:
    """The runs that one call of the pipeline makes.

    The pipeline's thread only looks and copies; encoding and writing happen in the writer's thread, which alone touches
    what is stored in the rows.

    Parameters
    ----------
    subject, manifest, path
        What is recorded, and where to.
    store
        The open store, or None where the first denoiser call is to make it.
    sink
        The writer's queue.
    request
        What is asked of the pipeline.
    rows
        Row of each run to write, by its id; others of the batch are not written. Where the first denoiser call is to
        make the store, rows are claimed then.
    capacity
        Runs still to come, so that the store grows once.
    vocabulary
        Words that a new store holds.
    opened
        Called with the store when rows are claimed in it.
    durable
        Whether writing waits for the disk.
    settle
        Whether runs are to be seen by readers as soon as they are complete, and not with the next ones.
    """

    def __init__(
        self,
        subject: Subject,
        manifest: Manifest,
        path: Target,
        store: Store | None,
        sink: Sink,
        request: Request,
        rows: Mapping[str, int | None],
        capacity: int,
        vocabulary: Vocabulary | None,
        opened: Callable[[Store], None],
        *,
        durable: bool,
        settle: bool,
    ) -> None:
        self._vocabulary = vocabulary
        self._settle = settle
        self.store = store
        self.done = False
        self._subject = subject
        self._manifest = manifest
        self._path = path
        self._sink = sink
        self._request = request
        self._wanted = frozenset(rows)
        self._capacity = capacity
        self._opened = opened
        self._durable = durable
        self._rows = [rows.get(run) for run in request.ids]
        self._scribe: Scribe | None = None
        self._cancelled = False
        self._labelled: dict[tuple[int, bool, int], TokenLabels] = {}

    def open(self, geometry: Geometry) -> Callable[[Copied], None]:
        """Make the store or check that the run fits into it; return what takes the copies of kernel calls."""
        request = self._request
        reference = None if request.references is None else request.references[0].shape[:2]
        subject = self._subject
        fit = (
            build_leaves(subject.pipe, subject.family, geometry.shapes, subject.capture, len(geometry.kept)),
            geometry.branches,
            geometry.kept,
            geometry.image_shape,
            None if reference is None else (reference[0], reference[1]),
            geometry.frames,
        )
        new = self.store is None
        with storing(self._path, "the store"):
            if self.store is None:
                self.store = make_store(
                    self._path, self._manifest, *fit, self._vocabulary, self._fill, durable=self._durable
                )
            check_geometry(self.store, *fit)
            if new:
                self._claim(self.store)
        self._opened(self.store)
        self._put(partial(self._begin, self.store))
        return self._deliver

    def _claim(self, store: Store) -> None:
        request = self._request
        places = [place for place, run in enumerate(request.ids) if run in self._wanted]
        rows = store.claim_all([request.records[place] for place in places], capacity=self._capacity)
        for place, row in zip(places, rows, strict=True):
            if not isinstance(row, RunTakenError):
                self._rows[place] = row
        for row in rows:
            if isinstance(row, RunTakenError):
                raise row

    def _fill(self, store: Store) -> None:
        """Put into a new store what belongs to no run: W_k of leaves that hold it."""
        for name, leaf in store.leaves.items():
            if leaf.features:
                modules = [self._subject.denoiser.get_submodule(path) for path in leaf.layers]
                channels = leaf.channels - leaf.masked
                store.write_projection(name, [key_projection(m, leaf.head_labels, channels) for m in modules])

    def words(self, place: int, tokens: int) -> tuple[int, ...]:
        """Find the tokens of a prompt that spell the words of ``Capture(keys=...)``, of the `tokens` that it has."""
        text = self._request.prompts[place]
        labels = self._tokens(place, "cond", tokens)
        found: list[int] = []
        for word in self._subject.capture.keys:
            spots = np.flatnonzero(covered(labels.starts, labels.ends, spans(text or "", word)))
            if not len(spots):
                raise CaptureError(
                    f"no token of the prompt {text!r} is known to spell {word!r}, a word of Capture(keys=...): it "
                    "stands beyond the tokens that the model sees, or the prompt was given as embeddings"
                )
            found += [int(spot) for spot in spots]
        return tuple(dict.fromkeys(found))

    def complete(
        self, clock: Clock, tokens: Mapping[tuple[str, str], int], output: Any, annotate: Annotate | None
    ) -> None:
        """Hand the pictures and what is known of them to the writer, which then marks the runs complete."""
        if self.store is None:
            raise ObservationError("the pipeline ended before its first denoiser call did; nothing was recorded")
        request = self._request
        pictures = generated_pictures(output)
        if len(pictures) != request.pictures:
            raise ObservationError(f"the pipeline gave {len(pictures)} pictures where {request.pictures} were expected")
        annotations = []
        for place, picture in enumerate(pictures):
            wanted = annotate is not None and request.ids[place] in self._wanted
            extra = annotate(request.shown(place), picture) if annotate is not None and wanted else {}
            annotations.append({**request.annotations[place], **extra})
        times: dict[str, Sequence[Any]] = {
            "steps": clock.steps,
            "timesteps": list(clock.timesteps),
            "sigmas": clock.sigmas,
        }
        # Here and not in the writer, because the next call of the pipeline uses the same tokenizer.
        labels = self._labels(self.store, tokens)
        given = [getattr(own, "values", own) for each in annotations for own in each.values()]
        size = sum(getattr(values, "nbytes", 0) for values in [*pictures, *given])
        self._put(partial(self._finish, self.store, times, labels, pictures, annotations), size)

    def cancel(self) -> None:
        """Let the writer pass over what is still queued of this job."""
        self._cancelled = True

    def release(self) -> None:
        """Give back rows that are not complete. The writer must be idle or gone."""
        if self.store is not None and not self.done:
            for row in self._rows:
                if row is not None:
                    self.store.release(row)
        self._scribe = None

    def _put(self, work: Callable[[], None], size: int = 0) -> None:
        def guarded() -> None:
            if not self._cancelled:
                with storing(self._path, f"run {self._request.ids[0]!r}"):
                    work()

        self._sink.put(guarded, size)

    def _deliver(self, copied: Copied) -> None:
        self._put(partial(self._write, copied), copied.bytes)

    def _labels(self, store: Store, tokens: Mapping[tuple[str, str], int]) -> dict[tuple[str, int, int], TokenLabels]:
        """Token labels by leaf, picture and branch."""
        return {
            (name, place, number): self._key_labels(leaf, place, branch, tokens)
            for name, leaf in store.leaves.items()
            if leaf.has_tokens
            for place in range(self._request.pictures)
            for number, branch in enumerate(store.branches)
        }

    def _key_labels(self, leaf: Leaf, place: int, branch: str, tokens: Mapping[tuple[str, str], int]) -> TokenLabels:
        """Labels of all keys of a leaf: the text's tokens where the text is, none for patches."""
        count = tokens[leaf.layers[0], branch]
        labels = self._tokens(place, branch, count)
        if not isinstance(self._subject.capture.keys, str):
            asked = tokens[leaf.layers[0], "cond"]
            return only(labels, self.words(place, asked))
        segments = leaf.key_segments or ("text",) * leaf.keys
        room = segments.count("text")
        first = segments.index("text")
        return in_sequence(labels, first, room, leaf.keys)

    def _tokens(self, place: int, branch: str, keys: int) -> TokenLabels:
        request, negative = self._request, branch != "cond"
        text = (request.negatives if negative else request.prompts)[place]
        if (place, negative, keys) not in self._labelled:
            self._labelled[place, negative, keys] = label_tokens(
                self._subject.pipe,
                text,
                keys,
                request.arguments,
                negative=negative,
                picture=place,
                pictures=request.pictures,
            )
        return self._labelled[place, negative, keys]

    # In the writer's thread

    def _begin(self, store: Store) -> None:
        self._scribe = Scribe(store, self._rows)

    def _write(self, copied: Copied) -> None:
        if self._scribe is not None:
            self._scribe.write(copied)

    def _finish(
        self,
        store: Store,
        times: Mapping[str, Sequence[Any]],
        labels: Mapping[tuple[str, int, int], TokenLabels],
        pictures: Sequence[NDArray[np.uint8]],
        annotations: Sequence[Mapping[str, Any]],
    ) -> None:
        if self._scribe is not None:
            self._scribe.finish()
        check_present(store)
        for (name, place, number), label in labels.items():
            labelled = self._rows[place]
            if labelled is not None:
                store.write_tokens(
                    name,
                    labelled,
                    number,
                    tokens=label.tokens,
                    segments=label.segments,
                    starts=label.starts,
                    ends=label.ends,
                    chunks=label.chunks,
                )
        kept = store.t_labels
        for place, row in enumerate(self._rows):
            if row is None:
                continue
            store.write_clock(row, **{name: [values[call] for call in kept] for name, values in times.items()})
            self._write_pictures(store, row, pictures[place])
            if self._request.references is not None:
                store.write_reference(row, self._request.references[place])
            store.write_annotations(row, annotations[place])
        store.complete_runs([row for row in self._rows if row is not None], settle=self._settle)
        self.done = True
        self._scribe = None

    @staticmethod
    def _write_pictures(store: Store, row: int, made: NDArray[np.uint8]) -> None:
        if made.ndim == 4:
            store.write_video(row, made)
            made = made[len(made) // 2]
        store.write_image(row, made)

"""The recorder: runs a pipeline under observation and writes what its attention did into a store."""

import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

from torch import nn

from attlas.recorder.capture import Capture
from attlas.recorder.describe import describe
from attlas.recorder.destination import Target, name_of, open_matching, storing, text_room
from attlas.recorder.job import Annotate, Job
from attlas.recorder.ledger import check_role_holders, missing_runs, next_label
from attlas.recorder.models.inventory import Subject, compiles, select
from attlas.recorder.observe import Watch
from attlas.recorder.probe import Probe, changed, probe
from attlas.recorder.requests import Request, accepted_arguments, prepare
from attlas.recorder.sink import Sink
from attlas.recorder.take import Take
from attlas.recorder.vocabulary import embed
from attlas.schemas import Manifest, Store
from attlas.schemas.errors import AttlasError, InvalidValueError, NotRecordedError, ObservationError, StoreMismatchError
from attlas.schemas.vocabulary import Vocabulary

__all__ = ["Annotate", "Recorder"]

QUEUE_BYTES = 16 * 2**20
"""Copies on their way to the writer; the pipeline waits when there are more."""

_observed: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


class Recorder:
    """Context manager that records the calls which the user makes through it.

    Nothing of the pipeline is replaced, and its picture is bit-identical to the one without a recorder. Outside a
    call, and after the ``with``, the pipeline is as it was found. (A denoiser under `torch.compile` runs in smaller
    pieces while it is recorded, which its compiler may fuse otherwise: the last bits can differ there.)

    Parameters
    ----------
    pipe
        A diffusers pipeline. Calls of ``pipe`` itself are not recorded, only those of the recorder.
    path
        Folder of the store: a new one, or one with recordings of the same pipeline and capture, which is added to;
        or an open store. None keeps the store in memory.
    capture
        What to keep; ``Capture()`` by default.
    annotate
        Called as ``annotate(request, picture)`` after each picture (uint8 (rows, columns, RGB)); what it returns
        is stored with the run, over what the request gave under the same name.

    Raises
    ------
    CaptureError, UnknownNameError
        On entering, if the pipeline cannot be recorded so, or is being recorded already.
    StoreMismatchError, StoreExistsError, SchemaVersionError
        On entering, if `path` holds something that cannot be added to.
    ObservationError
        In a call, if attention computed unseen, was not finite, or could not be stored.

    Examples
    --------
    >>> from attlas.recorder import Capture, Recorder, load_pipeline
    >>> pipe = load_pipeline("demo:shapes")
    >>> with Recorder(pipe, "shapes.zarr", Capture(kinds="text")) as rec:
    ...     image = rec(prompt="a red disc", seed=1, num_inference_steps=2).images[0]
    >>> rec.store.run_ids, sorted(rec.store.leaves)
    (['0000'], ['text/16x16', 'text/4x4', 'text/8x8'])
    """

    def __init__(
        self,
        pipe: Any,
        path: Target = None,
        capture: Capture | None = None,
        *,
        annotate: Annotate | None = None,
    ) -> None:
        self._pipe = pipe
        self._path = path
        self._capture = capture or Capture()
        self._annotate = annotate
        self._store: Store | None = None
        self._subject: Subject | None = None
        self._manifest: Manifest | None = None
        self._sink: Sink | None = None
        self._jobs: list[Job] = []
        self._vocabulary: Vocabulary | None = None
        self._probe: Probe = {}

    def __enter__(self) -> Self:
        """Check all that can be checked before the pipeline runs."""
        if self._pipe is None:
            raise ObservationError("this recorder was left and let go of its pipeline; make a new one")
        subject = select(self._pipe, self._capture)
        if subject.denoiser in _observed:
            raise ObservationError(
                f"this {type(self._pipe).__name__} is being recorded already; leave the first Recorder before "
                "entering another"
            )
        self._open(subject)
        self._subject = subject
        _observed.add(subject.denoiser)
        return self

    def _open(self, subject: Subject) -> None:
        """Note what the pipeline is, and look what is at the path."""
        self._manifest = describe(self._pipe, self._capture, subject.kinds)
        self._probe = probe(self._pipe)
        self._store = open_matching(self._path, self._manifest)
        if self._capture.vocabulary is not None and self._store is None:
            self._vocabulary = embed(self._pipe, tuple(self._capture.vocabulary))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let go of the pipeline, and finish the store if it has one."""
        subject, self._subject, self._pipe, self._annotate = self._subject, None, None, None
        if subject is not None:
            _observed.discard(subject.denoiser)
        with ExitStack() as stack:
            stack.callback(self._stop)
            if error is None:
                self.flush()
        if self._store is None:
            return
        if error is None:
            with storing(self._path, "the end"):
                self._store.finish()
            return
        # The error that is on its way says more than a second one from the store would.
        with suppress(OSError, KeyError, AttlasError):
            self._store.finish()

    @property
    def store(self) -> Store:
        """The store; it exists once the first call has begun, or the path held one."""
        if self._store is None:
            raise NotRecordedError("nothing is recorded yet: call the recorder inside its 'with'")
        return self._store

    def __call__(
        self,
        *args: Any,
        seed: int | Sequence[int] | None = None,
        annotations: Any = None,
        id: str | None = None,  # noqa: A002 - the name of the key in a request
        **arguments: Any,
    ) -> Any:
        """Run the pipeline with these arguments, record it, and return its own output.

        Each picture of a batch becomes a run; its id is ``id``, or a running number, with ``-0``, ``-1``, ...
        appended where there are several.

        Parameters
        ----------
        args, arguments
            The pipeline's own.
        seed
            Makes the generator: one number for the batch, or a list with one for each picture. Without a seed or
            generator torch's global one is used, as the pipeline itself would.
        annotations
            Names and what to store with the run: masks of the picture's size, numbers, text; or any of them as an
            `Annotation`, with the role that it has in scores.
        id
            Label of the run.
        """
        subject = self._entered()
        given = {**dict(zip(accepted_arguments(self._pipe), args, strict=False)), **arguments}
        extra = {"seed": seed, "annotations": annotations, "id": id}
        request = {**given, **{key: value for key, value in extra.items() if value is not None}}
        prepared = prepare(subject, request, next_label(self._store))
        missing = self.unfinished([prepared])
        if not missing:
            raise StoreMismatchError(f"run {prepared.ids[0]!r} of {name_of(self._path)} is complete; choose another id")
        return self.run(*missing[0])

    def prepare(self, request: Mapping[str, Any], name: str) -> Request:
        """Check a request without running it; `name` is its id where it has none."""
        return prepare(self._entered(), request, name)

    def unfinished(self, requests: Iterable[Request]) -> list[tuple[Request, list[str]]]:
        """Find the requests that are not wholly in the store, each with the ids of the runs that it lacks."""
        requests = list(requests)
        if self._store is not None:
            self.flush()
        check_role_holders(self._store, requests)
        if self._store is None:
            return [(request, list(request.ids)) for request in requests]
        return missing_runs(self._store, requests)

    def run(
        self,
        request: Request,
        wanted: Collection[str],
        *,
        capacity: int = 1,
        wait: bool = True,
        ticked: Callable[[int], None] | None = None,
    ) -> Any:
        """Run a prepared request, record its runs `wanted`, and return the pipeline's output.

        `capacity` is the number of runs still to come; `ticked` is called after each denoiser call with the number
        of calls of the run. Without `wait`, the writer may still be at work on this run while the next one is made;
        `flush` waits for it.
        """
        subject, manifest = self._look_again()
        if self._sink is None or self._sink.stopped:
            self._sink = Sink(QUEUE_BYTES)
        job = Job(subject, manifest, self._path, self._store, self._sink, request, wanted, capacity, self._vocabulary)
        self._jobs = [*(other for other in self._jobs if not other.done), job]
        # Where words are kept, the store does not tell how long the text was that they stood in.
        whole = isinstance(self._capture.keys, str)
        places = None if self._store is None or not whole else text_room(self._store)
        take = Take(subject, request.arguments, request.pictures, job.words, places, job.open, ticked or _ignore)
        paths = {site.path for site in subject.sites}
        with ExitStack() as always, ExitStack() as failing:
            always.callback(take.forget)
            always.callback(self._keep_store, job)
            failing.callback(self._give_up, job)
            compiled = subject.compiled
            with ExitStack() as watching:
                for denoiser in subject.denoisers:
                    watch = Watch(denoiser, paths, take.note, begin=take.begin, end=take.end, compiled=compiled)
                    watching.enter_context(watch)
                # Whatever else goes wrong when hooks are traced is a consequence of it.
                watching.callback(_check_compiled, subject)
                output = subject.pipe(**request.pipeline_arguments())
            clock = take.check_finished()
            self._check_weights()
            try:
                job.complete(clock, take.tokens, output, self._annotate)
            except InvalidValueError:
                # A picture that cannot be stored is often a consequence: what the writer found wrong comes first.
                self._sink.drain()
                raise
            if wait:
                self._sink.drain()
            failing.pop_all()
        return output

    def flush(self) -> None:
        """Wait until everything that was recorded is in the store, and raise what went wrong on the way."""
        if self._sink is not None:
            self._sink.drain()

    def _give_up(self, job: Job) -> None:
        """Drop what is queued of a run that failed; earlier runs are still written, where the writer lives."""
        job.cancel()
        if self._sink is not None:
            self._sink.settle()
            if self._sink.stopped:
                self._stop()
        job.release()

    def _stop(self) -> None:
        """End the writer and give back the rows of runs that are not complete."""
        if self._sink is not None:
            self._sink.settle()
            self._sink.abort()
        self._sink = None
        for job in self._jobs:
            job.release()
        self._jobs = []

    def _keep_store(self, job: Job) -> None:
        self._store = job.store

    def _look_again(self) -> tuple[Subject, Manifest]:
        """Select anew, because anything of the pipeline may have been changed or replaced since the last call."""
        (held, manifest), pipe = self._begun(), self._pipe
        subject = select(pipe, self._capture)
        if subject.denoiser is not held.denoiser:
            if subject.denoiser in _observed:
                raise ObservationError(
                    f"the {subject.family.denoiser} that {type(pipe).__name__} now has is being recorded already; "
                    "leave the other Recorder first"
                )
            _observed.discard(held.denoiser)
            _observed.add(subject.denoiser)
        self._subject = subject
        weights = changed(self._probe, probe(pipe))
        now = describe(pipe, self._capture, subject.kinds, manifest.model_digest)
        lines = ([f"weights: {weights}"] if weights else []) + manifest.differences(now)
        if lines and self._store is not None:
            raise StoreMismatchError(
                f"{type(pipe).__name__} is not what it was when its recording began ({'; '.join(lines)}), and a store "
                "is of one model, sampler and capture: undo the change, or leave this Recorder and enter one with a "
                "store of its own"
            )
        if lines:
            # Nothing is recorded yet.
            self._open(subject)
        return self._begun()

    def _check_weights(self) -> None:
        """Say that weights were changed while they computed."""
        different = changed(self._probe, probe(self._pipe))
        if different:
            raise ObservationError(
                f"{different} after the run: weights were changed while they were recorded (by a callback, an adapter, "
                "or another thread); change them between two recordings"
            )

    def _entered(self) -> Subject:
        return self._begun()[0]

    def _begun(self) -> tuple[Subject, Manifest]:
        if self._subject is None or self._manifest is None:
            raise ObservationError(
                "the recorder records only inside its 'with': with Recorder(pipe, path) as rec: rec(...)"
            )
        return self._subject, self._manifest


def _check_compiled(subject: Subject) -> None:
    """Say that torch.compile came in while the denoiser was watched as one without it."""
    if compiles(subject.pipe, subject.family) != subject.compiled:
        raise ObservationError(
            f"the {subject.family.denoiser} was {'un' if subject.compiled else ''}compiled while it was recorded; "
            "compile it before the run"
        )


def _ignore(total: int) -> None:
    """Take no notice of a denoiser call."""

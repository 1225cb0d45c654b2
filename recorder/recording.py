"""The recorder: runs a pipeline under observation and writes what its attention did into a store."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

from attlas.recorder.capture import Capture
from attlas.recorder.claims import Claims
from attlas.recorder.destination import Target, storing, text_room
from attlas.recorder.job import Annotate, Job
from attlas.recorder.ledger import check_role_holders, next_label
from attlas.recorder.observe import Watch
from attlas.recorder.observed import Observed, check_compiled
from attlas.recorder.requests import Request, accepted_arguments, prepare
from attlas.recorder.sink import Sink
from attlas.recorder.take import Take
from attlas.recorder.vocabulary import embed
from attlas.schemas import Store
from attlas.schemas.errors import InvalidValueError, NotRecordedError, ObservationError, RunTakenError
from attlas.schemas.vocabulary import Vocabulary

__all__ = ["Annotate", "Recorder"]

QUEUE_BYTES = 16 * 2**20
"""Copies on their way to the writer; the pipeline waits when there are more."""


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
        Folder or URL (``s3://``, ``gs://``, ``az://``) of the store: a new one, or one with recordings of the same
        pipeline and capture, which is added to; or an open store. None keeps the store in memory.
    capture
        What to keep; ``Capture()`` by default.
    annotate
        Called as ``annotate(request, picture)`` after each picture (uint8 (rows, columns, RGB)); what it returns
        is stored with the run, over what the request gave under the same name.
    durable
        Whether a run is flushed to the disk of this machine before it counts as complete. Without it recording is
        faster on slow disks, and a loss of power may take runs that were called complete, or damage them.

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
        durable: bool = True,
    ) -> None:
        self._pipe = pipe
        self._path = path
        self._durable = durable
        self._capture = capture or Capture()
        self._annotate = annotate
        self._claims = Claims(path, durable=durable)
        self._observed: Observed | None = None
        self._sink: Sink | None = None
        self._jobs: list[Job] = []
        self._label: int | None = None
        self._unsaid: BaseException | None = None
        self._vocabulary: Vocabulary | None = None

    def __enter__(self) -> Self:
        """Check all that can be checked before the pipeline runs."""
        if self._pipe is None:
            raise ObservationError("this recorder was left and let go of its pipeline; make a new one")
        observed = Observed(self._pipe, self._capture)
        self._open(observed)
        observed.begin()
        self._observed = observed
        return self

    def _open(self, observed: Observed) -> None:
        """Look what is at the path."""
        self._claims.open(observed.manifest)
        if self._capture.vocabulary is not None and self._claims.store is None:
            self._vocabulary = embed(self._pipe, tuple(self._capture.vocabulary))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let go of the pipeline, and finish the store if it has one."""
        observed, self._observed, self._pipe, self._annotate = self._observed, None, None, None
        if observed is not None:
            observed.end()
        failed = error
        try:
            if error is None:
                self.drain()
            elif (unsaid := self._writer_error(error)) is not None:
                error.add_note(f"an earlier run was not stored, either: {unsaid}")
        except BaseException as err:
            failed = err
            raise
        finally:
            self._unsaid = None
            self._stop()
            self._claims.end(quietly=failed is not None)

    @property
    def store(self) -> Store:
        """The store; it exists once the first call has begun, or the path held one."""
        if self._claims.store is None:
            raise NotRecordedError("nothing is recorded yet: call the recorder inside its 'with'")
        return self._claims.store

    @property
    def found(self) -> Store | None:
        """The store, or None where it is not there yet."""
        return self._claims.store

    @property
    def far(self) -> bool:
        """Whether each look at the store is a request to a server."""
        return self._claims.far

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
        self._entered()
        given = {**dict(zip(accepted_arguments(self._pipe), args, strict=False)), **arguments}
        extra = {"seed": seed, "annotations": annotations, "id": id}
        request = {**given, **{key: value for key, value in extra.items() if value is not None}}
        prepared, wanted = self._claimed(request, numbered=id is None)
        output = self.run(prepared, wanted)
        self._label = None if self._label is None else self._label + 1
        return output

    def _claimed(self, request: Mapping[str, Any], *, numbered: bool) -> tuple[Request, list[str]]:
        """Prepare a request and claim its runs; one without an id of its own gets the next that is free."""
        if self._label is None:
            self._label = int(next_label(self._claims.store))
        while True:
            prepared = self.prepare(request, f"{self._label:04d}")
            check_role_holders(self._claims.store, [prepared])
            refused = self.claim([prepared])
            wanted = [run for run in prepared.ids if run not in refused]
            if wanted and all(error.why == "complete" for error in refused.values()):
                return prepared, wanted
            self._claims.give_back()
            if not numbered:
                raise next(iter(refused.values()))
            self._label += 1

    def prepare(self, request: Mapping[str, Any], name: str, *, read: bool = True) -> Request:
        """Check a request without running it; `name` is its id where it has none. See `prepare` of requests."""
        return prepare(self._entered().subject, request, name, read=read)

    def wait_for_store(self, waiting: Callable[[], None]) -> bool:
        """Return whether the store is there; if not, this recorder is to draw the first run.

        Of several recorders that begin a store together one makes it, in its first denoiser call. The others wait for
        it here, so that nothing is drawn twice; `waiting` is called meanwhile.
        """
        self._entered()
        return self._claims.wait(waiting)

    def claim(self, requests: Sequence[Request], capacity: int = 1) -> dict[str, RunTakenError]:
        """Claim the runs of prepared requests for this recorder, and say of each that cannot be had why.

        `capacity` is the number of runs still to come. Where the store is not there, the first run makes it, and
        nothing is refused.
        """
        self.wait_for_store(_nothing)
        return self._claims.claim([record for request in requests for record in request.records], capacity)

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

        Runs that `claim` did not get are claimed first. `capacity` is the number of runs still to come; `ticked` is
        called after each denoiser call with the number of calls of the run. Without `wait`, the writer may still be at
        work on this run while the next one is made; `flush` waits for it, and readers may see it only then.

        Raises
        ------
        RunTakenError
            If one of the runs cannot be had; nothing is drawn then, or in a new store one denoiser call.
        """
        observed = self._entered()
        if observed.look_again(stored=self._claims.store is not None):
            self._open(observed)
        subject = observed.subject
        if self._unsaid is not None or (self._sink is not None and self._sink.stopped):
            self.drain()
        self.wait_for_store(_nothing)
        rows = self._claims.take([record for record in request.records if record.run in wanted], capacity)
        sink = self._sink = self._sink or Sink(QUEUE_BYTES)
        job = Job(
            subject,
            observed.manifest,
            self._path,
            self._claims.store,
            sink,
            request,
            rows,
            capacity,
            self._vocabulary,
            self._claims.opened,
            durable=self._durable,
            settle=wait,
        )
        self._jobs = [*(other for other in self._jobs if not other.done), job]
        # Where words are kept, the store does not tell how long the text was that they stood in.
        whole = isinstance(self._capture.keys, str)
        places = None if self._claims.store is None or not whole else text_room(self._claims.store)
        take = Take(subject, request.arguments, request.pictures, job.words, places, job.open, ticked or _ignore)
        paths = {site.path for site in subject.sites}
        with ExitStack() as always, ExitStack() as failing:
            always.callback(self._keep_store, job)
            always.callback(take.forget)
            failing.push(partial(self._give_up, job))
            compiled = subject.compiled
            with ExitStack() as watching:
                for denoiser in subject.denoisers:
                    watch = Watch(denoiser, paths, take.note, begin=take.begin, end=take.end, compiled=compiled)
                    watching.enter_context(watch)
                # Whatever else goes wrong when hooks are traced is a consequence of it.
                watching.callback(check_compiled, subject)
                output = subject.pipe(**request.pipeline_arguments())
            clock = take.check_finished()
            observed.check_weights()
            try:
                job.complete(clock, take.tokens, output, self._annotate)
            except InvalidValueError:
                # A picture that cannot be stored is often a consequence: what the writer found wrong comes first.
                sink.drain()
                raise
            if wait:
                sink.drain()
            failing.pop_all()
        return output

    def flush(self) -> None:
        """Wait until everything that was recorded is in the store for all to see; raise what went wrong on the way."""
        self.drain()
        if self._claims.store is not None:
            with storing(self._path, "what is finished"):
                self._claims.store.settle()

    def drain(self) -> None:
        """Wait until the writer has nothing to do, and raise what went wrong."""
        unsaid, self._unsaid = self._unsaid, None
        if self._sink is not None:
            self._sink.settle()
            if self._sink.stopped:
                unsaid = unsaid or self._sink.error
                self._stop()
        if unsaid is not None:
            raise unsaid

    def _give_up(
        self, job: Job, _kind: type[BaseException] | None, error: BaseException | None, _traceback: object
    ) -> None:
        """Drop what is queued of a run that failed; earlier runs are still written, where the writer lives."""
        if error is None:
            return
        job.cancel()
        if self._sink is not None:
            self._sink.settle()
            if self._sink.stopped:
                self._unsaid = self._writer_error(error)
                self._stop()
        job.release()

    def _writer_error(self, on_its_way: BaseException) -> BaseException | None:
        """Return what went wrong in the writer, unless that is what is on its way to the caller."""
        found = self._unsaid
        if self._sink is not None and self._sink.stopped:
            found = found or self._sink.error
        error: BaseException | None = on_its_way
        while error is not None and error is not found:
            error = error.__cause__ or error.__context__
        return None if error is found else found

    def _stop(self) -> None:
        """End the writer and give back the rows of runs that are not complete."""
        if self._sink is not None:
            self._sink.settle()
            self._sink.abort()
        self._sink = None
        for job in self._jobs:
            job.release()
        self._jobs = []
        self._claims.end_first()
        self._claims.give_back()

    def _keep_store(self, job: Job) -> None:
        """Note the store that a run made, also where the run failed then."""
        if job.store is not None:
            self._claims.opened(job.store)
        self._claims.end_first()

    def _entered(self) -> Observed:
        if self._observed is None:
            raise ObservationError(
                "the recorder records only inside its 'with': with Recorder(pipe, path) as rec: rec(...)"
            )
        return self._observed


def _ignore(total: int) -> None:
    """Take no notice of a denoiser call."""


def _nothing() -> None:
    """Wait without a word."""

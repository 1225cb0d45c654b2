"""The recorder: runs a pipeline under observation and writes what its attention did into a store."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import nn

from attlas.recorder.capture import Capture
from attlas.recorder.describe import describe
from attlas.recorder.destination import open_matching, storing
from attlas.recorder.inventory import Subject, select
from attlas.recorder.job import Annotate, Job
from attlas.recorder.observe import Watch
from attlas.recorder.requests import Request, accepted_arguments, prepare
from attlas.recorder.take import Take
from attlas.schemas import Manifest, Store
from attlas.schemas.errors import AttlasError, NotRecordedError, ObservationError, StoreMismatchError

__all__ = ["Annotate", "Recorder"]

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
        Folder of the store: a new one, or one with recordings of the same pipeline and capture, which is added to.
        None keeps the store in memory.
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
    >>> pipe = load_pipeline("demo:shapes")  # doctest: +SKIP
    >>> with Recorder(pipe, "shapes.zarr", Capture()) as rec:  # doctest: +SKIP
    ...     image = rec(prompt="a red disc", seed=1).images[0]
    >>> rec.store.run_ids  # doctest: +SKIP
    ['0000']
    """

    def __init__(
        self,
        pipe: Any,
        path: str | Path | None = None,
        capture: Capture | None = None,
        *,
        annotate: Annotate | None = None,
    ) -> None:
        self._pipe = pipe
        self._path = None if path is None else str(path)
        self._capture = capture or Capture()
        self._annotate = annotate
        self._store: Store | None = None
        self._subject: Subject | None = None
        self._manifest: Manifest | None = None

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
        self._manifest = describe(self._pipe, self._capture, subject.kinds)
        self._store = open_matching(self._path, self._manifest)
        self._subject = subject
        _observed.add(subject.denoiser)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let go of the pipeline, and finish the store if it has one."""
        subject, self._subject, self._pipe, self._annotate = self._subject, None, None, None
        if subject is not None:
            _observed.discard(subject.denoiser)
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
            Names and arrays to store with the run: masks of the picture's size, numbers, text; see `Store`.
        id
            Label of the run.
        """
        subject = self._entered()
        given = {**dict(zip(accepted_arguments(self._pipe), args, strict=False)), **arguments}
        extra = {"seed": seed, "annotations": annotations, "id": id}
        request = {**given, **{key: value for key, value in extra.items() if value is not None}}
        return self.run(prepare(subject, request, self._next_id()))

    def prepare(self, request: Mapping[str, Any], name: str) -> Request:
        """Check a request without running it; `name` is its id where it has none."""
        return prepare(self._entered(), request, name)

    def unfinished(self, request: Request) -> list[str]:
        """Ids of the runs of `request` that the store does not hold complete.

        Raises
        ------
        StoreMismatchError
            If the store has a run of that id from another request.
        """
        if self._store is None:
            return list(request.ids)
        held = dict(zip(self._store.run_ids, self._store.complete, strict=True))
        texts = self._store.group["request"][...]
        for row, run in enumerate(self._store.run_ids):
            if run in request.ids and str(texts[row]) != request.text:
                raise StoreMismatchError(
                    f"run {run!r} of {self._path or 'the store in memory'} was recorded from another request; give "
                    f"this one another id\n  store {texts[row]}\n  got   {request.text}"
                )
        return [run for run in request.ids if not held.get(run, False)]

    def run(self, request: Request, *, capacity: int = 1, ticked: Callable[[int], None] | None = None) -> Any:
        """Run and record a prepared request.

        `capacity` is the number of runs still to come; `ticked` is called after each denoiser call with the number
        of calls of the run. Runs that are complete already are not written again.
        """
        subject = self._entered()
        wanted = self.unfinished(request)
        if not wanted:
            raise StoreMismatchError(
                f"run {request.ids[0]!r} of {self._path or 'the store'} is complete; choose another id"
            )
        job = Job(subject, self._named_manifest(), self._path, self._store, request, wanted, capacity)
        take = Take(subject, request.pictures, job.open, ticked or _ignore)
        with ExitStack() as stack:
            stack.callback(self._keep_store, job)
            stack.callback(job.release)
            stack.callback(take.forget)
            paths = {site.path for site in subject.sites}
            with Watch(subject.denoiser, paths, take.note, begin=take.begin, end=take.end):
                output = subject.pipe(**request.pipeline_arguments())
            job.complete(take.check_finished(), output, self._annotate)
        return output

    def _keep_store(self, job: Job) -> None:
        self._store = job.store

    def _entered(self) -> Subject:
        if self._subject is None:
            raise ObservationError(
                "the recorder records only inside its 'with': with Recorder(pipe, path) as rec: rec(...)"
            )
        return self._subject

    def _named_manifest(self) -> Manifest:
        if self._manifest is None:
            raise ObservationError("the recorder has no manifest outside its 'with'")
        return self._manifest

    def _next_id(self) -> str:
        """Return the first running number that no run has."""
        ids = [] if self._store is None else [run.split("-")[0] for run in self._store.run_ids if run]
        number = len(set(ids))
        while f"{number:04d}" in ids:
            number += 1
        return f"{number:04d}"


def _ignore(total: int) -> None:
    """Take no notice of a denoiser call."""

"""A pipeline that is being recorded: by one recorder at a time, and the same one from the first run to the last."""

import weakref
from typing import Any

from torch import nn

from attlas.recorder.capture import Capture
from attlas.recorder.describe import describe
from attlas.recorder.models.inventory import Subject, compiles, select
from attlas.recorder.probe import changed, probe
from attlas.schemas import Manifest
from attlas.schemas.errors import ObservationError, StoreMismatchError

__all__ = ["Observed", "check_compiled"]

_denoisers: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
"""Those that are being recorded."""


class Observed:
    """A pipeline between the beginning and the end of its recording.

    Attributes
    ----------
    pipe, capture
        What is recorded, and what of it.
    subject
        Its attention modules, as they were last looked at.
    manifest
        What recordings of it are made of.

    Raises
    ------
    CaptureError, UnknownNameError
        If it cannot be recorded so.
    ObservationError
        If it is being recorded already.
    """

    def __init__(self, pipe: Any, capture: Capture) -> None:
        self.pipe = pipe
        self.capture = capture
        self.subject = select(pipe, capture)
        if self.subject.denoiser in _denoisers:
            raise ObservationError(
                f"this {type(pipe).__name__} is being recorded already; leave the first Recorder before entering "
                "another"
            )
        self._describe()

    def _describe(self) -> None:
        self.manifest: Manifest = describe(self.pipe, self.capture, self.subject.kinds)
        self._probe = probe(self.pipe)

    def begin(self) -> None:
        """Keep other recorders away."""
        _denoisers.add(self.subject.denoiser)

    def end(self) -> None:
        """Let other recorders have it."""
        _denoisers.discard(self.subject.denoiser)

    def look_again(self, *, stored: bool) -> bool:
        """Select anew, because anything may have been changed or replaced; return whether it is another model.

        With `stored`, where runs of it are stored already, another model is an error.
        """
        held, self.subject = self.subject, select(self.pipe, self.capture)
        name = type(self.pipe).__name__
        if self.subject.denoiser is not held.denoiser:
            if self.subject.denoiser in _denoisers:
                denoiser, self.subject = self.subject.family.denoiser, held
                raise ObservationError(
                    f"the {denoiser} that {name} now has is being recorded already; leave the other Recorder first"
                )
            _denoisers.discard(held.denoiser)
            _denoisers.add(self.subject.denoiser)
        weights = changed(self._probe, probe(self.pipe))
        now = describe(self.pipe, self.capture, self.subject.kinds, self.manifest.model_digest)
        lines = ([f"weights: {weights}"] if weights else []) + self.manifest.differences(now)
        if lines and stored:
            raise StoreMismatchError(
                f"{name} is not what it was when its recording began ({'; '.join(lines)}), and a store is of one "
                "model, sampler and capture: undo the change, or leave this Recorder and enter one with a store of its "
                "own"
            )
        if lines:
            self._describe()
        return bool(lines)

    def check_weights(self) -> None:
        """Say that weights were changed while they computed."""
        different = changed(self._probe, probe(self.pipe))
        if different:
            raise ObservationError(
                f"{different} after the run: weights were changed while they were recorded (by a callback, an adapter, "
                "or another thread); change them between two recordings"
            )


def check_compiled(subject: Subject) -> None:
    """Say that torch.compile came in while the denoiser was watched as one without it."""
    if compiles(subject.pipe, subject.family) != subject.compiled:
        raise ObservationError(
            f"the {subject.family.denoiser} was {'un' if subject.compiled else ''}compiled while it was recorded; "
            "compile it before the run"
        )

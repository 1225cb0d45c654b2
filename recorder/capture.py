"""What the user wants of a pipeline: which attention, in what detail, in what encoding."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from attlas.schemas import DETAILS, ENCODINGS, KINDS, PRECISIONS
from attlas.schemas.errors import CaptureError, InvalidValueError, unknown_name

__all__ = ["Capture"]


@dataclass(frozen=True)
class Capture:
    """What a recording keeps. Checked when made; names are checked against a pipeline when recording begins.

    Parameters
    ----------
    kinds
        Which attention: any of ``text``, ``image``, ``self``, ``joint``; those that the pipeline does not have are
        left out, as long as one remains. None takes every cross-attention that it has (``text`` for Stable
        Diffusion, ``image`` for reference-guided ones).
    detail
        ``full`` keeps every call, head, query and key; ``summary`` only the means (about 20 times smaller).
    encoding
        ``dense`` stores ln of the attention, ``factors`` stores Q and K, ``both`` both; ``auto`` takes dense unless
        that needs more than 4 times the bytes of the factors.
    precision
        ``exact`` (float16), ``balanced`` or ``small``: attention within 1 or 4 % in both directions, in smaller stores.
    layers
        Shell patterns of module paths, such as ``"up_blocks.*"``; None takes all.
    steps
        Denoiser calls to keep, counted from 0: whole numbers, a `range` or a `slice`; None keeps all.
        The stored ``t`` carries the original call numbers.
    heads
        Head numbers to keep in every layer; None keeps all.
    keys
        Which keys of a softmax over text are kept: ``"all"``; ``"prompt"``, the text only, where text and picture share
        one softmax; or words, which every prompt must have. The attention to those that are kept is exact all the same.
    branches
        ``"all"``, or names of guidance branches such as ``("cond",)``.
    vocabulary
        Words that need be in no prompt. Their embeddings are stored, and text leaves keep their factors beside the
        dense attention, so that maps and head scores of these words can be computed after the run.

    Raises
    ------
    UnknownNameError
        If a name is not one of the accepted ones; close ones are proposed.
    InvalidValueError
        If a number is negative or given twice, or a selection is empty.

    Examples
    --------
    >>> Capture(kinds="text", layers="up_blocks.*", steps=slice(0, None, 5)).layers
    ('up_blocks.*',)
    >>> Capture(detail="ful")
    Traceback (most recent call last):
    ...
    attlas.schemas.errors.UnknownNameError: unknown detail 'ful'; did you mean 'full'? accepted: 'summary', 'full'
    """

    kinds: str | Iterable[str] | None = None
    detail: str = "full"
    encoding: str = "auto"
    precision: str = "exact"
    layers: str | Iterable[str] | None = None
    steps: Iterable[int] | slice | None = None
    heads: Iterable[int] | None = None
    keys: str | Iterable[str] = "all"
    branches: str | Iterable[str] = "all"
    vocabulary: Iterable[str] | None = None

    def __post_init__(self) -> None:
        for name, value, accepted in (
            ("detail", self.detail, DETAILS),
            ("encoding", self.encoding, ENCODINGS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in accepted:
                raise unknown_name(name, str(value), accepted)
        object.__setattr__(self, "kinds", _names("kinds", self.kinds))
        for kind in self.kinds or ():
            if kind not in KINDS:
                raise unknown_name("kind", kind, KINDS)
        object.__setattr__(self, "layers", _names("layers", self.layers))
        object.__setattr__(self, "heads", _numbers("heads", self.heads))
        if not isinstance(self.steps, slice):
            object.__setattr__(self, "steps", _numbers("steps", self.steps))
        if isinstance(self.keys, str) and self.keys not in ("all", "prompt"):
            raise unknown_name("keys", self.keys, ("all", "prompt"), where="for words give a list, such as ['cat']")
        if not isinstance(self.keys, str):
            object.__setattr__(self, "keys", _names("keys", self.keys))
        if self.vocabulary is not None:
            object.__setattr__(self, "vocabulary", _names("vocabulary", self.vocabulary))
            if self.detail != "full" or not isinstance(self.keys, str):
                raise CaptureError("a vocabulary needs Q of every call: record it with detail='full' and keys='all'")
        if self.branches != "all":
            object.__setattr__(self, "branches", _names("branches", self.branches))

    def calls(self, total: int) -> tuple[int, ...]:
        """Return the calls kept of a run with `total` denoiser calls, in order.

        Examples
        --------
        >>> Capture(steps=slice(None, None, 2)).calls(5)
        (0, 2, 4)
        """
        if self.steps is None:
            return tuple(range(total))
        if isinstance(self.steps, slice):
            kept = tuple(range(total)[self.steps])
            if not kept:
                raise CaptureError(f"steps {self.steps!r} selects none of the run's {total} denoiser calls")
            return kept
        kept = tuple(self.steps)
        if kept[-1] >= total:
            raise CaptureError(f"steps has call {kept[-1]}; the run has {total} denoiser calls, 0 to {total - 1}")
        return kept

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, for the manifest of a store.

        Examples
        --------
        >>> Capture(kinds=("text",), steps=range(2)).to_json()["steps"]
        [0, 1]
        """
        values = asdict(self)
        if isinstance(self.steps, slice):
            values["steps"] = {"start": self.steps.start, "stop": self.steps.stop, "step": self.steps.step}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _names(what: str, value: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """Give the names as a tuple; a single name may come bare."""
    if value is None:
        return None
    names = (value,) if isinstance(value, str) else tuple(value)
    if not names:
        raise InvalidValueError(f"{what} is empty; name at least one, or leave it out")
    for name in names:
        if not isinstance(name, str):
            raise InvalidValueError(f"{what} has {name!r}; names are text")
    return tuple(dict.fromkeys(names))


def _numbers(what: str, value: Iterable[int] | None) -> tuple[int, ...] | None:
    """Give the numbers as a rising tuple of plain ints."""
    if value is None:
        return None
    if isinstance(value, int | str):
        raise InvalidValueError(f"{what} is {value!r}; a list of whole numbers is needed")
    numbers = tuple(value)
    if not numbers:
        raise InvalidValueError(f"{what} is empty; give at least one number, or leave it out")
    for number in numbers:
        if isinstance(number, bool) or not hasattr(number, "__index__") or number < 0:
            raise InvalidValueError(f"{what} has {number!r}; whole numbers from 0 are accepted")
    if len(set(numbers)) < len(numbers):
        raise InvalidValueError(f"{what} names a number twice: {list(numbers)}")
    return tuple(sorted(int(number) for number in numbers))

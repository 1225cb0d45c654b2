"""Every error that attlas raises on purpose, and the words in which it does.

A message says what is wrong, what was got, what is accepted, where, and what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "AttlasError",
    "CaptureError",
    "CorruptDataError",
    "InvalidValueError",
    "NotRecordedError",
    "ObservationError",
    "RunTakenError",
    "SchemaVersionError",
    "StorageError",
    "StoreExistsError",
    "StoreInvalidError",
    "StoreMismatchError",
    "StoreNotFoundError",
    "UnknownNameError",
    "unknown_name",
]


class AttlasError(Exception):
    """Base of all errors that attlas raises; the command line shows it as one message and exits with 2."""


class InvalidValueError(AttlasError, ValueError):
    """A value is of the wrong shape, size, type or range."""


class UnknownNameError(AttlasError, ValueError):
    """A name (kind, layer pattern, word, direction, run, ...) that does not exist here."""


class CaptureError(AttlasError, ValueError):
    """A capture cannot be made of this pipeline, or selects nothing."""


class ObservationError(AttlasError, RuntimeError):
    """An attention module computed without being seen, or a recording cannot go on."""


class NotRecordedError(AttlasError, LookupError):
    """The store does not hold what is asked for (another kind, detail or encoding would)."""


class StoreNotFoundError(AttlasError, FileNotFoundError):
    """There is no attlas store at the path."""


class StoreExistsError(AttlasError, FileExistsError):
    """The path holds something that is not an attlas store; it is left untouched."""


class StoreMismatchError(AttlasError, ValueError):
    """The store at the path was made from another model, geometry or capture."""


class RunTakenError(StoreMismatchError):
    """The run cannot be had.

    ``why`` says what is in the way: it is ``complete``, from the same request; a living recorder is at work on it
    (``recording``); or its id is that of ``another request``.
    """

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why

    def __reduce__(self) -> tuple[type["RunTakenError"], tuple[str, str]]:
        """Travel between processes."""
        return type(self), (str(self), self.why)


class SchemaVersionError(AttlasError, ValueError):
    """The store was written by another attlas, whose schema this one does not read."""


class StorageError(AttlasError, OSError):
    """A disk, server or archive could not be read or written; ``errno`` is the system's number where it gave one."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        # With two arguments Python would make another class of it, by the number.
        super().__init__(message)
        self.errno = errno

    def __str__(self) -> str:
        """Say the message alone."""
        return str(self.args[0])


class CorruptDataError(AttlasError, ValueError):
    """A chunk of the store fails its checksum or cannot be decoded."""


class StoreInvalidError(AttlasError, ValueError):
    """The store breaks the schema; ``problems`` lists every problem found, not only the first."""

    def __init__(self, where: str, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in {where}:\n{lines}")


def unknown_name(what: str, got: str, accepted: Iterable[str], *, where: str = "") -> UnknownNameError:
    """Make an error for a name that is not among `accepted`, with the close ones first.

    Examples
    --------
    >>> print(unknown_name("direction", "g2", ["g2r", "r2g"]))
    unknown direction 'g2'; did you mean 'g2r'? accepted: 'g2r', 'r2g'
    """
    names = list(dict.fromkeys(accepted))
    close = get_close_matches(got, names, n=3, cutoff=0.5)
    place = f" in {where}" if where else ""
    hint = f"; did you mean {' or '.join(repr(name) for name in close)}?" if close else ";"
    shown = ", ".join(repr(name) for name in names[:12]) + (", ..." if len(names) > 12 else "")
    return UnknownNameError(f"unknown {what} {got!r}{place}{hint} accepted: {shown or 'nothing'}")

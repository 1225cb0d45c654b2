"""Notes of a run before it stands in the run table: who is at work on it, and all that is known of it at its end.

Notes lie beside the store, one small file each, written in one atomic act and with a checksum.
"""

import json
import zlib
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from attlas.schemas.errors import InvalidValueError

__all__ = ["LONGEST_ID", "Claim", "RunRecord", "check_run_id", "check_text", "from_note", "to_note"]

LONGEST_ID = 200
"""Characters that a run's label may have."""


@dataclass(frozen=True)
class Claim:
    """A writer's word that it is at work on a run."""

    run: str
    request: str
    writer: str


@dataclass
class RunRecord:
    """Everything of a run but its arrays and pictures: a row of the run table, its clock and its tokens.

    ``tokens`` has, by leaf, the columns of each branch; ``holds`` names pictures and annotations that the run has.
    """

    run: str
    seed: int = -1
    prompt: str = ""
    request: str = "{}"
    clock: dict[str, list[float]] = field(default_factory=dict)
    tokens: dict[str, dict[str, dict[str, list[Any]]]] = field(default_factory=dict)
    holds: list[str] = field(default_factory=list)


Entry = TypeVar("Entry", Claim, RunRecord)


def to_note(entry: Claim | RunRecord) -> bytes:
    """Return a note of one entry."""
    text = json.dumps(asdict(entry))
    return json.dumps({"crc32": zlib.crc32(text.encode()), "entry": text}).encode()


def from_note(kind: type[Entry], data: bytes) -> Entry | None:
    """Read a note; None where it is damaged, which is as if it were not there: the run is made again."""
    try:
        plain = json.loads(data)
        text = plain["entry"]
        if zlib.crc32(text.encode()) != plain["crc32"]:
            return None
        values = json.loads(text)
        return kind(**{own.name: values[own.name] for own in fields(kind)})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def check_run_id(run: str) -> None:
    """Refuse a label that no table, address or file can carry.

    Examples
    --------
    >>> check_run_id("cat 3/a")
    """
    if not run:
        raise InvalidValueError("a run needs a non-empty id")
    if len(run) > LONGEST_ID:
        raise InvalidValueError(f"the run id {run[:40]!r}... has {len(run)} characters; {LONGEST_ID} are the most")
    check_text(run, "run id")
    if not run.isprintable():
        strange = next(c for c in run if not c.isprintable())
        raise InvalidValueError(f"the run id {run!r} holds {strange!r}; letters, digits, signs and spaces are accepted")


def check_text(text: str, what: str) -> None:
    """Refuse text that is not Unicode: half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise InvalidValueError(f"the {what} {text!r} is no valid text: {err.reason} at {err.start}") from err

"""Every array of a store read run by run, each for itself: what one damaged file takes with it, and what not."""

import traceback
from dataclasses import dataclass, field
from pathlib import Path

import dask
from faults.evidence import Found, digest, variables

from attlas.analysis import open_trace
from attlas.schemas.errors import AttlasError

__all__ = ["Piecewise", "read_piecewise"]


@dataclass
class Piecewise:
    """What attlas gives of a store.

    Attributes
    ----------
    refused
        Whether opening the store raised an error of attlas.
    values
        Digest of each array of each run (label, array), and of each array without runs (``""``, array).
    errors
        Errors of attlas in the place of values.
    foreign
        Tracebacks of other exceptions.
    """

    refused: bool = False
    values: dict[tuple[str, str], str] = field(default_factory=dict)
    errors: dict[tuple[str, str], str] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)

    @property
    def compared(self) -> int:
        """Runs of which a value was read."""
        return len({label for label, _ in self.values if label})

    def problems(self, expected: Found, *, beside: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
        """Everything that is neither the right value nor an error of attlas; arrays `beside` may be anything."""
        found = [("foreign exception", text) for text in self.foreign[:3]]
        if self.refused:
            return found
        right = {("", name): value for name, value in expected.shared.items() if name != "rows"}
        right |= {(label, name): value for label, arrays in expected.runs.items() for name, value in arrays.items()}
        lines = []
        for place, value in right.items():
            if place[1] in beside or place in self.errors:
                continue
            got = self.values.get(place, "nothing, without a word")
            if got != value:
                lines.append(f"{place[1]} of run {place[0]!r}: {got}; undamaged {value}")
        lines += [f"{place[1]} of run {place[0]!r}: nobody recorded it" for place in self.values.keys() - right.keys()
                  if place[1] not in beside]  # fmt: skip
        if lines and not self.foreign:
            found.append(("wrong number", f"{len(lines)} arrays: {'; '.join(lines[:5])}"))
        return found


def read_piecewise(path: Path) -> Piecewise:
    """Read all that a trace of the store shows."""
    found = Piecewise()
    with dask.config.set(scheduler="synchronous"):
        try:
            tree = open_trace(path).tree
            labels = [str(label) for label in tree["run"].values]
        except AttlasError:
            found.refused = True
            return found
        except Exception as err:  # noqa: BLE001 - which it may be is the question
            found.foreign.append(f"opening raised {_told(err)}")
            found.refused = True
            return found
        for name, variable in variables(tree):
            runs = variable.dims[:1] == ("run",)
            for row, label in enumerate(labels) if runs else ((None, ""),):
                try:
                    found.values[label, name] = digest((variable if row is None else variable[row]).values)
                except AttlasError as err:
                    found.errors[label, name] = str(err)
                except Exception as err:  # noqa: BLE001 - which it may be is the question
                    found.foreign.append(f"reading {name} of run {label!r} raised {_told(err)}")
    return found


def _told(err: BaseException) -> str:
    return "".join(traceback.format_exception(err))[-2500:]

"""Everything that must hold after a fault: what is complete is right, and the same call again makes the rest."""

import traceback
from dataclasses import dataclass, field
from pathlib import Path

from faults.evidence import Found, differences, read_plain, read_with_attlas
from faults.scenarios import STORE
from faults.undisturbed import Undisturbed, digests

from attlas.schemas import open_store, validate_store
from attlas.schemas.errors import StoreNotFoundError

__all__ = ["Aftermath"]


@dataclass
class Aftermath:
    """Looks at the store below `folder`, in a process of its own.

    Attributes
    ----------
    runs
        Runs that were compared with the undisturbed ones, value by value.
    problems
        Kind (of `outcome.KINDS`) and description of everything that is not as promised.
    """

    reference: Undisturbed
    folder: Path
    runs: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.folder / STORE

    def at_once(self, *, finished: bool) -> None:
        """Complete runs are there and right, for attlas and for plain xarray; all of them where success was said."""
        try:
            readings = [("attlas", read_with_attlas(self.path, shared=False), self.reference.attlas)]
            readings.append(("plain xarray", read_plain(self.path, shared=False), self.reference.plain))
        except StoreNotFoundError:
            if self.reference.kept or finished:
                self._add("loss", "after the fault there is no store")
            return
        except Exception as err:  # noqa: BLE001 - which it may be is the question
            self._add("loss", f"after the fault a reader fails: {_told(err)}")
            return
        for name, found, expected in readings:
            self.runs += len(found.runs)
            lost = self.reference.kept - found.runs.keys()
            if lost:
                self._add("loss", f"{name}: runs {sorted(lost)} were complete before the fault")
            lacking = expected.runs.keys() - found.runs.keys()
            if finished and lacking:
                self._add("loss", f"{name}: success was said, and runs {sorted(lacking)} are not complete")
            lines = differences(found, expected, self.reference.plain.held)
            if lines:
                self._add("wrong number", f"{name}, after the fault, {len(lines)} arrays: {'; '.join(lines[:5])}")

    def resume(self) -> None:
        """Make the same call again."""
        try:
            self.reference.scenario.call(self.path)
        except Exception as err:  # noqa: BLE001 - which it may be is the question
            self._add("not resumed", _told(err))

    def at_the_end(self) -> None:
        """The store equals one that was never disturbed, and nothing is left over."""
        try:
            found = digests(self.folder)
            self._compare_files(found)
            if found == self.reference.files:
                # What readers find follows from the bytes of the files, and moments, which opening checks.
                open_store(self.path)
                self.runs += len(self.reference.plain.runs)
            else:
                self._compare_arrays()
        except Exception as err:  # noqa: BLE001 - which it may be is the question
            self._add("loss", f"after resuming a reader fails: {_told(err)}")

    def _compare_files(self, found: dict[str, str]) -> None:
        extra = sorted(found.keys() - self.reference.files.keys())
        missing = sorted(self.reference.files.keys() - found.keys())
        if extra:
            self._add("left over", f"{len(extra)} files: {', '.join(extra[:5])}")
        if missing:
            self._add("differs", f"{len(missing)} files are missing: {', '.join(missing[:5])}")

    def _compare_arrays(self) -> None:
        """Look at every value: rows may be in another order than those of the undisturbed store."""
        readings: list[tuple[str, Found, Found]] = [
            ("attlas", read_with_attlas(self.path), self.reference.attlas),
            ("plain xarray", read_plain(self.path), self.reference.plain),
        ]
        for name, seen, expected in readings:
            self.runs += len(seen.runs)
            lines = differences(seen, expected)
            if lines:
                self._add("differs", f"{name}, after resuming, {len(lines)} arrays: {'; '.join(lines[:5])}")
        listed = validate_store(self.path, deep=True)
        if listed:
            self._add("not valid", f"after resuming, {len(listed)} problems: {'; '.join(listed[:5])}")

    def _add(self, kind: str, text: str) -> None:
        self.problems.append((kind, text))


def _told(err: BaseException) -> str:
    return "".join(traceback.format_exception(err))[-3000:]

"""How runs enter the run table: claimed, noted when they are finished, and made visible by whoever has the turn.

A finished run is noted beside the store in one atomic act, without waiting for anybody. Whoever has the turn next puts
all noted runs into the columns and sets their flags last: so a writer may die at any moment, and two never meet.
"""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.schemas.errors import RunTakenError, StorageError, StoreNotFoundError
from attlas.schemas.growth import add_nodes, grow, purge, show, shrink, swap_nodes
from attlas.schemas.notes import Notes
from attlas.schemas.records import Claim, RunRecord
from attlas.schemas.root import ROOT, Nodes, read_root
from attlas.schemas.snapshot import Snapshot
from attlas.schemas.variables import LEAF_VARIABLES, ROOT_VARIABLES

__all__ = ["Commits"]

ENTER_SECONDS = 1.0
"""Seconds between two writings of the run table while runs follow each other quickly."""

COLUMNS = ("seed", "prompt", "request", "holds", "run")
CLOCK = ("step", "timestep", "sigma")
TOKENS = tuple(name for name, variable in LEAF_VARIABLES.items() if variable.group == "tokens")


class Commits:
    """The writing side of one open store.

    Attributes
    ----------
    snapshot
        The store as this writer last saw it.
    notes
        What writers note beside it.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.notes = Notes(snapshot.storage)
        self._complete: NDArray[np.bool_] = np.zeros(0, bool)
        self._rows: dict[str, int] = {}
        self._begun: dict[str, int] = {}
        self._held: set[int] = set()
        self._dropped: set[int] = set()
        self._entered = -math.inf

    @contextmanager
    def turn(self, *, wait: bool = True, enter: bool = True) -> Iterator[bool]:
        """Be the only writer inside the ``with``, and see what the others did.

        With `enter`, all runs that are noted as finished are put into the run table.
        """
        with self.notes.turn(wait=wait) as mine:
            if mine:
                self._refresh()
                if enter:
                    self._enter(self.notes.finished())
                    self._entered = time.monotonic()
            yield mine

    def take(self, runs: Sequence[RunRecord], capacity: int) -> list[int | RunTakenError]:
        """Claim a row for each run; an error in its place says why one cannot be had."""
        with self.turn(enter=False):
            finished = self.notes.finished()
            claims = {claim.run: (row, claim) for row, claim in self.notes.claims().items()}
            free = self._free({*finished, *(row for row, _ in claims.values())})
            if any(record.run == run.run for record in finished.values() for run in runs):
                self._enter(finished)
            before = set(self._held)
            try:
                return [self._take(run, capacity - place, claims, free) for place, run in enumerate(runs)]
            except BaseException:
                # Whoever asked has none of them.
                for row in self._held - before:
                    self._held.discard(row)
                    with suppress(StorageError):
                        self.notes.drop(row)
                raise

    def holds(self, row: int) -> bool:
        """Whether this writer claimed the row."""
        return row in self._held

    def commit(self, records: Mapping[int, RunRecord], *, wait: bool, settle: bool) -> None:
        """Note runs as finished, once all that they stored is on disk, and put them into the run table.

        Without `wait` that is left to another writer where it has the turn; without `settle`, to the next run where
        runs follow each other quickly: the table is written in blocks, for one run as for many.
        """
        self.snapshot.storage.flush()
        for row, record in records.items():
            self.notes.finish(row, record)
        self._held -= set(records)
        if settle or time.monotonic() - self._entered > ENTER_SECONDS:
            # Taking the turn does all that is noted.
            with self.turn(wait=wait):
                pass

    def drop(self, row: int) -> None:
        """Give a row up, and remove what was stored there."""
        if row in self._held:
            # First, so that nobody takes a run for finished whose data goes.
            self.notes.unfinish(row)
            purge(self.snapshot, row)
            self.notes.drop(row)
            self._held.discard(row)
            self._dropped.add(row)

    def add(self, nodes: Nodes) -> None:
        """Add arrays and groups that are not there yet; the caller has the turn."""
        new = {path: node for path, node in nodes.items() if path not in self.snapshot.doc.nodes}
        if new:
            self.snapshot = add_nodes(self.snapshot, new)

    def swap(self, nodes: Nodes, gone: Iterable[str], fill: Callable[[Snapshot], None]) -> None:
        """Add arrays and groups in place of the groups `gone`; see `swap_nodes`."""
        self.snapshot = swap_nodes(self.snapshot, nodes, gone, fill)

    def finish(self) -> None:
        """Leave no spare room, and remove what dead writers left, where no other writer lives."""
        with self.turn():
            if self.notes.alone:
                for row, claim in self.notes.claims().items():
                    if row not in self._held and not self.notes.lives(claim):
                        purge(self.snapshot, row)
                        self.notes.drop(row)
                        self._dropped.add(row)
                if not self._held:
                    self._forget_labels()
                    rows = max([self._last, *self._begun.values()]) + 1
                    self.snapshot = shrink(self.snapshot, rows, _now())
                    self._complete = self._complete[:rows]
        self.tidy()

    def _forget_labels(self) -> None:
        """Take labels out of rows that were given up."""
        gone = {label: row for label, row in self._begun.items() if row in self._dropped}
        if gone:
            self.snapshot.wide.table.write("run", dict.fromkeys(gone.values(), ""), self._complete)
            self.snapshot.storage.flush()
            self._begun = {label: row for label, row in self._begun.items() if label not in gone}
        self._dropped.clear()

    def discard(self) -> bool:
        """Remove the store where it has no run and no other writer lives; return whether it is gone."""
        with self.turn():
            if self._complete.any() or self._begun or self._held or not self.notes.alone:
                return False
            self.notes.begin_store(self._remove)
            self.notes.tidy()
        return True

    def _remove(self) -> None:
        """Remove the root document first: what is left of a store without it is nobody's."""
        self.snapshot.storage.delete(ROOT)
        self.snapshot.storage.clear()

    def tidy(self) -> None:
        """Remove the notes where nobody is at work."""
        if not self._held:
            with self.notes.turn():
                self.notes.tidy()
            self.notes.leave()

    def give_back(self, rows: Sequence[int]) -> None:
        """Take runs out of those that readers see, and remove what they stored; their labels keep their rows."""
        with self.turn():
            self._complete[list(rows)] = False
            self.snapshot.wide.table.write("complete", dict.fromkeys(rows, False), self._complete)
            self.snapshot.storage.flush()
            for row in rows:
                purge(self.snapshot, row)
            given = set(rows)
            self._begun |= {label: row for label, row in self._rows.items() if row in given}
            self._rows = {label: row for label, row in self._rows.items() if row not in given}

    def _take(
        self, run: RunRecord, capacity: int, claims: dict[str, tuple[int, Claim]], free: Iterator[int]
    ) -> int | RunTakenError:
        where = self.snapshot.storage.url
        if run.run in self._rows:
            return self._complete_already(run)
        row, claim = claims.get(run.run, (None, None))
        if claim is not None and (row in self._held or self.notes.lives(claim)):
            same = claim.request == run.request
            text = f"run {run.run!r} of {where} is being recorded by another recorder"
            return RunTakenError(
                text if same else f"{text}, from another request; give this one another id",
                "recording" if same else "another request",
            )
        if row is None:
            row = self._begun.get(run.run)
        if row is not None:
            # What was stored there is of an attempt that ended: pictures and annotations may be others.
            purge(self.snapshot, row)
        else:
            row = next(free)
        if row >= self.snapshot.doc.room:
            self._grow(row + 1, capacity)
        self._held.add(row)
        claims[run.run] = row, self.notes.claim(row, run.run, run.request)
        return row

    def _complete_already(self, run: RunRecord) -> RunTakenError:
        where = self.snapshot.storage.url
        stored = str(self.snapshot.wide.read("request", self._rows[run.run]))
        if stored != run.request:
            return RunTakenError(
                f"run {run.run!r} of {where} was recorded from another request; give this one another id\n"
                f"  store {stored}\n  got   {run.request}",
                "another request",
            )
        return RunTakenError(f"run {run.run!r} of {where} is complete; choose another id", "complete")

    def _free(self, claimed: set[int]) -> Iterator[int]:
        """Give rows that nothing is in and nobody is at work on, lowest first."""
        taken = claimed | set(self._begun.values())
        rows = len(self._complete)
        for row in itertools.chain(np.flatnonzero(~self._complete).tolist(), itertools.count(rows)):
            if row not in taken:
                yield row

    @property
    def _last(self) -> int:
        """Row of the last complete run; -1 where there is none."""
        rows = np.flatnonzero(self._complete)
        return int(rows[-1]) if len(rows) else -1

    def _grow(self, needed: int, capacity: int) -> None:
        self.snapshot = grow(self.snapshot, needed, capacity)
        self._complete = np.append(self._complete, np.zeros(self.snapshot.doc.room - len(self._complete), bool))

    def _refresh(self) -> None:
        """See what others did."""
        data = read_root(self.snapshot.storage)
        if data is None:
            raise StoreNotFoundError(f"{self.snapshot.storage.url} is gone: it was moved or removed while it was open")
        if data != self.snapshot.data:
            self.snapshot = self.snapshot.renewed(data)
        self._see_table()

    def _see_table(self) -> None:
        """Read the blocks in which runs may have been completed since, those that are not visible yet too."""
        wide = self.snapshot.wide
        rows = wide.doc.rows
        known = self._complete[:rows]
        self._complete = np.append(known, np.zeros(rows - len(known), bool))
        block = wide.array("complete").chunks[0]
        for start in range(0, rows, block):
            part = slice(start, min(start + block, rows))
            if self._complete[part].all():
                continue
            seen = wide.table.complete(part)
            if start < len(known) and np.array_equal(seen, self._complete[part]):
                continue
            self._complete[part] = seen
            labels = wide.table.column("run", seen, part)
            for row, label in enumerate(labels, start):
                if label:
                    (self._rows if self._complete[row] else self._begun)[str(label)] = row
        for label in self._rows.keys() & self._begun.keys():
            del self._begun[label]

    def _enter(self, finished: Mapping[int, RunRecord]) -> None:
        """Put finished runs into the run table: first what is known of them, then their flags, then the run axis."""
        new = {row: run for row, run in finished.items() if row < len(self._complete) and not self._complete[row]}
        last = max([self._last, *new])
        if new:
            table, storage = self.snapshot.wide.table, self.snapshot.storage
            columns = self._columns(new)
            # Rows of others that come into sight, so that who looked then knows the label of what is completed later.
            claims = self.notes.claims().items()
            others = {row: claim.run for row, claim in claims if row < last and not self._complete[row]}
            columns["run"] = others | columns["run"]
            for name, entries in columns.items():
                table.write(name, entries, self._complete)
            storage.flush()
            table.write("complete", dict.fromkeys(new, True), self._complete)
            storage.flush()
            self._begun |= {label: row for row, label in others.items() if row not in new}
            for row, run in new.items():
                self._complete[row] = True
                self._rows[run.run] = row
                self._begun.pop(run.run, None)
        if last >= self.snapshot.doc.rows:
            self.snapshot = show(self.snapshot, last + 1)
        for row in finished:
            self.notes.forget(row)

    def _columns(self, runs: Mapping[int, RunRecord]) -> dict[str, dict[int, Any]]:
        """Entries of every column by row; the label last, so that no row has one alone."""
        columns: dict[str, dict[int, Any]] = {}
        for name, leaf in self.snapshot.leaves.items():
            if leaf.has_tokens:
                for column in TOKENS:
                    variable = LEAF_VARIABLES[column]
                    shape = (len(self.snapshot.branches), leaf.keys)
                    columns[f"{name}/{column}"] = {
                        row: _tokens(run.tokens.get(name, {}), column, variable.fill, shape)
                        for row, run in runs.items()
                    }
        for name in CLOCK:
            fill = ROOT_VARIABLES[name].fill
            columns[name] = {row: run.clock.get(name, fill) for row, run in runs.items()}
        told = {row: {**vars(run), "holds": _listed(run.holds)} for row, run in runs.items()}
        return columns | {name: {row: entry[name] for row, entry in told.items()} for name in COLUMNS}


def _tokens(branches: Mapping[str, Mapping[str, Any]], column: str, fill: Any, shape: tuple[int, int]) -> NDArray[Any]:
    made = np.full(shape, fill, dtype=object if isinstance(fill, str) else "i4")
    for branch, columns in branches.items():
        made[int(branch)] = columns[column]
    return made


def _listed(names: Sequence[str]) -> str:
    return json.dumps(sorted(names))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

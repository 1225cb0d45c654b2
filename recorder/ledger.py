"""Which runs a store has, which a call wants, and whether requests go together."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from attlas.recorder.requests import Draft, Request
from attlas.schemas import Store
from attlas.schemas.annotations import check_roles, roles_of
from attlas.schemas.errors import InvalidValueError, StoreMismatchError

__all__ = ["Asked", "Held", "check_ids", "check_role_holders", "missing_runs", "next_label"]


class Held:
    """The complete runs of a store at one moment: ids are read once, the texts of requests where they are asked for.

    Parameters
    ----------
    store
        None holds nothing.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._complete: NDArray[np.bool_] = np.zeros(0, bool) if store is None else store.complete
        labels = () if store is None else store.run_ids
        self._rows = {run: row for row, run in enumerate(labels) if self._complete[row]}
        # Requests most often come in the order of their rows.
        self._block = lru_cache(maxsize=4)(self._read_block)

    def missing(self, ids: Iterable[str], text: str | None) -> list[str]:
        """Return the ids that are not complete; complete ones must be of the request with this text, where it is known.

        Raises
        ------
        StoreMismatchError
            If the store has a run of such an id from another request.
        """
        wanted = []
        for run in ids:
            if run not in self._rows:
                wanted.append(run)
            elif text is not None and (held := self._text(self._rows[run])) != text:
                raise StoreMismatchError(
                    f"run {run!r} of {self._where} was recorded from another request; give this one another id\n"
                    f"  store {held}\n  got   {text}"
                )
        return wanted

    @property
    def _where(self) -> str:
        return "the store in memory" if self._store is None else self._store.path or "the store in memory"

    def _text(self, row: int) -> str:
        size = self._rows_in_block()
        return self._block(row // size)[row % size]

    def _rows_in_block(self) -> int:
        return 1 if self._store is None else int(self._store.snapshot.array("request").chunks[0])

    def _read_block(self, number: int) -> Sequence[str]:
        if self._store is None:
            return ()
        size = self._rows_in_block()
        part = slice(number * size, min((number + 1) * size, len(self._complete)))
        return [str(text) for text in self._store.snapshot.table.column("request", self._complete[part], part)]


class Asked:
    """The runs that a call asks for, each once, with annotations whose roles fit together.

    Parameters
    ----------
    store
        Where they are to go; its annotations have roles too.

    Attributes
    ----------
    runs
        Ids, in order; of each whether it was not complete when it was asked for.
    """

    def __init__(self, store: Store | None) -> None:
        self.runs: dict[str, bool] = {}
        self._roles = {} if store is None else roles_of(store.group)
        self._where = "these requests" if store is None else store.path or "the store in memory"

    def add(self, request: Draft, held: Held) -> list[str]:
        """Take a request in, or refuse it; return its runs that are not complete."""
        self.add_runs(request.ids)
        self.add_roles(request.roles)
        lacking = held.missing(request.ids, None if request.files else request.text)
        self.runs.update(dict.fromkeys(lacking, True))
        return lacking

    def add_runs(self, ids: Iterable[str]) -> None:
        """Raise where two requests have the same id."""
        for run in ids:
            if run in self.runs:
                raise InvalidValueError(f"two requests have the id {run!r}; each run needs its own")
            self.runs[run] = False

    def add_roles(self, roles: Iterable[Mapping[str, str | None]]) -> None:
        """Raise where a role would have two annotations in the store, or an annotation two roles."""
        for own in roles:
            new = {name: role for name, role in own.items() if name not in self._roles or self._roles[name] != role}
            if new:
                check_roles(new, self._roles, self._where)
                self._roles |= new


def missing_runs(store: Store, requests: Iterable[Request]) -> list[tuple[Request, list[str]]]:
    """Find the requests that are not wholly in `store`, each with the ids of the runs that it lacks.

    Raises
    ------
    StoreMismatchError
        If the store has a run of such an id from another request.
    """
    held = Held(store)
    found = ((request, held.missing(request.ids, request.text)) for request in requests)
    return [(request, wanted) for request, wanted in found if wanted]


def next_label(store: Store | None) -> str:
    """Return the first running number that no run has."""
    used = set() if store is None else {run.split("-")[0] for run in store.run_ids if run}
    number = len(used)
    while f"{number:04d}" in used:
        number += 1
    return f"{number:04d}"


def check_ids(prepared: Iterable[Request]) -> None:
    """Raise where two requests have the same id."""
    asked = Asked(None)
    for request in prepared:
        asked.add_runs(request.ids)


def check_role_holders(store: Store | None, prepared: Iterable[Request]) -> None:
    """Raise where a role would have two annotations in the store, or an annotation two roles."""
    asked = Asked(store)
    for request in prepared:
        asked.add_roles(request.draft.roles)

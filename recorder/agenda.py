"""What a call of `record` has before it: its requests in their order, checked, and which are still to be drawn."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attlas.recorder.ledger import Asked, Held
from attlas.recorder.requests import Draft
from attlas.schemas import Store
from attlas.schemas.errors import InvalidValueError

__all__ = ["Agenda", "Item"]

ROOM = 1024
"""Most runs for which a store makes room at once."""


@dataclass(frozen=True)
class Item:
    """A request as it was given, with the id that it has if it has none of its own, and its place among all."""

    place: int
    name: str
    given: Mapping[str, Any]


class Agenda:
    """The requests of a call.

    A list is looked through before the first request is drawn, an iterator as it goes. Nothing of a request is held
    but the ids of its runs.

    Parameters
    ----------
    requests
        As they were given.
    drafts
        Checks requests one by one.
    store
        Where they are to go; None where there is no store yet.

    Attributes
    ----------
    listed
        Whether all requests are known and checked.
    asked
        Every run, and the roles of annotations.
    requests
        Requests that are not wholly in the store at the beginning; None where nobody knows.
    runs
        Runs that are still to come: of a list, those that the store lacked less those that were made since.

    Raises
    ------
    UnknownNameError, InvalidValueError
        If a request is wrong, two have the same id, or there are none.
    StoreMismatchError
        If the store has a run of the same id from another request.
    """

    def __init__(
        self,
        requests: Iterable[Mapping[str, Any]],
        drafts: Callable[[Iterable[Item]], Iterable[Draft]],
        store: Store | None,
    ) -> None:
        if isinstance(requests, Mapping | str):
            raise InvalidValueError(f"requests is {type(requests).__name__}; a list of dictionaries is needed")
        self._given = requests
        self._drafts = drafts
        self._held = Held(store)
        self.listed = isinstance(requests, Sequence)
        self.asked = Asked(store)
        self.requests: int | None = None
        self.runs = 1
        self._skip = bytearray()
        self._unread: list[int] = []
        if isinstance(requests, Sequence):
            self._look_through(requests)

    def _look_through(self, requests: Sequence[Mapping[str, Any]]) -> None:
        # Most often many more runs than a call asks for; of no use any more when all have been looked up.
        held, self._held = self._held, Held(None)
        self._skip = bytearray(len(requests))
        self.requests = self.runs = 0
        for place, draft in enumerate(self._drafts(_items(requests))):
            lacking = self.asked.add(draft, held)
            self._skip[place] = not lacking
            self.requests += bool(lacking)
            self.runs += len(lacking)
            if draft.files and len(lacking) < len(draft.ids):
                self._unread.append(place)
        if not self.asked.runs:
            raise InvalidValueError("there are no requests; give at least one")

    def __iter__(self) -> Iterator[Item]:
        """Give what is to be drawn, in order: of a list, what the store lacked; else everything."""
        item = None
        for item in _items(self._given):
            if not self.listed or not self._skip[item.place]:
                yield item
        if item is None:
            raise InvalidValueError("there are no requests; give at least one")

    @property
    def unread(self) -> Iterator[Item]:
        """Requests that were complete at the beginning, but whose files were not compared with what was recorded."""
        if isinstance(self._given, Sequence):
            for place in self._unread:
                yield Item(place, _name(place), self._given[place])

    def admit(self, draft: Draft) -> Sequence[str]:
        """Check a request of an iterator against those before it; return the runs that were not complete at first."""
        if self.listed:
            return draft.ids
        return self.asked.add(draft, self._held)

    def made(self, runs: Iterable[str]) -> None:
        """Count runs that no longer have to be made."""
        if self.listed:
            self.runs -= sum(self.asked.runs[run] for run in runs)

    @property
    def capacity(self) -> int:
        """Runs for which a store makes room when it grows."""
        return max(1, min(self.runs, ROOM))


def _items(requests: Iterable[Mapping[str, Any]]) -> Iterator[Item]:
    return (Item(place, _name(place), given) for place, given in enumerate(requests))


def _name(place: int) -> str:
    return f"{place:04d}"

"""Which runs a store has: what is complete, what is missing, which label is free."""

from collections.abc import Iterable

from attlas.recorder.requests import Request
from attlas.schemas import Store
from attlas.schemas.annotations import check_roles, roles_of
from attlas.schemas.errors import InvalidValueError, StoreMismatchError

__all__ = ["check_ids", "check_role_holders", "missing_runs", "next_label"]


def missing_runs(store: Store, requests: Iterable[Request]) -> list[tuple[Request, list[str]]]:
    """Find the requests that are not wholly in `store`, each with the ids of the runs that it lacks.

    Raises
    ------
    StoreMismatchError
        If the store has a run of such an id from another request.
    """
    texts = (str(text) for text in store.column("request"))
    held = dict(zip(store.run_ids, zip(store.complete, texts, strict=True), strict=True))
    missing = []
    for request in requests:
        for run in request.ids:
            if run in held and held[run][0] and held[run][1] != request.text:
                raise StoreMismatchError(
                    f"run {run!r} of {store.path or 'the store in memory'} was recorded from another request; give "
                    f"this one another id\n  store {held[run][1]}\n  got   {request.text}"
                )
        wanted = [run for run in request.ids if run not in held or not held[run][0]]
        if wanted:
            missing.append((request, wanted))
    return missing


def next_label(store: Store | None) -> str:
    """Return the first running number that no run has."""
    used = set() if store is None else {run.split("-")[0] for run in store.run_ids if run}
    number = len(used)
    while f"{number:04d}" in used:
        number += 1
    return f"{number:04d}"


def check_ids(prepared: Iterable[Request]) -> None:
    """Raise where two requests have the same id."""
    seen: set[str] = set()
    for request in prepared:
        for run in request.ids:
            if run in seen:
                raise InvalidValueError(f"two requests have the id {run!r}; each run needs its own")
            seen.add(run)


def check_role_holders(store: Store | None, prepared: Iterable[Request]) -> None:
    """Raise where a role would have two annotations in the store, or an annotation two roles."""
    held = {} if store is None else roles_of(store.group)
    where = "these requests" if store is None else store.path or "the store in memory"
    for request in prepared:
        for annotations in request.annotations:
            roles = {name: own.role for name, own in annotations.items()}
            check_roles(roles, held, where)
            held |= roles

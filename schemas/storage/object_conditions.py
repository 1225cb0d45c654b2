"""Writes that depend on what is there: the states of an object, and whether a server keeps to such conditions."""

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attlas.schemas.errors import StorageError

if TYPE_CHECKING:
    from attlas.schemas.storage.object_storage import ObjectStorage

__all__ = ["UnconditionalError", "Version", "check_conditions"]


@dataclass(frozen=True)
class Version:
    """An object in one state: its bytes, what identifies the state, and the server's time when it was written."""

    data: bytes
    e_tag: str | None
    version: str | None
    written: float | None

    def mode(self) -> dict[str, str]:
        """Return the state as obstore asks for it."""
        return {name: told for name in ("e_tag", "version") if (told := getattr(self, name)) is not None}


class UnconditionalError(StorageError):
    """The server says that it knows no conditional writes."""


_PROVED: set[Any] = set()


def check_conditions(storage: "ObjectStorage") -> None:
    """Find out, once, whether the server keeps to the conditions of a write; some take no notice of them."""
    if storage.server in _PROVED:
        return
    try:
        keeps = _keeps_conditions(storage.hurried())
    except UnconditionalError:
        keeps = False
    except StorageError:
        # In no hurry then; if it fails again, the error says why.
        keeps = _keeps_conditions(storage)
    if not keeps:
        raise StorageError(
            f"writing to {storage.url} failed: this server takes no notice of the conditions of a write "
            "(If-None-Match, If-Match), which keep two writers apart; record into a local folder and copy that there"
        )
    _PROVED.add(storage.server)


def _keeps_conditions(storage: "ObjectStorage") -> bool:
    key = f"probe/{uuid.uuid4().hex}"
    try:
        _, first = storage.put_if(key, uuid.uuid4().bytes, None)
        again, _ = storage.put_if(key, uuid.uuid4().bytes, None)
        if again or first is None:
            return False
        changed, _ = storage.put_if(key, uuid.uuid4().bytes, first)
        stale, _ = storage.put_if(key, uuid.uuid4().bytes, first)
        return changed and not stale
    finally:
        storage.delete(key)

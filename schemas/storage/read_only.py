"""Places that are read and never written."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from attlas.schemas.errors import StorageError
from attlas.schemas.storage.base import Coordinator, Data, Storage

__all__ = ["ReadOnlyStorage"]

INSTEAD = "record into a local folder or into s3://, gs:// or az://"


class ReadOnlyStorage(Storage):
    """A storage that refuses to be written, and whose writers are nobody."""

    writable = False
    why = "it is only read"
    """What a message says of it."""

    def put(self, key: str, data: Data, *, sync: bool = True) -> None:  # noqa: ARG002 - all are refused
        """Refuse."""
        raise self._refused(f"writing {key} of")

    def delete(self, key: str) -> None:
        """Refuse."""
        raise self._refused(f"removing {key} of")

    def clear(self) -> None:
        """Refuse."""
        raise self._refused("removing")

    def coordinator(self) -> Coordinator:
        """Make turns that nobody gets."""
        return _Nobody(lambda: self._refused("writing to"))

    def _refused(self, doing: str) -> StorageError:
        return StorageError(f"{doing} {self.url} failed: {self.why}; {INSTEAD}")


class _Nobody(Coordinator):
    def __init__(self, refused: Callable[[], StorageError]) -> None:
        self._refused = refused

    def turn(self, *, wait: bool = True) -> AbstractContextManager[bool]:  # noqa: ARG002 - nobody gets it
        raise self._refused()

    def join(self) -> str:
        raise self._refused()

    def leave(self, name: str) -> None:
        pass

    def alive(self, name: str) -> bool:  # noqa: ARG002 - nobody does
        return False

    def others(self, name: str) -> bool:  # noqa: ARG002 - nobody does
        return False

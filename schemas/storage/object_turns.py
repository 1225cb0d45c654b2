"""How writers of a store in an object store take turns: by objects that change only from the state that was read.

``lock`` says who has the turn. Who has it, and every writer, gives signs of life; one that gave none for the time of
its lease, by the server's own clock, is dead, and so is one whose process has ended on this machine.
"""

import json
import random
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from attlas.schemas.errors import StorageError
from attlas.schemas.storage.base import Coordinator
from attlas.schemas.storage.object_conditions import Version, check_conditions
from attlas.schemas.storage.process import has_ended, this_process

if TYPE_CHECKING:
    from attlas.schemas.storage.object_storage import ObjectStorage

__all__ = ["LEASE", "Fence", "ObjectTurns"]

LEASE = 60.0
"""Seconds without a sign of life after which a writer counts as dead."""

LOCK = "lock"
WRITERS = "writers/"
POLLS = (0.02, 0.5)
"""Seconds between two looks at the lock: at first, and at most."""

SETTLE = 1.0
"""Seconds that a turn is left to a process that has ended: what it sent last may still arrive."""

GRAIN = 1.0
"""Seconds by which a server's times may be rounded."""


class Fence:
    """Stops writes of a process that stood still for so long that another may have its turn."""

    def __init__(self) -> None:
        self._turns: weakref.WeakSet[ObjectTurns] = weakref.WeakSet()

    def watch(self, turns: "ObjectTurns") -> None:
        """Look after a turn that begins."""
        self._turns.add(turns)

    def forget(self, turns: "ObjectTurns") -> None:
        """Leave a turn that ends."""
        self._turns.discard(turns)

    def check(self) -> None:
        """Raise `StorageError` where a turn was lost."""
        for turns in tuple(self._turns):
            turns.confirm()

    @contextmanager
    def clearing(self, url: str) -> Iterator[None]:
        """Let go of turns whose lock lies at `url`, where everything is removed inside the ``with``."""
        with ExitStack() as stack:
            for turns in tuple(self._turns):
                if turns.url == url:
                    stack.enter_context(turns.letting_go())
            yield


class ObjectTurns(Coordinator):
    """Turns of the writers of one store.

    Parameters
    ----------
    storage
        Where the objects are.
    lease
        Seconds without a sign of life after which this writer may be taken for dead.
    fence
        Asked before every write.
    """

    def __init__(self, storage: "ObjectStorage", lease: float, fence: Fence) -> None:
        self._storage = storage
        self.url = storage.url
        self._lease = lease
        self._fence = fence
        self._thread = threading.RLock()
        self._inside = False
        self._state = threading.RLock()
        self._held: Version | None = None
        self._free: Version | None = None
        self._renewed = 0.0
        self._lost = False
        self._joined: set[str] = set()
        self._heart: weakref.finalize[Any, ObjectTurns] | None = None
        self._ahead: float | None = None
        self._ended: dict[bytes, float] = {}

    @contextmanager
    def turn(self, *, wait: bool = True) -> Iterator[bool]:
        """Have the lock; among threads of this process, a lock of their own comes first."""
        if not self._thread.acquire(blocking=wait):
            yield False
            return
        try:
            if self._inside:
                yield True
                return
            if not self._acquire(wait):
                yield False
                return
            self._inside = True
            try:
                yield True
            except BaseException:
                self._release()
                raise
            if self._release():
                raise self._stood_still()
        finally:
            self._thread.release()

    def _acquire(self, wait: bool) -> bool:
        check_conditions(self._storage)
        pause, longest = POLLS
        # Most often nobody came in between, and the lock is as this writer left it.
        seen = self._free or self._storage.read(LOCK)
        while True:
            if self._vacant(seen):
                began = _now()
                won, seen = self._storage.put_if(LOCK, self._note(), seen)
                if won:
                    with self._state:
                        self._held, self._renewed, self._lost = seen, began, False
                    self._fence.watch(self)
                    self._live()
                    return True
            elif not wait:
                return False
            else:
                time.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(1.5 * pause, longest)
                seen = self._storage.read(LOCK)

    def _release(self) -> bool:
        """Free the lock; return whether another may have had it in between."""
        self._inside = False
        self._fence.forget(self)
        with self._state:
            held, self._held, self._free = self._held, None, None
            lapsed = self._lost or _now() - self._renewed > self._lease
            if held is None:
                return False
            try:
                won, seen = self._storage.put_if(LOCK, self._note(free=True), held)
            except StorageError:
                # The lease ends it.
                return lapsed
            if won:
                self._free = seen
            # Within the lease nobody takes it; but once it is free another may, before the answer is read.
            return lapsed and not won

    def _vacant(self, seen: Version | None) -> bool:
        if seen is None:
            return True
        told = _told(seen)
        return "free" in told or self._dead(seen, told, settle=SETTLE)

    def _dead(self, seen: Version, told: dict[str, Any], *, settle: float) -> bool:
        if has_ended(told.get("process")):
            since = self._ended.setdefault(seen.data, _now())
            if _now() - since >= settle:
                return True
        lease = told.get("lease")
        lease = float(lease) if isinstance(lease, int | float) else self._lease
        return seen.written is not None and self._server_time() - seen.written > lease + GRAIN

    def join(self) -> str:
        """Register under the turn, so that nobody who tidies up overlooks it."""
        name = uuid.uuid4().hex
        with self.turn():
            self._storage.put(WRITERS + name, self._note())
            self._joined.add(name)
        self._live()
        return name

    def leave(self, name: str) -> None:
        """Take the writer's object away."""
        with self._state:
            self._joined.discard(name)
            self._storage.delete(WRITERS + name)

    def alive(self, name: str) -> bool:
        """Whether it gave a sign of life within its lease."""
        if name in self._joined:
            return True
        seen = self._storage.read(WRITERS + name) if name.isalnum() else None
        return seen is not None and not self._dead(seen, _told(seen), settle=0)

    def others(self, name: str) -> bool:
        """Whether any other did."""
        found = [key.removeprefix(WRITERS) for key in self._storage.keys(WRITERS)]
        return any(self.alive(other) for other in found if other != name)

    def confirm(self) -> None:
        """Raise where the turn was lost; renew it where it is old."""
        with self._state:
            if self._held is not None and _now() - self._renewed > self._lease / 2:
                self._renew()
            if self._held is not None and (self._lost or _now() - self._renewed > self._lease):
                raise self._stood_still()

    @contextmanager
    def letting_go(self) -> Iterator[None]:
        """Have no lock any more when the ``with`` ends, in which it is removed."""
        with self._state:
            yield
            self._held = self._free = None

    def give_sign(self) -> None:
        """Say that this process lives, for all that it holds."""
        with self._state:
            if self._held is not None and not self._lost:
                self._renew()
        for name in tuple(self._joined):
            with self._state:
                if name in self._joined:
                    self._storage.put(WRITERS + name, self._note())

    def _renew(self) -> None:
        began = _now()
        won, seen = self._storage.put_if(LOCK, self._note(), self._held)
        if won:
            self._held, self._renewed = seen, began
        else:
            self._lost = True

    def _live(self) -> None:
        """Have signs of life given as long as this object is there."""
        if self._heart is None:
            stop = threading.Event()
            args = (weakref.ref(self), stop, self._lease / 6)
            thread = threading.Thread(target=_beat, args=args, name="attlas sign of life", daemon=True)
            self._heart = weakref.finalize(self, _end, stop, thread)
            thread.start()

    def _note(self, *, free: bool = False) -> bytes:
        """Say who writes; no two notes are alike."""
        told: dict[str, Any] = {"lease": self._lease, "process": this_process(), "note": uuid.uuid4().hex}
        return json.dumps({**told, "free": True} if free else told).encode()

    def _server_time(self) -> float:
        """Return the server's time, by how far it was ahead of this machine's."""
        if self._ahead is None:
            key = f"clock/{uuid.uuid4().hex}"
            before = _now()
            self._storage.put(key, b"")
            after = _now()
            seen = self._storage.read(key)
            self._storage.delete(key)
            if seen is None or seen.written is None:
                raise StorageError(f"{self._storage.url} lost {key} within a second; its server keeps nothing")
            self._ahead = seen.written - (before + after) / 2
        return _now() + self._ahead

    def _stood_still(self) -> StorageError:
        return StorageError(
            f"writing to {self._storage.url} stopped: this process stood still, or reached no server, for more than "
            f"{self._lease:g} s, and another writer may have taken its turn; what it had not committed is made again "
            "by the next recording (a longer lease is set by ATTLAS_LEASE_SECONDS)"
        )


def _beat(turns: "weakref.ref[ObjectTurns]", stop: threading.Event, pause: float) -> None:
    while not stop.wait(pause):
        living = turns()
        if living is None:
            return
        try:
            living.give_sign()
        except StorageError:
            # The next sign may arrive; if none does, others will take over.
            continue
        finally:
            del living


def _end(stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    if thread is not threading.current_thread():
        # A thread that is inside a request while Python ends would take the process down.
        thread.join(5)


def _told(seen: Version) -> dict[str, Any]:
    try:
        told = json.loads(seen.data)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _now() -> float:
    """Return seconds that go on while the machine sleeps, where the system counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()

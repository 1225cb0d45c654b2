"""Bytes in a folder: whole or not at all, and flushed to disk on request."""

import errno
import os
import shutil
import stat
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from attlas.schemas.errors import StorageError
from attlas.schemas.storage.base import Coordinator, Data, Storage

__all__ = ["RECORDING", "LocalStorage"]

RECORDING = ".recording"
"""Suffix of the folder beside a store in which its writers keep drafts and notes."""

DRAFTS = "drafts"

LOCK = "lock"

LARGEST = 2**31
"""Bytes that are read at once at most: a store has no larger chunk."""

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalStorage(Storage):
    """A folder. Files are written as drafts beside the store and moved to their place when they are whole.

    Parameters
    ----------
    folder
        The root; it need not be there.
    durable
        Whether ``sync`` and `flush` wait for the disk.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        # A link is followed once, so that drafts lie on the disk of what it points to.
        self._root = folder.parent.resolve() / folder.name if not folder.is_symlink() else folder.resolve()
        self.folder = folder
        self.url = str(folder)
        self.writable = True
        self._durable = durable
        own = self._root.name.endswith(RECORDING)
        self._drafts = (self._root if own else self._root.with_name(self._root.name + RECORDING)) / DRAFTS
        self._unsynced: set[Path] = set()
        self._lock = threading.Lock()

    def get(self, key: str, start: int | None = None, length: int | None = None) -> bytes | None:
        """Return the bytes of a regular file; anything else that stands there is an error, and is not waited for."""
        try:
            # Without blocking: a fifo would wait for a writer that never comes.
            descriptor = os.open(self._root / key, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except _ABSENT:
            return None
        except OSError as err:
            raise self._error("reading", key, err) from err
        told = os.fstat(descriptor)
        if stat.S_ISDIR(told.st_mode):
            os.close(descriptor)
            return None
        try:
            with open(descriptor, "rb", buffering=0) as file:
                if not stat.S_ISREG(told.st_mode):
                    raise StorageError(f"reading {key} of {self.url} failed: it is no regular file")
                first = 0 if start is None else max(0, told.st_size + start if start < 0 else start)
                wanted = max(0, told.st_size - first) if length is None else length
                if wanted > LARGEST:
                    raise StorageError(
                        f"reading {key} of {self.url} failed: it has {told.st_size} bytes; no file of a store has more "
                        f"than {LARGEST}"
                    )
                file.seek(first)
                parts = []
                while wanted > 0 and (part := file.read(wanted)):
                    parts.append(part)
                    wanted -= len(part)
                return parts[0] if len(parts) == 1 else b"".join(parts)
        except OSError as err:
            if isinstance(err, StorageError):
                raise
            raise self._error("reading", key, err) from err

    def put(self, key: str, data: Data, *, sync: bool = True) -> None:
        """Write a draft and move it to its place."""
        target = self._root / key
        draft = self._drafts / uuid.uuid4().hex
        try:
            try:
                self._write(draft, data, sync)
                made = self._move(draft, target)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        except OSError as err:
            raise self._error("writing", key, err) from err
        if sync:
            self._sync([*made, target.parent])
        else:
            with self._lock:
                self._unsynced.update((target, target.parent, *made))

    def _write(self, draft: Path, data: Data, sync: bool) -> None:
        try:
            file = draft.open("xb", buffering=0)
        except FileNotFoundError:
            self._drafts.mkdir(parents=True, exist_ok=True)
            file = draft.open("xb", buffering=0)
        with file:
            view = memoryview(data).cast("B")
            while len(view):
                view = view[file.write(view) :]
            if sync and self._durable:
                os.fsync(file.fileno())

    def _move(self, draft: Path, target: Path) -> list[Path]:
        """Move a draft to its place; return folders that have a new folder in them."""
        try:
            draft.replace(target)
        except FileNotFoundError:
            missing = [folder for folder in target.parents if not folder.exists()]
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(target)
            return [folder.parent for folder in missing]
        return []

    def delete(self, key: str) -> None:
        """Remove a file."""
        try:
            (self._root / key).unlink()
        except _ABSENT:
            return
        except OSError as err:
            raise self._error("removing", key, err) from err

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Give files; what is still a draft is none."""
        folder, _, start = prefix.rpartition("/")
        yield from self._below(self._root / folder if folder else self._root, folder + "/" if folder else "", start)

    def _below(self, folder: Path, path: str, start: str) -> Iterator[str]:
        try:
            with os.scandir(folder) as found:
                entries = [entry for entry in found if entry.name.startswith(start)]
        except _ABSENT:
            return
        except OSError as err:
            raise self._error("listing", path or ".", err) from err
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield path + entry.name
            elif Path(entry.path) != self._drafts:
                yield from self._below(Path(entry.path), f"{path}{entry.name}/", "")

    def children(self, prefix: str = "") -> list[str]:
        """Give the names in a folder."""
        try:
            return sorted(own.name for own in os.scandir(self._root / prefix))
        except _ABSENT:
            return []
        except OSError as err:
            raise self._error("listing", prefix, err) from err

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as a folder."""
        return (partial(LocalStorage, durable=self._durable), (self.folder,))

    def size(self, key: str) -> int | None:
        """Return the size of a file."""
        try:
            told = os.stat(self._root / key)
        except _ABSENT:
            return None
        except OSError as err:
            raise self._error("reading", key, err) from err
        return told.st_size if stat.S_ISREG(told.st_mode) else None

    def flush(self) -> None:
        """Write files and the folders that name them to disk."""
        with self._lock:
            waiting, self._unsynced = self._unsynced, set()
        folders = {path for path in waiting if path.is_dir()}
        self._sync([*sorted(waiting - folders), *sorted(folders)])

    def _sync(self, paths: list[Path]) -> None:
        if not self._durable:
            return
        for path in paths:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except _ABSENT:
                continue
            except OSError as err:
                raise self._error("flushing", str(path), err) from err
            try:
                os.fsync(descriptor)
            except OSError as err:
                raise self._error("flushing", str(path), err) from err
            finally:
                os.close(descriptor)

    def free(self) -> int | None:
        """Return what the disk has left."""
        there = next((folder for folder in (self._root, *self._root.parents) if folder.exists()), None)
        return None if there is None else shutil.disk_usage(there).free

    def beside(self, suffix: str) -> "LocalStorage":
        """Return the folder of that name in the same folder."""
        return LocalStorage(self._root.with_name(self._root.name + suffix), durable=self._durable)

    def coordinator(self) -> Coordinator:
        """Make locks that the operating system drops when their process dies."""
        return _FileLocks(self._root)

    def clear(self) -> None:
        """Remove the folder, its lock last: until then nobody else makes anything there that could go with it."""
        try:
            with os.scandir(self._root) as found:
                entries = sorted(found, key=lambda entry: entry.name == LOCK)
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
            self._root.rmdir()
        except FileNotFoundError:
            return
        except OSError as err:
            # Another writer waited for the lock, and is there now.
            if err.errno != errno.ENOTEMPTY:
                raise self._error("removing", "everything", err) from err

    def _error(self, doing: str, key: str, err: OSError) -> StorageError:
        return StorageError(f"{doing} {key} of {self.url} failed: {err.strerror or err}", err.errno)


class _FileLocks(Coordinator):
    """Locks of files, which end with the process that holds them, whatever killed it."""

    POLL = 0.005
    """Seconds between two tries for the turn."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers = folder / "writers"
        self._turn = FileLock(folder / LOCK, thread_local=False)
        self._thread = threading.RLock()
        self._joined: dict[str, FileLock] = {}

    @contextmanager
    def turn(self, *, wait: bool = True) -> Iterator[bool]:
        if not self._thread.acquire(blocking=wait):
            yield False
            return
        try:
            if not self._acquire(wait):
                yield False
                return
            try:
                yield True
            finally:
                self._turn.release()
        finally:
            self._thread.release()

    def _acquire(self, wait: bool) -> bool:
        while True:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._turn.acquire(timeout=-1 if wait else 0, poll_interval=self.POLL)
            except Timeout:
                return False
            except (FileNotFoundError, FileExistsError) as err:
                if self._folder.exists() and not self._folder.is_dir():
                    raise StorageError(f"locking {self._folder} failed: it is no folder", err.errno) from err
                # Another writer ended and took the folder away in between.
                continue
            except OSError as err:
                raise StorageError(f"locking {self._folder} failed: {err.strerror or err}", err.errno) from err
            return True

    def join(self) -> str:
        name = uuid.uuid4().hex
        lock = FileLock(self._writers / f"{name}.lock", thread_local=False)
        with _in_words("writing to", self._writers):
            self._writers.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        self._joined[name] = lock
        return name

    def leave(self, name: str) -> None:
        lock = self._joined.pop(name, None)
        if lock is not None:
            self._end(lock)

    def alive(self, name: str) -> bool:
        if name in self._joined:
            return True
        path = self._writers / f"{name}.lock"
        if not name.isalnum() or not path.exists():
            return False
        lock = FileLock(path, thread_local=False)
        with _in_words("reading", path):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return True
        self._end(lock)
        return False

    def others(self, name: str) -> bool:
        with _in_words("reading", self._writers):
            writers = [path.stem for path in self._writers.glob("*.lock") if path.stem != name]
        return any(self.alive(writer) for writer in writers)

    @staticmethod
    def _end(lock: FileLock) -> None:
        path = Path(lock.lock_file)
        try:
            with _in_words("removing", path):
                path.unlink(missing_ok=True)
        finally:
            lock.release()


@contextmanager
def _in_words(doing: str, path: Path) -> Iterator[None]:
    """Turn what the system says into an error of ours; a lock that another holds is none."""
    try:
        yield
    except Timeout:
        raise
    except OSError as err:
        raise StorageError(f"{doing} {path} failed: {err.strerror or err}", err.errno) from err

"""Where a recording goes: a store that is there and fits, or a new one."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from zarr.abc.store import Store as Backend

from attlas.schemas import Leaf, Manifest, Store, create_store, leaf_names, open_store
from attlas.schemas.errors import (
    AttlasError,
    InvalidValueError,
    ObservationError,
    StorageError,
    StoreExistsError,
    StoreMismatchError,
    StoreNotFoundError,
)
from attlas.schemas.notes import Notes
from attlas.schemas.root import ROOT
from attlas.schemas.storage import open_storage
from attlas.schemas.vocabulary import Vocabulary

__all__ = [
    "Target",
    "check_geometry",
    "check_present",
    "make_store",
    "name_of",
    "open_matching",
    "storing",
    "text_room",
]

Target: TypeAlias = str | Path | Backend | Store | None
"""Folder of a store, an empty zarr store that nobody else writes to, an open store, or None for memory."""


@contextmanager
def storing(path: Target, what: str) -> Iterator[None]:
    """Turn an error of the disk into one that says what it means for the recording."""
    try:
        yield
    except (StorageError, StoreNotFoundError) as err:
        raise _failed(path, what, err) from err
    except AttlasError:
        raise
    except OSError as err:
        raise _failed(path, what, err) from err


def _failed(path: Target, what: str, err: Exception) -> ObservationError:
    if isinstance(path, str | Path) and _gone(path):
        return ObservationError(f"the store {path} vanished while {what} was recorded; record again")
    return ObservationError(
        f"writing {what} to {name_of(path)} failed: {err}; complete runs there are intact: mend the cause and record "
        "again, it goes on where it stopped"
    )


def _gone(path: str | Path) -> bool:
    """Whether no store is at a place that can be read."""
    try:
        return open_storage(path).size(ROOT) is None
    except StorageError:
        return False


def open_matching(path: Target, manifest: Manifest, *, durable: bool = True) -> Store | None:
    """Open the store at `path` if one is there, and check that `manifest` may be recorded into it.

    `durable` says whether writing waits for the disk.

    Raises
    ------
    StoreExistsError, SchemaVersionError, StoreInvalidError
        If what is there is no store that can be used.
    StoreMismatchError
        If it was made from another model, sampler or capture.
    """
    if isinstance(path, Store):
        _check_manifest(path, manifest)
        return path
    if not isinstance(path, str | Path):
        return None
    storage = open_storage(path, durable=durable)
    if not storage.writable:
        raise InvalidValueError(
            f"{path} can only be read; a recording needs a folder or an object store (s3://, gs://, az://)"
        )
    if storage.size(ROOT) is None:
        if storage.folder is not None:
            _check_parent(storage.folder)
        if storage.folder is None or not storage.folder.exists() or Notes(storage).half_made:
            return None
    store = open_store(path, durable=durable)
    _check_manifest(store, manifest)
    return store


def make_store(
    path: Target,
    manifest: Manifest,
    leaves: tuple[Leaf, ...],
    branches: tuple[str, ...],
    kept: tuple[int, ...],
    image_shape: tuple[int, int],
    reference_shape: tuple[int, int] | None,
    frames: int | None,
    vocabulary: Vocabulary | None,
    fill: Callable[[Store], None],
    *,
    durable: bool = True,
) -> Store:
    """Create the store; of two recorders that begin at once the second finds the first's.

    `fill` puts in what belongs to no run, before anybody can see the store.
    """
    if isinstance(path, Store):
        return path
    try:
        return create_store(
            path,
            manifest,
            leaves,
            branches,
            len(kept),
            image_shape,
            reference_shape,
            t_labels=kept,
            frames=frames,
            vocabulary=vocabulary,
            fill=fill,
            durable=durable,
        )
    except StoreExistsError:
        if not isinstance(path, str | Path):
            raise
    store = open_store(path, durable=durable)
    _check_manifest(store, manifest)
    return store


def check_geometry(
    store: Store,
    leaves: tuple[Leaf, ...],
    branches: tuple[str, ...],
    kept: tuple[int, ...],
    image_shape: tuple[int, int],
    reference_shape: tuple[int, int] | None,
    frames: int | None,
) -> None:
    """Check that a run of this geometry fits into `store`; every difference is named at once."""
    different = []
    pairs = {
        "calls": (store.t_labels, kept),
        "branches": (store.branches, branches),
        "picture size": (store.image_shape, image_shape),
        "reference size": (store.reference_shape, reference_shape),
        "frames of the video": (store.frames, frames),
    }
    for what, (held, got) in pairs.items():
        if held != got:
            different.append(f"{what}: store has {_short(held)}, got {_short(got)}")
    new = dict(zip(leaf_names(leaves), leaves, strict=True))
    for name in sorted(new.keys() | store.leaves.keys()):
        if name not in new or name not in store.leaves:
            different.append(f"leaf {name}: only in {'this run' if name in new else 'the store'}")
        elif new[name] != store.leaves[name]:
            fields = [f for f in vars(new[name]) if getattr(new[name], f) != getattr(store.leaves[name], f)]
            different.append(f"leaf {name}: {', '.join(fields)} differ")
    if different:
        raise StoreMismatchError(_mismatch(store, different))


def text_room(store: Store) -> int | None:
    """Places for text tokens that the leaves of `store` have; None where it has no text."""
    rooms = [
        (leaf.key_segments or ("text",) * leaf.keys).count("text") for leaf in store.leaves.values() if leaf.has_tokens
    ]
    return max(rooms, default=None)


def name_of(path: Target) -> str:
    """How messages call a place."""
    folder = path.path if isinstance(path, Store) else path
    return str(folder) if isinstance(folder, str | Path) else "the store in memory"


def check_present(store: Store) -> None:
    """Raise what `storing` understands if the store went away while it was written."""
    if store.storage.size(ROOT) is None:
        raise FileNotFoundError(store.storage.url)


def _check_parent(path: Path) -> None:
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        problem = "is no folder" if not parent.is_dir() else "cannot be written to"
        raise InvalidValueError(f"a store cannot be made at {path}: {parent} {problem}")


def _short(value: tuple[object, ...] | int | None) -> str:
    if value is None:
        return "none"
    if isinstance(value, int):
        return str(value)
    return str(value) if len(value) <= 4 else f"{len(value)} ({value[0]} to {value[-1]})"


def _check_manifest(store: Store, manifest: Manifest) -> None:
    different = store.manifest.differences(manifest)
    if different:
        raise StoreMismatchError(_mismatch(store, different))


def _mismatch(store: Store, different: list[str]) -> str:
    lines = "\n".join(f"  {line}" for line in different)
    return f"{name_of(store)} holds recordings that this one cannot join:\n{lines}\nrecord into another store"

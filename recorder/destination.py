"""Where a recording goes: a store that is there and fits, or a new one."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from zarr.abc.store import Store as Backend

from attlas.schemas import Leaf, Manifest, Store, create_store, leaf_names, open_store
from attlas.schemas.errors import AttlasError, InvalidValueError, ObservationError, StoreMismatchError

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
    except AttlasError:
        raise
    except (OSError, KeyError) as err:
        if isinstance(path, str | Path) and not (Path(path) / "zarr.json").is_file():
            raise ObservationError(f"the store {path} vanished while {what} was recorded; record again") from err
        # zarr says KeyError for an array that is not there.
        problem = f"{err} is not there" if isinstance(err, KeyError) else str(err)
        raise ObservationError(
            f"writing {what} to {name_of(path)} failed: {problem}; complete runs there are intact: mend the cause "
            "and record again, it goes on where it stopped"
        ) from err


def open_matching(path: Target, manifest: Manifest) -> Store | None:
    """Open the store at `path` if one is there, and check that `manifest` may be recorded into it.

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
    if "://" in str(path):
        raise InvalidValueError(f"{path} is a URL; a recording needs a local folder, which can be copied afterwards")
    if not Path(path).exists():
        _check_parent(Path(path))
        return None
    store = open_store(path)
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
    fill: Callable[[Store], None],
) -> Store:
    """Create the store in one step: it is laid out under another name and renamed when it is whole.

    `fill` puts in what belongs to no run. So a killed recorder leaves no half-made store, and of two that begin at
    once the second finds the first's.
    """
    details = (manifest, leaves, branches, len(kept), image_shape, reference_shape)
    if isinstance(path, Store):
        return path
    if not isinstance(path, str | Path):
        made = create_store(path, *details, t_labels=kept, frames=frames)
        fill(made)
        return made
    target = Path(path)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.new")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        fill(create_store(draft, *details, t_labels=kept, frames=frames))
        try:
            draft.rename(target)
        except OSError:
            if not target.exists():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    store = open_store(target)
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
    labels = tuple(int(label) for label in store.group["t"][...])
    pairs = {
        "calls": (labels, kept),
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
    """Raise what `storing` understands if the store's folder went away while it was written."""
    if store.path is not None and not (Path(store.path) / "zarr.json").is_file():
        raise FileNotFoundError(store.path)


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

"""Which stores there are: paths and folders of stores to names, without opening any of them."""

from collections.abc import Iterable
from pathlib import Path

from attlas.analysis.store_paths import file_name, is_pattern, stores_at
from attlas.schemas.errors import AttlasError, StoreExistsError, StoreInvalidError
from attlas.schemas.root import ROOT, RootDocument, is_store
from attlas.schemas.storage import open_storage
from attlas.schemas.storage.opening import scheme_of

__all__ = ["find_stores"]


def find_stores(paths: Iterable[str | Path]) -> tuple[dict[str, str], list[str]]:
    """Find stores by name, and what is wrong with the rest, one line each.

    A path is a store, a folder of stores (looked into one level deep), a pattern, or a URL, which is taken as it is.
    Only the small root metadata is read. Local paths become absolute. A name is the folder's own; where two are equal,
    with its parent's before it.
    """
    found: list[str] = []
    problems: list[str] = []
    for path in paths:
        text = str(path)
        if is_pattern(text):
            try:
                found += [_absolute(own) for own in stores_at(text)]
            except AttlasError as err:
                problems.append(str(err))
            continue
        if scheme_of(text) is not None:
            found.append(text)
            continue
        here = Path(text)
        if not here.exists():
            problems.append(f"{text}: nothing is there")
        elif is_store(here) or (here / ROOT).exists():
            problems += _look(here, found, alone=True)
        elif here.is_dir():
            before = len(found) + len(problems)
            for child in sorted(here.iterdir()):
                if is_store(child) or (child / ROOT).exists():
                    problems += _look(child, found, alone=False)
            if len(found) + len(problems) == before:
                problems.append(f"{text}: no attlas store in this folder")
        else:
            problems.append(f"{text}: a file; a store or a folder of stores is accepted")
    return _names(dict.fromkeys(found)), problems


def _look(path: Path, found: list[str], *, alone: bool) -> list[str]:
    """Add `path` to `found` if it is a store; say what is wrong with it if it should be one."""
    if is_store(path):
        found.append(_absolute(str(path)))
        return []
    try:
        RootDocument.read(open_storage(path))
    except StoreExistsError:
        # A folder may hold other zarr groups; they are none of our business unless asked for by name.
        return [f"{path}: a zarr store, but not of attlas"] if alone else []
    except StoreInvalidError as err:
        return [f"{path}: {problem}" for problem in err.problems]
    except AttlasError as err:
        return [str(err)]
    return [f"{path}: {ROOT} is no file"]


def _absolute(path: str) -> str:
    return path if scheme_of(path) is not None else str(Path(path).absolute())


def _names(paths: Iterable[str]) -> dict[str, str]:
    listed = list(paths)
    short = [file_name(text) for text in listed]
    named = {}
    for text, name in zip(listed, short, strict=True):
        parts = text.rstrip("/").split("/")
        unique = name if short.count(name) == 1 else "/".join(parts[-2:])
        named[unique if unique not in named else text] = text
    return named

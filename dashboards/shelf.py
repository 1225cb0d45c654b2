"""Which stores there are: paths and folders of stores to names, without opening any of them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["find_stores"]


def find_stores(paths: Iterable[str | Path]) -> tuple[dict[str, str], list[str]]:
    """Find stores by name, and what is wrong with the rest, one line each.

    A path is a store, a folder of stores (looked into one level deep), or a URL, which is taken as it is. Only
    the small root metadata is read. Local paths become absolute. A name is the folder's own; where two are equal,
    with its parent's before it.
    """
    found: list[str] = []
    problems: list[str] = []
    for path in paths:
        text = str(path)
        if "://" in text:
            found.append(text)
            continue
        here = Path(text)
        if not here.exists():
            problems.append(f"{text}: nothing is there")
        elif (here / "zarr.json").exists():
            problems += _look(here, found, alone=True)
        elif here.is_dir():
            before = len(found) + len(problems)
            for child in sorted(here.iterdir()):
                if (child / "zarr.json").exists():
                    problems += _look(child, found, alone=False)
            if len(found) + len(problems) == before:
                problems.append(f"{text}: no attlas store in this folder")
        else:
            problems.append(f"{text}: a file; a store or a folder of stores is accepted")
    return _names(dict.fromkeys(found)), problems


def _look(path: Path, found: list[str], *, alone: bool) -> list[str]:
    """Add `path` to `found` if it is a store; say what is wrong with it if it should be one."""
    try:
        root = json.loads((path / "zarr.json").read_text("utf-8"))
    except (OSError, ValueError) as err:
        return [f"{path}: zarr.json cannot be read: {err}"]
    attributes = root.get("attributes") if isinstance(root, Mapping) else None
    if isinstance(attributes, Mapping) and "attlas" in attributes:
        found.append(str(path.absolute()))
        return []
    # A folder may hold other zarr groups; they are none of our business unless asked for by name.
    return [f"{path}: a zarr store, but not of attlas"] if alone else []


def _names(paths: Iterable[str]) -> dict[str, str]:
    listed = list(paths)
    short = [text.rstrip("/").rsplit("/", 1)[-1] for text in listed]
    named = {}
    for text, name in zip(listed, short, strict=True):
        parts = text.rstrip("/").split("/")
        unique = name if short.count(name) == 1 else "/".join(parts[-2:])
        named[unique if unique not in named else text] = text
    return named

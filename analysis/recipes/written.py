"""A recipe's result as files, complete or not there at all."""

import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from attlas.schemas.errors import InvalidValueError

if TYPE_CHECKING:
    from attlas.analysis.recipes.recipe import RecipeResult

__all__ = ["PROVENANCE", "save"]

PROVENANCE = "provenance.json"


def save(result: "RecipeResult", folder: str | Path, *, dpi: int = 300) -> Path:
    """Write `result` into ``folder/RECIPE/`` and return that folder.

    ``RECIPE.txt`` is what is printed; every table is ``.csv`` and ``.parquet``, every figure ``.png``, numbered where
    there are several; ``provenance.json`` says from what and how. Everything is written elsewhere first and then
    renamed, so that a folder of that name is complete; an earlier result is replaced.

    Raises
    ------
    InvalidValueError
        If ``folder/RECIPE`` holds something that is not a recipe's result; it is left untouched.
    """
    name = result.recipe
    if not name:
        raise InvalidValueError("this result belongs to no recipe; run it through @recipe to save it")
    place = Path(folder) / name
    if place.exists() and not (place / PROVENANCE).is_file():
        raise InvalidValueError(f"{place} holds something that no recipe wrote; choose another --out or move it away")
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _fill(result, partial, dpi)
        _replace(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return place


def _fill(result: "RecipeResult", folder: Path, dpi: int) -> None:
    name = result.recipe
    (folder / f"{name}.txt").write_text(f"{result}\n", encoding="utf-8")
    for stem, table in zip(_numbered(name, len(result.tables)), result.tables, strict=True):
        frame = table.to_frame()
        frame.to_csv(folder / f"{stem}.csv", index=False)
        frame.to_parquet(folder / f"{stem}.parquet", index=False)
    for stem, figure in zip(_numbered(name, len(result.figures)), result.figures.values(), strict=True):
        # Without the library's own stamp equal figures are equal files.
        figure.savefig(folder / f"{stem}.png", dpi=dpi, metadata={"Software": None})
    told = {
        "recipe": name,
        "title": result.title,
        "attlas": version("attlas"),
        "settings": dict(result.settings),
        "notes": list(result.notes),
        "tables": [table.title for table in result.tables],
        "figures": list(result.figures),
    }
    (folder / PROVENANCE).write_text(json.dumps(told, indent=1, default=str) + "\n", encoding="utf-8")


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}-{place}" for place in range(1, count + 1)]


def _replace(made: Path, place: Path) -> None:
    """Put `made` at `place`: a full folder cannot be renamed over, so the earlier one steps aside first."""
    if not place.exists():
        made.rename(place)
        return
    former = place.with_name(f".{place.name}.{os.getpid()}.former")
    shutil.rmtree(former, ignore_errors=True)
    place.rename(former)
    made.rename(place)
    shutil.rmtree(former)

"""The commands ``attlas recipe list`` and ``attlas recipe run``; everything heavy is imported when they run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attlas.schemas.errors import AttlasError, InvalidValueError, NotRecordedError
from attlas.schemas.root import is_store

if TYPE_CHECKING:
    from attlas.analysis.recipes import Recipe
    from attlas.analysis.trace import Trace

__all__ = ["recipe"]


@click.group()
def recipe() -> None:
    """Tables and figures of the papers, from stores."""


@recipe.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print the recipes as JSON.")
def list_(*, as_json: bool) -> None:
    """List every recipe: what it shows, where it is printed, and the stores that it needs."""
    from attlas.analysis import recipes

    known = list(recipes.every())
    if as_json:
        click.echo(json.dumps([_told(own) for own in known], indent=1))
        return
    width = max(len(own.name) for own in known)
    for own in known:
        stores = " ".join([need.name for need in own.stores] + [f"[{need.name}]" for need in own.optional])
        click.echo(f"{own.name:<{width}}  {own.title}\n{'':<{width}}  {own.paper}; stores: {stores}")


@recipe.command()
@click.argument("name")
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Write OUT/NAME/: PNG, CSV, Parquet, text."
)
@click.option("--option", "-o", "options", multiple=True, metavar="KEY=VALUE", help="Option of the recipe, as JSON.")
@click.option("--dpi", default=300, show_default=True, type=click.IntRange(20, 1200), help="Of the pictures.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def run(name: str, stores: tuple[str, ...], out: Path | None, options: tuple[str, ...], dpi: int, quiet: bool) -> None:
    r"""Run the recipe NAME, or all, on its STOREs, or on those in the folder that `attlas demo` wrote.

    \b
    attlas recipe run i2am-fig7 tryon.zarr --out figures
    attlas recipe run all demo-out --out figures
    """
    from attlas.analysis import recipes

    if name == "all":
        _run_all(stores, out, options, dpi, quiet)
        return
    own = recipes.find(name)
    made = own(_traces(own, stores), progress=not quiet, **_options(options))
    click.echo(str(made))
    if out is not None:
        click.echo(f"\nwrote {made.save(out, dpi=dpi)}")


def _run_all(stores: tuple[str, ...], out: Path | None, options: tuple[str, ...], dpi: int, quiet: bool) -> None:
    """Every recipe whose stores are in the folder; one that cannot run does not stop the others, but is an error."""
    from tqdm import tqdm

    from attlas.analysis import recipes

    if len(stores) != 1 or not _is_demo(Path(stores[0])):
        raise InvalidValueError(
            "recipe run all takes one folder, as `attlas demo` writes it: attlas recipe run all demo-out"
        )
    if options:
        raise InvalidValueError("--option belongs to one recipe; recipe run all takes none")
    missed = []
    with tqdm(list(recipes.every()), "recipes", unit="recipe", disable=quiet) as bar:
        for own in bar:
            bar.set_postfix_str(own.name)
            try:
                made = own(_traces(own, stores), progress=False)
            except AttlasError as err:
                missed.append(f"{own.name}: {err}")
                continue
            tqdm.write(f"{made}\n")
            if out is not None:
                tqdm.write(f"wrote {made.save(out, dpi=dpi)}\n")
    if missed:
        raise AttlasError(f"{len(missed)} recipes not run\n" + "\n".join(missed))


def _traces(own: "Recipe", stores: tuple[str, ...]) -> "list[Trace]":
    """Open the stores in the given order, or from a demo's folder by their names there."""
    from attlas.analysis.opening import open_named
    from attlas.analysis.recipes.recipe import DEMO_STORES

    if len(stores) != 1 or not _is_demo(Path(stores[0])):
        return [open_named(store) for store in stores]
    folder = Path(stores[0])
    places = [folder / DEMO_STORES[need.name] for need in (*own.stores, *own.optional)]
    for place in places[: len(own.stores)]:
        if not place.exists():
            raise NotRecordedError(f"recipe {own.name} needs {place}; `attlas demo --out {folder}` records it")
    found = []
    for place in places:
        # Stores are told apart by their order, so that none can follow a missing one.
        if not place.exists():
            break
        found.append(open_named(str(place)))
    return found


def _is_demo(folder: Path) -> bool:
    """Whether it is a folder of stores rather than a store."""
    return folder.is_dir() and not is_store(folder) and any(folder.glob("*.zarr"))


def _options(given: tuple[str, ...]) -> dict[str, Any]:
    """Values by name; what is no JSON is taken as text."""
    made: dict[str, Any] = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or not key.isidentifier():
            raise InvalidValueError(f"--option {text!r}; KEY=VALUE is accepted")
        try:
            made[key] = json.loads(value)
        except json.JSONDecodeError:
            made[key] = value
    return made


def _told(own: "Recipe") -> dict[str, Any]:
    """Plain values of a recipe."""
    return {
        "name": own.name,
        "title": own.title,
        "paper": own.paper,
        "stores": [str(need) for need in own.stores],
        "optional": [str(need) for need in own.optional],
        "comparable": own.comparable,
        "options": {key: str(value) for key, value in own.options.items()},
    }

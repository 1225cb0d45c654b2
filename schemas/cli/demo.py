"""The `attlas demo` command: record, score and report, each through its own sub-command.

It knows the other commands by name only, so that no folder imports across the rule of the house.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

import click

from attlas.schemas.errors import InvalidValueError, StoreExistsError
from attlas.schemas.storage.opening import scheme_of
from attlas.schemas.store import open_store

__all__ = ["demo"]

WORLDS = ("shapes", "tryon")
"""Stores that the report and the dashboard show."""


@dataclass(frozen=True)
class _Store:
    """One store of the demo: the pipeline, flags of `attlas record`, one in how many samples, and what it is for."""

    pipeline: str
    flags: tuple[str, ...]
    meaning: str
    part: int = 1
    folder: str = ""
    scored: bool = True


STORES = {
    "shapes": _Store(
        "demo:shapes",
        ("text", "--vocabulary", "disc,triangle,ring,cross,red,green,blue,yellow,cyan,purple"),
        "a text-to-image model of coloured shapes",
    ),
    "tryon": _Store("demo:tryon", ("image,self",), "a try-on model that puts a reference garment onto a figure"),
    "tryon-refined": _Store("demo:tryon-refined", ("image",), "the same, trained on with losses on its attention"),
    "tryon-guided": _Store(
        "demo:tryon", ("image", "--guidance", "3"), "the try-on model, drawn with guidance", part=8, scored=False
    ),
    "shapes-random": _Store(
        "demo:shapes-random",
        ("text", "--detail", "summary", "--branches", "cond"),
        "the same architecture with random weights",
        part=2,
        folder="baselines",
    ),
    "tryon-random": _Store(
        "demo:tryon-random", ("image",), "the same architecture with random weights", part=2, folder="baselines"
    ),
    "tryon-swapped": _Store(
        "demo:tryon-swapped",
        ("image", "--detail", "summary"),
        "the trained model, shown the reference of another sample",
        part=2,
        folder="baselines",
    ),
    "tryon-control": _Store(
        "demo:tryon-control",
        ("image",),
        "trained on as long as refined, without the losses",
        part=2,
        folder="baselines",
    ),
}
"""Every store by name; of those that the trained models are compared with, only what the scores need is kept."""


@click.command()
@click.option("--out", "folder", default="demo-out", show_default=True, help="Folder to write.")
@click.option("--samples", default=64, show_default=True, type=click.IntRange(4), help="Held-out samples of a world.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def demo(folder: str, samples: int, quiet: bool) -> None:
    """Record two small trained models, map and score them, and write a report.

    Writes OUT/shapes.zarr, OUT/tryon.zarr, OUT/scores.json and OUT/report.html, and says how to open the
    dashboard. Beside them, for comparison: OUT/tryon-refined.zarr, OUT/tryon-guided.zarr and OUT/baselines. Run again,
    it goes on where it stopped. About ten minutes on two cores.
    """
    if scheme_of(folder) is not None:
        raise InvalidValueError(f"--out {folder}: the demo writes into a folder of this machine; give one")
    out = Path(folder)
    _check_folder(out)
    (out / "baselines").mkdir(parents=True, exist_ok=True)
    flags = ["--quiet"] if quiet else []
    places = {name: out / store.folder / f"{name}.zarr" for name, store in STORES.items()}
    for name, store in STORES.items():
        count = max(2, samples // store.part)
        click.secho(f"Recording {name}: {store.meaning}, {count} held-out samples", bold=True)
        _run("record", store.pipeline, places[name], "--samples", count, "--kinds", *store.flags, *flags)
    stores = [places[world] for world in WORLDS]
    scored = [places[name] for name, store in STORES.items() if store.scored]
    click.secho("Scoring the maps against the known truth", bold=True)
    _run("score", *scored, "--truth", places["shapes"], "--out", out / "scores.json", *flags)
    click.secho("Writing the report", bold=True)
    _run("report", *stores, "--scores", out / "scores.json", "--out", out / "report.html", *flags)
    click.echo(f"\nReport     {out / 'report.html'}  (open it in any browser; it needs no network)")
    click.echo(f"Stores     {'  '.join(str(store) for store in stores)}")
    click.echo(f"Dashboard  attlas dashboard {shlex.join(str(store) for store in stores)}")
    click.echo(f"Recipes    attlas recipe run all {shlex.quote(str(out))} --out {shlex.quote(str(out / 'recipes'))}")


def _check_folder(out: Path) -> None:
    """Refuse a folder whose stores are something else, before minutes of work."""
    if out.exists() and not out.is_dir():
        raise StoreExistsError(f"{out} is a file; --out needs a folder, new or from an earlier demo")
    for path in sorted(out.glob("**/*.zarr")):
        open_store(path)


def _run(name: str, *arguments: object) -> None:
    context = click.get_current_context().find_root()
    group = context.command
    if not isinstance(group, click.Group):
        raise TypeError("attlas demo runs only as a sub-command of attlas")
    command = group.get_command(context, name)
    if command is None:
        raise TypeError(f"attlas has no sub-command {name!r}")
    command.main([str(argument) for argument in arguments], prog_name=f"attlas {name}", standalone_mode=False)

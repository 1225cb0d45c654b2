"""The `attlas demo` command: record, score and report, each through its own sub-command.

It knows the other commands by name only, so that no folder imports across the rule of the house.
"""

import shlex
from pathlib import Path

import click

from attlas.schemas.errors import StoreExistsError
from attlas.schemas.store import open_store

__all__ = ["demo"]

WORLDS = {
    "shapes": (
        ("text", "--vocabulary", "disc,triangle,ring,cross,red,green,blue,yellow,cyan,purple"),
        "a text-to-image model of coloured shapes",
    ),
    "tryon": (("image,self",), "a try-on model that puts a reference garment onto a figure"),
}
"""Each world with the kinds of attention that its store holds (and further flags of `attlas record`)."""

BASELINES = {
    "shapes-random": (
        ("text", "--detail", "summary", "--branches", "cond"),
        "the same architecture with random weights",
    ),
    "tryon-random": (("image",), "the same architecture with random weights"),
    "tryon-swapped": (("image", "--detail", "summary"), "the trained model, shown the reference of another sample"),
}
"""What the trained models are compared with, on half of the samples; only what the scores need is kept of them."""


@click.command()
@click.option("--out", default="demo-out", show_default=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--samples", default=64, show_default=True, type=click.IntRange(4), help="Held-out samples of a world.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def demo(out: Path, samples: int, quiet: bool) -> None:
    """Record two small trained models, map and score them, and write a report.

    Writes OUT/shapes.zarr, OUT/tryon.zarr, OUT/scores.json and OUT/report.html, and says how to open the
    dashboard. Run again, it goes on where it stopped. About five minutes on two cores.
    """
    _check_folder(out)
    (out / "baselines").mkdir(parents=True, exist_ok=True)
    flags = ["--quiet"] if quiet else []
    places = {world: out / f"{world}.zarr" for world in WORLDS}
    places |= {baseline: out / "baselines" / f"{baseline}.zarr" for baseline in BASELINES}
    for name, (kinds, meaning) in {**WORLDS, **BASELINES}.items():
        count = samples if name in WORLDS else samples // 2
        click.secho(f"Recording {name}: {meaning}, {count} held-out samples", bold=True)
        _run("record", f"demo:{name}", places[name], "--samples", count, "--kinds", *kinds, *flags)
    stores = [places[world] for world in WORLDS]
    click.secho("Scoring the maps against the known truth", bold=True)
    _run("score", *places.values(), "--truth", places["shapes"], "--out", out / "scores.json", *flags)
    click.secho("Writing the report", bold=True)
    _run("report", *stores, "--scores", out / "scores.json", "--out", out / "report.html", *flags)
    click.echo(f"\nReport     {out / 'report.html'}  (open it in any browser; it needs no network)")
    click.echo(f"Stores     {'  '.join(str(store) for store in stores)}")
    click.echo(f"Dashboard  attlas dashboard {shlex.join(str(store) for store in stores)}")


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

"""The `attlas repair` command."""

import click

from attlas.schemas.repair import repair_store

__all__ = ["repair"]


@click.command()
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def repair(stores: tuple[str, ...], quiet: bool) -> None:
    """Make each STORE sound again, and say what was done.

    Metadata that follow from others are made again, damaged runs are marked incomplete, so that the same `attlas
    record` makes them again, and what dead recorders left is put into the store or removed. Reads every byte.
    """
    for store in stores:
        done = repair_store(store, progress=not quiet)
        click.echo(f"{store}: {'sound' if not done else f'{len(done)} repairs'}")
        for line in done:
            click.echo(f"  {line}")

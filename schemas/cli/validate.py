"""The `attlas validate` command."""

import json
import sys

import click

from attlas.schemas.validate import validate_store

__all__ = ["validate"]


@click.command()
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@click.option("--deep", is_flag=True, help="Read every byte too, so that a flipped bit is found by its checksum.")
@click.option("--json", "as_json", is_flag=True, help="Print the problems as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def validate(stores: tuple[str, ...], deep: bool, as_json: bool, quiet: bool) -> None:
    """List every problem of each STORE; exit status 1 where there is one.

    Checks the metadata, dims, dtypes and shapes of all arrays, the run table, and that complete runs lack no chunk.
    """
    found = {store: validate_store(store, deep=deep, progress=deep and not quiet) for store in stores}
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        for store, problems in found.items():
            click.echo(f"{store}: {len(problems)} problem{'s' if len(problems) != 1 else ''}")
            for problem in problems:
                click.echo(f"  {problem}")
    sys.exit(1 if any(found.values()) else 0)

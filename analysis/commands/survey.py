"""The command ``attlas survey``; everything heavy is imported when it runs."""

import json
from pathlib import Path
from typing import Any

import click

from attlas.schemas.errors import InvalidValueError

__all__ = ["survey"]


@click.command()
@click.argument("stores", nargs=-1, metavar="STORE...")
@click.option("--statistic", "statistics", multiple=True, metavar="NAME[:OPTION=VALUE,...]", help="May be given again.")
@click.option("--map", "maps", multiple=True, metavar="NAME[:OPTION=VALUE,...]", help="Mean of a map over runs.")
@click.option("--by", multiple=True, metavar="LABEL", help="prompt, seed, model, an annotation, pos, layer, ...")
@click.option("--correlate", multiple=True, metavar="A,B", help="Correlate two statistics over runs.")
@click.option("--quantiles", default="0.05,0.25,0.5,0.75,0.95", show_default=True, help="Fractions; empty for none.")
@click.option("--histogram", metavar="EDGE,EDGE,...", help="Count values between these edges.")
@click.option("--out", "outs", multiple=True, type=click.Path(dir_okay=False), help="FILE.nc, .parquet, .csv or .png.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option("--list", "listed", is_flag=True, help="List statistics, maps, and the labels of the stores.")
@click.option(
    "--plugin", "plugins", multiple=True, metavar="MODULE|FILE.py", help="Load statistics and maps from here."
)
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: this one]")
@click.option("--block", type=click.IntRange(1), default=16, show_default=True, help="Runs computed together.")
@click.option("--no-cache", is_flag=True, help="Neither read nor keep numbers of runs in the stores.")
@click.option("--allow-models", is_flag=True, help="Let stores of different models count together.")
@click.option("--partial", type=click.Path(dir_okay=False), help="FILE.npz to add up with, and to write for others.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def survey(stores: tuple[str, ...], *, listed: bool, as_json: bool, **given: Any) -> None:
    r"""Compute statistics over all runs of STORE..., with 95 % intervals, by group.

    \b
    attlas survey tryon.zarr --statistic imacs_g --statistic pck1 --correlate imacs_g,ssim --out tryon.png
    attlas survey shapes.zarr --statistic coverage --by pos
    attlas survey trained.zarr random.zarr --statistic pck1 --by model --out pck.parquet
    attlas survey --list
    """
    from attlas.analysis.output.whole_file import check_suffix
    from attlas.analysis.plugins import load_plugins
    from attlas.analysis.surveys.files import SUFFIXES

    load_plugins(given["plugins"])
    if listed:
        click.echo(_listing(stores))
        return
    if not stores:
        raise click.UsageError("Missing argument 'STORE...'.")
    for out in given["outs"]:
        check_suffix(out, SUFFIXES)
    done = _done(stores, given, quiet=given["quiet"] or as_json)
    for out in given["outs"]:
        done.save(out)
    if given["partial"]:
        done.partial.save(given["partial"])
    if as_json:
        click.echo(json.dumps(done.to_json(), indent=1))
        return
    click.echo(str(done))
    for out in given["outs"]:
        click.echo(f"wrote {out}")


def _done(stores: tuple[str, ...], given: dict[str, Any], *, quiet: bool) -> Any:
    from attlas.analysis.surveys.collect import survey as collect
    from attlas.analysis.surveys.partial import Partial

    earlier = given["partial"]
    options: dict[str, Any] = {
        "by": given["by"] or None,
        "maps": given["maps"],
        "correlate": [_pair(text) for text in given["correlate"]],
        "quantiles": _numbers(given["quantiles"], "--quantiles"),
        "histogram": _numbers(given["histogram"], "--histogram") if given["histogram"] else None,
        "block": given["block"],
        "cache": not given["no_cache"],
        "allow_models": given["allow_models"],
        "partial": Partial.load(earlier) if earlier and Path(earlier).exists() else None,
        "progress": not quiet,
    }
    if given["workers"] is None:
        return collect(list(stores), given["statistics"], **options)
    from attlas.analysis.surveys.workers import local_workers

    with local_workers(given["workers"]) as client:
        return collect(list(stores), given["statistics"], client=client, **options)


def _listing(stores: tuple[str, ...]) -> str:
    from attlas.analysis.opening import open_named
    from attlas.analysis.registry import map_functions, statistics
    from attlas.analysis.surveys.labels import known_labels

    parts = []
    for title, known in (("statistics", statistics()), ("maps", map_functions())):
        width = max(map(len, known), default=0)
        lines = []
        for name, made in sorted(known.items()):
            unit = "" if made.units == "1" else f" [{made.units}]"
            origin = "" if made.source.startswith("attlas.") else f" (from {made.source})"
            options = f"  options: {', '.join(made.options)}" if made.options else ""
            lines.append(f"  {name:<{width}}  {made.meaning}{unit}{origin}{options}")
        parts.append("\n".join([title, *lines]))
    parts += [f"labels of {store}\n  {', '.join(known_labels(open_named(store)))}" for store in stores]
    return "\n\n".join(parts)


def _pair(text: str) -> tuple[str, str]:
    one, comma, other = text.partition(",")
    if not comma or "," in other:
        raise InvalidValueError(f"--correlate {text!r}; two statistics joined by a comma are accepted")
    return one.strip(), other.strip()


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as err:
        raise InvalidValueError(f"{option} {text!r}; numbers joined by commas are accepted") from err

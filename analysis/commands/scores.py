"""The command ``attlas score``; everything heavy is imported when it runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attlas.analysis.commands.sink_options import sink_options, sinks_given

if TYPE_CHECKING:
    from attlas.analysis.scoring.score_table import ScoreTable

__all__ = ["score"]


@click.command()
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="FILE.json, .parquet, .csv, .nc or .png.")
@click.option("--truth", metavar="STORE", help="Take the masks of the nouns from here, for runs of the same id.")
@sink_options
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def score(
    stores: tuple[str, ...], *, out: Path | None, truth: str | None, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Score the maps of each STORE against its annotations.

    Word maps, reference maps, and the numbers noted of each run; of several stores, side by side.
    """
    from tqdm import tqdm

    from attlas.analysis import scores
    from attlas.analysis.opening import open_named
    from attlas.analysis.output.score_files import SUFFIXES, save_scores
    from attlas.analysis.output.whole_file import check_suffix

    if out is not None:
        check_suffix(out, SUFFIXES)
    left_out = sinks_given(given)
    traces = {store: open_named(store) for store in stores}
    known = None if truth is None else open_named(truth)
    tables = {
        store: scores.score(trace, known, sinks=left_out)
        for store, trace in tqdm(traces.items(), "scoring", unit="store", disable=quiet or as_json)
    }
    told = {store: [table.to_json() for table in made] for store, made in tables.items()}
    if out is not None:
        save_scores(tables, out)
    if as_json:
        click.echo(json.dumps(told, indent=1))
    else:
        click.echo(_side_by_side(tables))


def _side_by_side(tables: "dict[str, list[ScoreTable]]") -> str:
    """Tables about the same thing in one, a column a store; by itself a store keeps its settings too."""
    from attlas.analysis.scoring.score_table import beside
    from attlas.analysis.store_paths import short_names

    if len(tables) == 1:
        return "\n\n".join(str(table) for made in tables.values() for table in made)
    subjects = dict.fromkeys(table.subject for made in tables.values() for table in made)
    names = dict(zip(tables, short_names(list(tables)), strict=True))
    parts = []
    for subject in subjects:
        own = {names[store]: table for store, made in tables.items() for table in made if table.subject == subject}
        parts.append(f"{subject}\n{beside(own)}")
    return "\n\n".join(parts)

"""The command ``attlas sinks``; everything heavy is imported when it runs."""

import json
from pathlib import Path

import click

__all__ = ["sinks"]


@click.command()
@click.argument("store")
@click.option(
    "--rule", type=click.Choice(("importance", "special")), default="importance", show_default=True, help="Which keys."
)
@click.option("--times", type=float, default=5.0, show_default=True, help="How many times a random key's attention.")
@click.option("--across-runs", is_flag=True, help="Keys that draw attention at their place in the mean over runs.")
@click.option("--kind", "kinds", multiple=True, help="text, image, self or joint; may be given again.  [default: all]")
@click.option("--by", type=click.Choice(("layer", "head", "t")), default="layer", show_default=True, help="Rows.")
@click.option("--branch", default="cond", show_default=True, help="Guidance branch.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write FILE.parquet or FILE.csv.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def sinks(
    store: str,
    *,
    rule: str,
    times: float,
    across_runs: bool,
    kinds: tuple[str, ...],
    by: str,
    branch: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Say which keys of STORE draw attention whatever they show, and how much."""
    from attlas.analysis.opening import open_named
    from attlas.analysis.sinks import Sinks, report
    from attlas.schemas.errors import InvalidValueError

    if out is not None and out.suffix not in (".parquet", ".csv"):
        raise InvalidValueError(f"--out {out}: FILE.parquet or FILE.csv is accepted")
    chosen = Sinks(rule=rule, times=times, across_runs=across_runs)
    made = report(open_named(store), chosen, kinds=kinds or None, by=by, branch=branch)
    if out is not None:
        frame = made.to_frame()
        frame.to_csv(out, index=False) if out.suffix == ".csv" else frame.to_parquet(out, index=False)
    click.echo(json.dumps(made.to_json(), indent=1) if as_json else str(made))

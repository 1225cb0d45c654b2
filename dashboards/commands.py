"""The `attlas dashboard` and `attlas report` commands."""

from pathlib import Path

import click

__all__ = ["dashboard", "report"]


@click.command()
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@click.option("--port", default=5006, show_default=True, help="Port on localhost; 0 takes a free one.")
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE|FILE.py", help="Load registered maps from here.")
@click.option("--open/--no-open", "show", default=True, show_default=True, help="Open the page in the browser.")
def dashboard(stores: tuple[str, ...], port: int, plugins: tuple[str, ...], show: bool) -> None:
    """Ask the pictures of each STORE questions with the mouse.

    STORE is a store or a folder of stores. The page is served to this machine only, until Ctrl-C.
    """
    from attlas.analysis.plugins import load_plugins
    from attlas.dashboards.serve import serve

    load_plugins(plugins)
    serve(stores, port=port, show=show, announce=lambda url: click.echo(f"dashboard at {url} (Ctrl-C ends it)"))


@click.command()
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True, help="HTML file to write."
)
@click.option("--scores", type=click.Path(path_type=Path), help="JSON of score tables by store, from `attlas score`.")
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1), help="Runs shown of each store.")
@click.option("--quiet", is_flag=True, help="Say nothing.")
def report(stores: tuple[str, ...], out: Path, scores: Path | None, runs: int, quiet: bool) -> None:
    """Write one self-contained HTML file about the runs of each STORE.

    STORE is a store or a folder of stores.
    """
    from attlas.analysis import open_trace
    from attlas.dashboards.report import read_scores
    from attlas.dashboards.report import report as write
    from attlas.dashboards.shelf import find_stores
    from attlas.schemas.errors import StoreNotFoundError

    found, problems = find_stores(stores)
    if problems:
        raise StoreNotFoundError("\n".join(problems))
    traces = {name.removesuffix(".zarr"): open_trace(path) for name, path in found.items()}
    write(traces, read_scores(scores) if scores is not None else {}, out, runs=runs)
    if not quiet:
        click.echo(f"wrote {out}")

"""The command ``attlas info``; everything heavy is imported when it runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from attlas.analysis.trace import Trace

__all__ = ["info"]


@click.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def info(store: str, *, as_json: bool) -> None:
    """Say what STORE holds: runs, attention, annotations, and what made it."""
    from attlas.analysis import open_trace

    trace = open_trace(store)
    told = _contents(trace, store)
    if as_json:
        click.echo(json.dumps(told, indent=1))
        return
    click.echo(repr(trace))
    incomplete = told["runs"]["incomplete"]
    click.echo(f"  {told['bytes'] / 2**20:.1f} MiB, image {told['image']}, {incomplete} runs incomplete")
    click.echo(f"  made by {told['model']}, {told['pipeline']}")


def _contents(trace: "Trace", store: str) -> dict[str, Any]:
    manifest = trace.manifest
    return {
        "path": store,
        "bytes": sum(file.stat().st_size for file in Path(store).rglob("*") if file.is_file()),
        "runs": {"complete": len(trace.rows), "incomplete": trace.incomplete},
        "calls": trace.calls,
        "branches": list(trace.branches),
        "image": "x".join(str(size) for size in trace.image_shape),
        **manifest.to_json(),
        "leaves": {
            path: {
                "layers": list(leaf.layers),
                "heads": leaf.heads,
                "queries": leaf.queries,
                "keys": leaf.keys,
                "encoding": "summary" if leaf.encoding == "none" else leaf.encoding,
            }
            for path, leaf in trace.leaves.items()
        },
        "annotations": [str(annotation) for annotation in trace.annotations],
    }

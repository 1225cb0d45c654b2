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
    from attlas.analysis.opening import open_named

    trace = open_named(store)
    told = _contents(trace, store)
    if as_json:
        click.echo(json.dumps(told, indent=1))
        return
    click.echo(repr(trace))
    incomplete = told["runs"]["incomplete"]
    size = "" if told["bytes"] is None else f"{told['bytes'] / 2**20:.1f} MiB, "
    click.echo(f"  {size}image {told['image']}, {incomplete} runs incomplete")
    click.echo(f"  made by {told['model']}, {told['pipeline']}")


def _bytes_of(folder: Path | None) -> int | None:
    """Bytes of a store of this machine; None of a far one, which would have to be listed whole."""
    return None if folder is None else sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _contents(trace: "Trace", store: str) -> dict[str, Any]:
    manifest = trace.manifest
    sizes = [_bytes_of(own.storage.folder) for own in trace.stores]
    return {
        "path": store,
        "stores": [own.path for own in trace.stores],
        "bytes": None if None in sizes else sum(size for size in sizes if size is not None),
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

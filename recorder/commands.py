"""The `attlas sites`, `attlas plan` and `attlas record` commands.

torch and diffusers are imported when a command runs, so that its help answers at once.
"""

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click

from attlas.recorder.command_options import (
    PIPELINE_HELP,
    capture_of,
    capture_options,
    check_flags,
    load,
    request_options,
)
from attlas.schemas import Store
from attlas.schemas.errors import InvalidValueError

__all__ = ["plan", "record", "sites"]

CLUSTER_SECONDS = 10
"""How long a Dask scheduler has to answer."""


@click.command(
    help=f"""List what can be recorded in a pipeline, and what cannot and why.

{PIPELINE_HELP}

Modules that are alike share a line; its pattern can be given to --layers of attlas record. Nothing is drawn.
"""
)
@click.argument("pipeline")
@click.option("--all", "every", is_flag=True, help="A line for every module, not for every group of like ones.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sites(pipeline: str, every: bool, as_json: bool) -> None:
    """List what can be recorded in a pipeline."""
    _silence_libraries()
    from attlas.recorder.models.listing import sites as find
    from attlas.recorder.pipelines import load_pipeline

    found = find(load_pipeline(pipeline))
    if as_json:
        click.echo(json.dumps([asdict(site) for site in found], indent=1))
    else:
        click.echo(found.table(every=every))
        click.echo("\non the command line: --kinds, --keys, --layers, ... of attlas record")
        click.echo(f"how large it becomes: attlas plan {shlex.quote(pipeline)}")


@click.command(
    help=f"""Say how large a recording becomes and how long it takes, and write nothing.

{PIPELINE_HELP}

The options are those of attlas record. STORE is where the recording is to go, if that is known: what is complete there
is not counted. The first picture is drawn to measure sizes after compression, and time.

\b
Examples:
  attlas plan demo:shapes --prompt "a red disc and a blue cross" --seed 1 --seed 2
  attlas plan owner/model cats.zarr --requests cats.jsonl --kinds joint --keys prompt --no-run
"""
)
@click.argument("pipeline")
@click.argument("store", required=False)
@request_options
@capture_options
@click.option("--no-run", is_flag=True, help="Draw nothing: shapes and raw bytes only.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(pipeline: str, store: str | None, **options: Any) -> None:
    """Say how large a recording becomes and how long it takes."""
    check_flags(options)
    capture = capture_of(options)
    _silence_libraries()
    from attlas.recorder.plans.planning import plan as make

    if options["quiet"]:
        _hide_bars()
    asked = load(pipeline, options, capture)
    made = make(
        asked.pipe,
        asked.requests,
        capture,
        store,
        measure=not options["no_run"],
        progress=not options["quiet"],
        annotate=asked.annotate,
    )
    click.echo(json.dumps(made.to_json(), indent=1) if options["as_json"] else repr(made))


@click.command(
    help=f"""Run a pipeline and record its attention into STORE.

{PIPELINE_HELP}

STORE is the folder or URL (s3://, gs://, az://) to write. If it holds runs already, those are kept and only missing
ones are made: the same command again goes on where it stopped. Given several times at once, on one machine or many,
the requests are shared out.

\b
Examples:
  attlas record demo:shapes first.zarr --prompt "a red disc and a blue cross" --seed 1 --seed 2
  attlas record owner/model s3://bucket/cats.zarr --requests cats.jsonl --kinds text --detail summary
"""
)
@click.argument("pipeline")
@click.argument("store")
@request_options
@capture_options
@click.option("--no-resume", is_flag=True, help="Refuse a STORE that is there.")
@click.option(
    "--cluster", metavar="ADDRESS", help="Dask scheduler whose workers draw, each with a PIPELINE of its own."
)
@click.option(
    "--no-fsync",
    is_flag=True,
    help="Do not wait for the disk before a run is called complete: faster on slow disks, but a loss of power may take "
    "or damage runs that were.",
)
@click.option("--quiet", is_flag=True, help="No progress bar and no summary.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def record(pipeline: str, store: str, **options: Any) -> None:
    """Run a pipeline and record its attention into STORE."""
    check_flags(options)
    capture = capture_of(options)
    _silence_libraries()
    from attlas.recorder.jobs import record as run

    if options["quiet"]:
        _hide_bars()
    asked = load(pipeline, options, capture)
    with _cluster(options["cluster"]) as client:
        made = run(
            asked.pipe if client is None else pipeline,
            store,
            asked.requests,
            capture,
            resume=not options["no_resume"],
            progress=not options["quiet"],
            annotate=asked.annotate,
            client=client,
            durable=not options["no_fsync"],
        )
    if options["as_json"]:
        click.echo(json.dumps(_summary(made), indent=1))
    elif not options["quiet"]:
        click.echo(repr(made))


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Connect to a Dask scheduler; None where there is no address."""
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ModuleNotFoundError as err:
        raise InvalidValueError("--cluster needs Dask's scheduler: pip install 'attlas[cluster]'") from err
    try:
        client = Client(address, timeout=CLUSTER_SECONDS)
    except (OSError, ValueError) as err:
        raise InvalidValueError(
            f"--cluster {address}: no Dask scheduler answers there ({err}); give the address that `dask scheduler` "
            "printed, such as tcp://host:8786"
        ) from err
    with client:
        yield client


def _silence_libraries() -> None:
    """Keep notices of libraries out of the output; their warnings stay. Works before they are imported."""
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")


def _hide_bars() -> None:
    """Switch off the bars that libraries show while they load."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def _summary(store: Store) -> dict[str, Any]:
    folder = store.storage.folder
    return {
        "store": store.path,
        "runs": [run for run, done in zip(store.run_ids, store.complete, strict=True) if done],
        "branches": list(store.branches),
        "calls": store.calls,
        "leaves": {name: {**leaf.to_json(), "layers": list(leaf.layers)} for name, leaf in store.leaves.items()},
        # A far store would have to be listed whole.
        "bytes": None if folder is None else sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    }

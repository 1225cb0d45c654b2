"""The `attlas record` and `attlas sites` commands.

torch and diffusers are imported when a command runs, so that its help answers at once.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from attlas.recorder.capture import Capture
from attlas.schemas import DETAILS, ENCODINGS, PRECISIONS, Store
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["record", "sites"]

PIPELINE_HELP = """PIPELINE is a folder that diffusers can load, a hub id such as owner/model, or a model that ships
with attlas: demo:shapes, demo:tryon (with -random: the same without training)."""


@click.command(help=f"List what can be recorded in a pipeline.\n\n{PIPELINE_HELP}")
@click.argument("pipeline")
@click.option("--all", "every", is_flag=True, help="A line for every module, not for every group of like ones.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sites(pipeline: str, every: bool, as_json: bool) -> None:
    """List what can be recorded in a pipeline."""
    _silence_libraries()
    from attlas.recorder.listing import sites as find
    from attlas.recorder.pipelines import load_pipeline

    found = find(load_pipeline(pipeline))
    if as_json:
        click.echo(json.dumps([asdict(site) for site in found], indent=1))
    else:
        click.echo(found.table(every=every))


@click.command(
    help=f"""Run a pipeline and record its attention into STORE.

{PIPELINE_HELP}

STORE is the folder to write. If it holds runs already, those are kept and only missing ones are made: the same
command again goes on where it stopped.

\b
Examples:
  attlas record demo:shapes first.zarr --prompt "a red disc and a blue cross" --seed 1 --seed 2
  attlas record owner/model cats.zarr --requests cats.jsonl --kinds text --detail summary
"""
)
@click.argument("pipeline")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--prompt", "prompts", multiple=True, help="Prompt; may be repeated.")
@click.option("--seed", "seeds", multiple=True, type=int, help="Seed; may be repeated: every prompt with every seed.")
@click.option("--requests", "file", type=click.Path(path_type=Path), help="JSON lines, one request each.")
@click.option("--samples", "--demo-requests", "samples", type=click.IntRange(1), help="Samples of a demo model.")
@click.option("--image", "images", multiple=True, metavar="NAME=FILE", help="Picture argument of the pipeline.")
@click.option("--mask", "masks", multiple=True, metavar="NAME=FILE", help="Mask to store with each run, of its size.")
@click.option("--set", "settings", multiple=True, metavar="ARG=JSON", help="Any other pipeline argument.")
@click.option("--steps", type=click.IntRange(1), help="Denoising steps.")
@click.option("--guidance", type=float, help="Guidance scale.")
@click.option("--kinds", help="What to record: text, image, self, comma separated.  [default: all cross-attention]")
@click.option("--layers", multiple=True, metavar="GLOB", help='Layers by path, such as "up_blocks.*"; may be repeated.')
@click.option("--heads", help="Head numbers, comma separated.  [default: all]")
@click.option("--branches", help="Guidance branches, such as cond.  [default: all]")
@click.option("--detail", default="full", show_default=True, help=f"One of: {', '.join(DETAILS)}.")
@click.option("--encoding", default="auto", show_default=True, help=f"One of: {', '.join(ENCODINGS)}.")
@click.option("--precision", default="exact", show_default=True, help=f"One of: {', '.join(PRECISIONS)}.")
@click.option("--no-resume", is_flag=True, help="Refuse a STORE that is there.")
@click.option("--quiet", is_flag=True, help="No progress bar and no summary.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def record(pipeline: str, store: Path, **options: Any) -> None:
    """Run a pipeline and record its attention into STORE."""
    _check_flags(options)
    capture = _capture(options)
    _silence_libraries()
    from attlas.recorder.jobs import record as run
    from attlas.recorder.pipelines import load_pipeline

    if options["quiet"]:
        _hide_bars()
    pipe = load_pipeline(pipeline)
    requests, annotate = _requests(pipe, pipeline, options)
    made = run(
        pipe,
        store,
        requests,
        capture,
        resume=not options["no_resume"],
        progress=not options["quiet"],
        annotate=annotate,
    )
    if options["as_json"]:
        click.echo(json.dumps(_summary(made), indent=1))
    elif not options["quiet"]:
        click.echo(repr(made))


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


def _check_flags(options: dict[str, Any]) -> None:
    elsewhere = options["file"] is not None or options["samples"] is not None
    if options["file"] is not None and options["samples"] is not None:
        raise click.UsageError("--requests and --samples exclude each other")
    for flag, given in (("--prompt", options["prompts"]), ("--seed", options["seeds"])):
        if elsewhere and given:
            raise click.UsageError(f"{flag} cannot go with --requests or --samples, which have their own")


def _capture(options: dict[str, Any]) -> Capture:
    heads = _list(options["heads"])
    if heads is not None and not all(head.isdecimal() for head in heads):
        raise click.UsageError(f"--heads {options['heads']}: whole numbers, comma separated, are needed")
    return Capture(
        kinds=_list(options["kinds"]),
        detail=options["detail"],
        encoding=options["encoding"],
        precision=options["precision"],
        layers=options["layers"] or None,
        heads=None if heads is None else [int(head) for head in heads],
        branches=_list(options["branches"]) or "all",
    )


def _list(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _requests(pipe: Any, name: str, options: dict[str, Any]) -> tuple[list[dict[str, Any]], Any]:
    """Put the requests together from the flags; flags of one value hold for every request."""
    from attlas.recorder.pipelines import demo_requests
    from attlas.recorder.request_files import read_mask, read_picture, read_requests
    from attlas.recorder.requests import accepted_arguments

    accepted = accepted_arguments(pipe)
    shared: dict[str, Any] = {}
    for key, path in _pairs("--image", options["images"]):
        _check_argument(key, accepted)
        shared[key] = read_picture(path, f"--image {key}")
    for key, value in _pairs("--set", options["settings"]):
        _check_argument(key, accepted)
        shared[key] = _json(key, value)
    given = {"num_inference_steps": options["steps"], "guidance_scale": options["guidance"]}
    shared |= {key: value for key, value in given.items() if value is not None}
    masks = {key: read_mask(path, f"--mask {key}") for key, path in _pairs("--mask", options["masks"])}
    annotate = None
    if options["file"] is not None:
        requests = read_requests(options["file"], accepted)
    elif options["samples"] is not None:
        requests, annotate = demo_requests(name, options["samples"])
    else:
        requests = [{"prompt": prompt} for prompt in options["prompts"]]
        if not requests:
            requests = [{}]
    made = [_merged(request, shared, masks) for request in requests]
    if not options["seeds"]:
        return [{"seed": 0, **request} if "generator" not in request else request for request in made], annotate
    return [{**request, "seed": seed} for request in made for seed in options["seeds"]], annotate


def _merged(request: dict[str, Any], shared: dict[str, Any], masks: dict[str, Any]) -> dict[str, Any]:
    """Return a request with what the flags say of all; a flag comes before the file."""
    merged = {**request, **shared}
    if masks:
        merged["annotations"] = {**masks, **merged.get("annotations", {})}
    return merged


def _pairs(flag: str, given: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = []
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise click.UsageError(f"{flag} {text}: NAME=VALUE is needed")
        pairs.append((name, value))
    return pairs


def _check_argument(name: str, accepted: tuple[str, ...]) -> None:
    if name not in accepted:
        raise unknown_name("pipeline argument", name, accepted)


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as err:
        raise InvalidValueError(f"--set {name}={text}: not JSON ({err}); text needs quotes, such as '\"cat\"'") from err


def _summary(store: Store) -> dict[str, Any]:
    path = Path(store.path or "")
    return {
        "store": str(path),
        "runs": [run for run, done in zip(store.run_ids, store.complete, strict=True) if done],
        "branches": list(store.branches),
        "calls": store.calls,
        "leaves": {name: {**leaf.to_json(), "layers": list(leaf.layers)} for name, leaf in store.leaves.items()},
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
    }

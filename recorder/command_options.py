"""Options that the commands share: what is asked of the pipeline, and what of it is kept.

Everything is checked before the model is loaded, as far as the pipeline's class is known by then.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from attlas.recorder.capture import Capture
from attlas.schemas import DETAILS, ENCODINGS, KINDS, PRECISIONS, Annotation
from attlas.schemas.errors import InvalidValueError, unknown_name
from attlas.schemas.words import has_word

__all__ = ["PIPELINE_HELP", "Asked", "capture_of", "capture_options", "check_flags", "load", "request_options"]

PIPELINE_HELP = """PIPELINE is a folder that diffusers can load, a hub id such as owner/model, or a model that ships
with attlas: demo:shapes, demo:tryon (with -random: the same without training)."""

Command = Callable[..., Any]

_REQUEST_OPTIONS = (
    click.option("--prompt", "prompts", multiple=True, help="Prompt; may be repeated."),
    click.option(
        "--seed", "seeds", multiple=True, type=int, help="Seed; may be repeated: every prompt with every seed."
    ),
    click.option("--requests", "file", type=click.Path(path_type=Path), help="JSON lines, one request each."),
    click.option("--samples", "--demo-requests", "samples", type=click.IntRange(1), help="Samples of a demo model."),
    click.option("--image", "images", multiple=True, metavar="NAME=FILE", help="Picture argument of the pipeline."),
    click.option(
        "--mask",
        "masks",
        multiple=True,
        metavar="NAME[:ROLE]=FILE",
        help="Mask to store with each run, of its size; with its role in scores: object or reference_object.",
    ),
    click.option("--set", "settings", multiple=True, metavar="ARG=JSON", help="Any other pipeline argument."),
    click.option("--steps", type=click.IntRange(1), help="Denoising steps."),
    click.option("--guidance", type=float, help="Guidance scale."),
)

_CAPTURE_OPTIONS = (
    click.option(
        "--kinds",
        help=f"What to record: {', '.join(KINDS)}, comma separated.  [default: all but self]",
    ),
    click.option(
        "--layers", multiple=True, metavar="GLOB", help='Layers by path, such as "up_blocks.*"; may be repeated.'
    ),
    click.option(
        "--keep-steps",
        metavar="CALLS",
        help="Denoiser calls to keep, from 0: comma separated, or a slice such as ::5.  [default: all]",
    ),
    click.option("--heads", help="Head numbers to keep, comma separated.  [default: all]"),
    click.option("--branches", help="Guidance branches to keep, such as cond, comma separated.  [default: all]"),
    click.option(
        "--keys",
        default="all",
        show_default=True,
        help="Keys to keep: all; prompt, the text only, where text and picture share a softmax; or words of every "
        "prompt, comma separated.",
    ),
    click.option(
        "--vocabulary", metavar="WORDS", help="Words that may be in no prompt, for maps of them later, comma separated."
    ),
    click.option("--detail", default="full", show_default=True, help=f"One of: {', '.join(DETAILS)}."),
    click.option("--encoding", default="auto", show_default=True, help=f"One of: {', '.join(ENCODINGS)}."),
    click.option("--precision", default="exact", show_default=True, help=f"One of: {', '.join(PRECISIONS)}."),
)


def request_options(command: Command) -> Command:
    """Give `command` the options that make requests."""
    return _with(_REQUEST_OPTIONS, command)


def capture_options(command: Command) -> Command:
    """Give `command` an option for each field of `Capture`."""
    return _with(_CAPTURE_OPTIONS, command)


def _with(options: tuple[Callable[[Command], Command], ...], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class Asked:
    """A loaded pipeline, and what it is to draw."""

    pipe: Any
    requests: Sequence[dict[str, Any]]
    annotate: Any


def load(name: str, options: dict[str, Any], capture: Capture) -> Asked:
    """Make the requests, check them and the capture, and load the pipeline; in this order where its class is known."""
    from attlas.recorder.models.families import FAMILIES
    from attlas.recorder.pipelines import load_pipeline, pipeline_class
    from attlas.recorder.requests import accepted_arguments

    _check_words(capture, options["prompts"])
    known = pipeline_class(name)
    if known is None:
        pipe = load_pipeline(name)
        return Asked(pipe, *_requests(accepted_arguments(pipe), name, options))
    families = (family for cls in known.__mro__ for family in FAMILIES if cls.__name__ in family.pipelines)
    names = next((family.branch_names for family in families), tuple(capture.branches))
    for branch in () if capture.branches == "all" else capture.branches:
        if branch not in names:
            raise unknown_name("branch", branch, names, where=known.__name__)
    made = _requests(accepted_arguments(known), name, options)
    return Asked(load_pipeline(name), *made)


def check_flags(options: dict[str, Any]) -> None:
    """Refuse flags that exclude each other."""
    elsewhere = options["file"] is not None or options["samples"] is not None
    if options["file"] is not None and options["samples"] is not None:
        raise click.UsageError("--requests and --samples exclude each other")
    for flag, given in (("--prompt", options["prompts"]), ("--seed", options["seeds"])):
        if elsewhere and given:
            raise click.UsageError(f"{flag} cannot go with --requests or --samples, which have their own")


def capture_of(options: dict[str, Any]) -> Capture:
    """Make the capture that the options ask for."""
    keys = options["keys"]
    return Capture(
        kinds=_list(options["kinds"]),
        detail=options["detail"],
        encoding=options["encoding"],
        precision=options["precision"],
        layers=options["layers"] or None,
        steps=_steps(options["keep_steps"]),
        heads=_numbers("--heads", options["heads"]),
        keys=keys if keys in ("all", "prompt") else _list(keys) or (),
        branches=_list(options["branches"]) or "all",
        vocabulary=_list(options["vocabulary"]),
    )


def _steps(text: str | None) -> list[int] | slice | None:
    if text is None or ":" not in text:
        return _numbers("--keep-steps", text)
    ends = [end.strip() for end in text.split(":")]
    if len(ends) > 3 or not all(end.removeprefix("-").isdecimal() or not end for end in ends):
        raise click.UsageError(f"--keep-steps {text}: START:STOP:STEP is needed, each a whole number or nothing")
    numbers = [int(end) if end else None for end in ends]
    if numbers[2:] == [0]:
        raise click.UsageError(f"--keep-steps {text}: a step of 0 goes nowhere")
    return slice(*numbers)


def _numbers(flag: str, text: str | None) -> list[int] | None:
    parts = _list(text)
    if parts is not None and not all(part.isdecimal() for part in parts):
        raise click.UsageError(f"{flag} {text}: whole numbers, comma separated, are needed")
    return None if parts is None else [int(part) for part in parts]


def _check_words(capture: Capture, prompts: tuple[str, ...]) -> None:
    """Check that every prompt has the words of ``--keys``, which may also be a misspelt ``prompt``."""
    for word in () if isinstance(capture.keys, str) else capture.keys:
        for prompt in prompts:
            if not has_word(prompt, word):
                raise unknown_name("word", word, [*prompt.split(), "prompt", "all"], where=f"--keys for {prompt!r}")


def _list(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _requests(accepted: tuple[str, ...], name: str, options: dict[str, Any]) -> tuple[Sequence[dict[str, Any]], Any]:
    from attlas.recorder.file_values import read_mask, read_picture
    from attlas.recorder.pipelines import demo_requests
    from attlas.recorder.request_files import SharedRequests, read_requests

    shared: dict[str, Any] = {}
    for key, path in _pairs("--image", options["images"]):
        _check_argument(key, accepted)
        shared[key] = read_picture(path, f"--image {key}")
    for key, value in _pairs("--set", options["settings"]):
        _check_argument(key, accepted)
        shared[key] = _json(key, value)
    given = {"num_inference_steps": options["steps"], "guidance_scale": options["guidance"]}
    shared |= {key: value for key, value in given.items() if value is not None}
    masks = dict(_mask(key, read_mask(path, f"--mask {key}")) for key, path in _pairs("--mask", options["masks"]))
    annotate = None
    requests: Sequence[dict[str, Any]] = [{"prompt": prompt} for prompt in options["prompts"]] or [{}]
    if options["file"] is not None:
        requests = read_requests(options["file"], accepted)
    elif options["samples"] is not None:
        requests, annotate = demo_requests(name, options["samples"])
    return SharedRequests(requests, shared, masks, options["seeds"]), annotate


def _mask(given: str, values: Any) -> tuple[str, Annotation]:
    """Name and annotation of a mask given under ``NAME`` or ``NAME:ROLE``."""
    name, colon, role = given.partition(":")
    return name, Annotation.of({"values": values, "role": role if colon else None}, f"--mask {given}")


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

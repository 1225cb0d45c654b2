"""Pipelines by name: a folder, a hub id, or one of the demo worlds."""

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
from diffusers import DiffusionPipeline

from attlas.recorder.demo import WORLDS
from attlas.recorder.job import Annotate
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["demo_requests", "load_pipeline", "pipeline_class"]

OWN_PIPELINES = {"TryOnPipeline": "attlas.recorder.demo.tryon"}
"""Pipeline classes that attlas ships; no code is ever loaded from a pipeline folder."""


@dataclass(frozen=True)
class _Demo:
    """A demo pipeline: its world, and the arguments of the world's ``load`` and ``requests``."""

    world: str
    load: Mapping[str, Any] = field(default_factory=dict)
    requests: Mapping[str, Any] = field(default_factory=dict)


DEMOS = {
    **{f"demo:{world}": _Demo(world) for world in WORLDS},
    **{f"demo:{world}-random": _Demo(world, {"trained": False}) for world in WORLDS},
    "demo:tryon-swapped": _Demo("tryon", requests={"swapped": True}),
    "demo:tryon-refined": _Demo("tryon", {"refinement": "refined"}),
    "demo:tryon-control": _Demo("tryon", {"refinement": "control"}),
}
"""The demo pipelines by name."""


def load_pipeline(name: str | Path) -> Any:
    """Load the pipeline in a folder, on the hub, or of the demo world.

    Parameters
    ----------
    name
        A folder with a ``model_index.json``; a hub id such as ``owner/model``; or a demo pipeline: ``demo:shapes``,
        ``demo:tryon``, the same with ``-random`` for untrained weights; ``demo:tryon-swapped``; ``demo:tryon-refined``,
        trained on with losses on its attention, and ``demo:tryon-control``, as long without.

    Returns
    -------
    The pipeline, on the CPU, as its class loads it. Weights come from safetensors only, and no code of the folder
    runs.

    Raises
    ------
    UnknownNameError
        If the demo pipeline or the pipeline class is not known; close names are proposed.
    InvalidValueError
        If the folder holds no pipeline, or it cannot be loaded.

    Examples
    --------
    >>> load_pipeline("demo:shape")
    Traceback (most recent call last):
    ...
    attlas.schemas.errors.UnknownNameError: unknown demo pipeline 'demo:shape'; did you mean 'demo:shapes' ...
    """
    text = str(name)
    if text.startswith("demo:"):
        own = _demo(text)
        pipe = importlib.import_module(f"attlas.recorder.demo.{own.world}").load(**own.load)
        pipe.register_to_config(_name_or_path=text)
        return pipe
    folder = Path(text)
    if folder.exists():
        return _load(_class_of(folder), text)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise InvalidValueError(
            f"there is no pipeline at {text}: give a folder with a model_index.json, a hub id such as owner/model, "
            f"or one of {', '.join(DEMOS)}"
        )
    return _load(DiffusionPipeline, text)


def pipeline_class(name: str | Path) -> Any:
    """Class of the pipeline in a folder, without loading it; None where `name` is no folder."""
    return _class_of(Path(name)) if Path(name).is_dir() else None


def demo_requests(name: str, samples: int) -> tuple[list[dict[str, Any]], Annotate | None]:
    """Return held-out requests of the demo world behind `name`, and how its pictures are annotated."""
    if not name.startswith("demo:"):
        raise InvalidValueError(f"--samples takes the samples of a demo world; {name} is none of {', '.join(DEMOS)}")
    own = _demo(name)
    module = importlib.import_module(f"attlas.recorder.demo.{own.world}")
    return module.requests(samples, **own.requests), getattr(module, "annotate", None)


def _demo(name: str) -> _Demo:
    if name not in DEMOS:
        raise unknown_name("demo pipeline", name, DEMOS)
    return DEMOS[name]


def _class_of(folder: Path) -> Any:
    """Pipeline class that a folder asks for."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise InvalidValueError(f"{folder} is no pipeline folder: it has no model_index.json")
    try:
        named = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as err:
        raise InvalidValueError(f"{index} is not the index of a pipeline: {err}") from err
    if named in OWN_PIPELINES:
        return getattr(importlib.import_module(OWN_PIPELINES[named]), named)
    known = [cls for cls in dir(diffusers) if cls.endswith("Pipeline")]
    if not isinstance(named, str) or named not in known:
        raise unknown_name("pipeline class", str(named), [*OWN_PIPELINES, *known], where=str(index))
    return getattr(diffusers, named)


def _load(pipeline: Any, name: str) -> Any:
    try:
        return pipeline.from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError) as err:
        raise InvalidValueError(f"the pipeline {name} cannot be loaded: {err}") from err

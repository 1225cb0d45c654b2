"""How a result was made, in the words that a reader needs to make it again."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from attlas.analysis.store_paths import short_name
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError

__all__ = ["label_of", "labels_of", "settings_of", "shorten"]

RULES = (
    "direction",
    "onto",
    "kind",
    "branch",
    "layers",
    "heads",
    "chosen_keys",
    "chosen_queries",
    "sinks",
    "reduce",
    "order",
    "resample",
    "conserve",
    "variant",
)
WARNINGS = ("inert", "partial")
"""Attributes that are told only where they are true."""
ASKED = ("guidance_scale", "num_inference_steps")


def settings_of(traces: Sequence[Trace], made: xr.DataArray | None = None, **rules: Any) -> dict[str, Any]:
    """Say how a result was made.

    Parameters
    ----------
    traces
        What it was made of.
    made
        A map of it, whose attributes say direction, layers, branch, resampling.
    **rules
        What else was chosen, such as ``normalise``, ``threshold``, ``invert``; these win over attributes of `made`.

    Returns
    -------
    Texts by name: for each store its model, digest, pipeline, scheduler, calls, steps, guidance and seeds, then the
    rules. Many seeds or layers are told in short.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> settings_of([open_trace(simulate_store(runs=2))], threshold="minmax 0.4 soft")["threshold"]
    'minmax 0.4 soft'
    """
    told: dict[str, Any] = {}
    for name, trace in zip(labels_of(traces), traces, strict=True):
        told[f"store {name}"] = _source(trace)
    if made is not None:
        told |= {name: shorten(str(made.attrs[name])) for name in RULES if name in made.attrs}
        told |= {name: "yes" for name in WARNINGS if made.attrs.get(name)}
    return told | {name: shorten(str(value)) for name, value in rules.items()}


def labels_of(traces: Sequence[Trace]) -> list[str]:
    """Give the short name of each store, numbered where two have the same.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> labels_of([open_trace(simulate_store(runs=1))] * 2)
    ['simulated', 'simulated #2']
    """
    names = [label_of(trace) for trace in traces]
    return [
        name if name not in names[:place] else f"{name} #{names[: place + 1].count(name)}"
        for place, name in enumerate(names)
    ]


def label_of(trace: Trace) -> str:
    """Short name of a store for rows and legends: its folder's name without the suffix, else its model."""
    return short_name(trace.path) if trace.path else trace.manifest.model


def shorten(text: str, parts: int = 4) -> str:
    """Give a long list joined by commas as its first and last entries and their number.

    Examples
    --------
    >>> shorten("a, b, c, d, e, f")
    'a, b, ... f (6)'
    """
    listed = text.split(", ")
    return text if len(listed) <= parts else f"{', '.join(listed[:2])}, ... {listed[-1]} ({len(listed)})"


def _source(trace: Trace) -> str:
    manifest = trace.manifest
    scheduler = manifest.scheduler.get("class", "unknown scheduler")
    steps = len(set(trace.runs["step"].values[0].tolist()))
    asked = [_asked(str(request)) for request in trace.runs["request"].values]
    words = [
        f"{manifest.model} (weights {manifest.model_digest[:12] or 'unknown'})",
        f"{manifest.pipeline}, {scheduler}, {steps} steps in {trace.calls} calls",
        *(
            f"{name} {_values(own.get(name) for own in asked)}"
            for name in ASKED[:1]
            if any(name in own for own in asked)
        ),
        f"{len(trace.run_ids)} runs, seeds {_values(trace.runs['seed'].values.tolist())}",
        f"branches {', '.join(trace.branches)}",
    ]
    return "; ".join(words)


def _asked(request: str) -> Mapping[str, Any]:
    try:
        asked = json.loads(request) if request else {}
    except json.JSONDecodeError as err:
        raise InvalidValueError(f"a run's request is no JSON: {request[:80]!r}") from err
    return asked if isinstance(asked, dict) else {}


def _values(values: Any) -> str:
    """Distinct values in order; a run of whole numbers as its ends."""
    listed = list(dict.fromkeys(values))
    whole = all(isinstance(value, int) for value in listed)
    if whole and len(listed) > 2 and listed == list(range(listed[0], listed[-1] + 1)):
        return f"{listed[0]} to {listed[-1]}"
    return shorten(", ".join("none" if value is None else str(value) for value in listed))

"""A registered map as a call: yours beside those of attlas."""

import sys
from pathlib import Path
from typing import Any

import xarray as xr

from attlas.analysis import Trace
from attlas.analysis.registry import Registered, map_of
from attlas.analysis.surveys.records import canonical
from attlas.analysis.surveys.specs import read_specs
from attlas.dashboards.calls import ALL_GRIDS, Call
from attlas.dashboards.questions import Question
from attlas.schemas.errors import AttlasError, InvalidValueError

__all__ = ["FAILURES", "map_call", "side_of"]

FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a person's own function may raise where it does not fit a store."""


def map_call(question: Question, trace: Trace, keep: tuple[str, ...]) -> Call:
    """Return the call of the map that a question names: the mean over the axes of its result that are not in `keep`.

    Of direction, kind, branch and layers it is given those that the function takes.

    Raises
    ------
    InvalidValueError
        If the function fails here, returns no map, or its map has not the axes in `keep`.
    """
    made = map_of(str(question.map))
    told = {"direction": question.direction, "kind": question.kind, "branch": question.branch}
    told |= {} if question.grid == ALL_GRIDS else {"layers": question.grid}
    options = {name: value for name, value in told.items() if name in made.options or made.takes_any}
    result = _result(made, trace, options)
    lacking = [dim for dim in keep if dim not in result.dims]
    if lacking:
        raise InvalidValueError(f"map {made.name!r} is not taken apart by {' and '.join(lacking)}")
    frames = ("query_frame", "key_frame")
    merged = [str(dim) for dim in result.dims[1:-2] if dim not in (*keep, *frames)]

    def function(trace: Trace, **options: Any) -> xr.DataArray:
        answer = _result(made, trace, options)
        return answer.mean(merged, keep_attrs=True) if merged else answer

    shown = "".join(f", {name}={value!r}" for name, value in options.items())
    mean = f".mean({merged!r})" if merged else ""
    return Call(function, options, f"map_of({made.name!r}).function(trace{shown}){mean}", _setup(made))


def side_of(answer: xr.DataArray) -> str:
    """Picture that a map lies on by the names of its dims, ``generated`` or ``reference``."""
    of_reference = answer.attrs.get("kind") == "image" or answer.attrs.get("segment") == "reference"
    return "reference" if answer.dims[-1] == "key_x" and of_reference else "generated"


def _result(made: Registered, trace: Trace, options: dict[str, Any]) -> xr.DataArray:
    (spec,) = read_specs((made.name, options), maps=True)
    try:
        result = made.function(trace, **options)
    except AttlasError:
        raise
    except FAILURES as err:
        raise InvalidValueError(f"map {made.name!r} fails here: {type(err).__name__}: {err}") from err
    canonical(result, spec, trace)
    return result


def _setup(made: Registered) -> tuple[str, ...]:
    """Lines that make the map known where the source runs."""
    lines = ("from attlas.analysis.registry import map_of",)
    module = sys.modules.get(made.function.__module__)
    file = getattr(module, "__file__", None)
    if not made.function.__module__.startswith("attlas_plugin_") or file is None:
        return lines
    return (
        "from attlas.analysis.plugins import load_plugins",
        *lines,
        "",
        f"load_plugins([{str(Path(file))!r}])",
    )

"""A question as a call of `attlas.analysis`: what the page computes, and the Python that it shows, are one thing."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from attlas.analysis import Trace, maps
from attlas.analysis.words import text_kind, word_keys
from attlas.dashboards.calls import ALL_GRIDS, Call
from attlas.dashboards.landing import landing, middle
from attlas.dashboards.map_calls import map_call, side_of
from attlas.dashboards.state import BenchState, Question

__all__ = ["ALL_GRIDS", "Call", "asked_side", "call", "python"]

Grid = tuple[int, int]


def call(question: Question, patch_grid: Grid, trace: Trace, keep: tuple[str, ...] = ()) -> Call:
    """Return the call that answers `question`, one map for every combination of the axes in `keep`.

    Parameters
    ----------
    question
        What is asked.
    patch_grid
        Grid in which the question's patch lies.
    trace
        Trace of the question's run: words are looked up in its prompt.
    keep
        Axes kept apart, any of ``t``, ``layer``, ``head``.

    Returns
    -------
    Call whose result has dims ``(*keep, y, x)`` on the side that `Question.mode` points to.
    """
    common: dict[str, Any] = {"keep": keep, "branch": question.branch}
    if question.grid != ALL_GRIDS:
        common["layers"] = question.grid
    if question.map is not None:
        return map_call(question, trace, keep)
    if question.word is not None:
        return _word_call(question, trace, common)
    part = landing(trace, question.kind)
    own = {**common, "kind": question.kind, "reduce": "mean", **part.arguments}
    asked_frame = None if question.mode == "reference" and part.on_reference else part.frame
    return _patch_call(question, patch_grid, own, asked_frame, part.frames)


def asked_side(question: Question, trace: Trace) -> str:
    """Picture that the answer to a patch or word lies on, ``generated`` or ``reference``."""
    on_reference = question.mode == "patch" and landing(trace, question.kind).on_reference
    return "reference" if on_reference else "generated"


def _word_call(question: Question, trace: Trace, common: dict[str, Any]) -> Call:
    word = str(question.word)
    if question.direction == "g2r":
        return Call(maps.daam, {"word": word, **common}, f"maps.daam(trace, {word!r}{_shown(common)})")
    tokens = word_keys(trace, word, branch=question.branch)
    own = {"kind": text_kind(trace), "onto": "query", "reduce": "mean", **common}
    return Call(
        maps.aggregate,
        {"direction": question.direction, "keys": tokens, **own},
        f"maps.aggregate(trace, {question.direction!r}, keys=tokens{_shown(own)})",
        (
            "from attlas.analysis.words import word_keys",
            "",
            f"tokens = word_keys(trace, {word!r}, branch={question.branch!r})",
        ),
    )


def _patch_call(
    question: Question, patch_grid: Grid, own: dict[str, Any], frame: int | None, frames: int | None
) -> Call:
    """Call for a patch; `frame` is that on which it lies, of so many `frames`, None on a picture."""
    patch: tuple[int, ...] = question.patch or (0, 0)
    grid: tuple[int, ...] = patch_grid
    if frame is not None and frames is not None:
        patch, grid = (frame, *patch), (frames, *grid)
    named = {("patch", "g2r"): maps.sram, ("reference", "r2g"): maps.reverse_sram}.get(
        (question.mode, question.direction)
    )
    if named is not None:
        return Call(named, {"patch": patch, **own}, f"maps.{named.__name__}(trace, {patch!r}{_shown(own)})")
    # The other softmax direction of the same patch has no name of its own.
    mask = np.zeros(grid, dtype=bool)
    mask[patch] = True
    side, onto = ("queries", "key") if question.mode == "patch" else ("keys", "query")
    own = {**own, "onto": onto}
    return Call(
        maps.aggregate,
        {"direction": question.direction, side: mask, **own},
        f"maps.aggregate(trace, {question.direction!r}, {side}=patch{_shown(own)})",
        (
            "import numpy as np",
            "",
            f"patch = np.zeros({grid!r}, dtype=bool)",
            f"patch[{', '.join(map(str, patch))}] = True",
        ),
    )


def _shown(arguments: Mapping[str, Any]) -> str:
    return "".join(f", {name}={value!r}" for name, value in arguments.items())


def python(state: BenchState, path: str, trace: Trace) -> str:
    """Python that reproduces the view: the map as ``attention``, and its picture.

    It runs as it stands wherever the store lies at `path`; `trace` is that of the state's run.
    """
    question = state.question
    made = call(question, state.patch_grid, trace)
    imports = [line for line in made.setup if line.startswith(("import ", "from "))]
    body = [line for line in made.setup if line and line not in imports]
    answer = made.function(trace, **made.arguments)
    side = side_of(answer) if question.map is not None else asked_side(question, trace)
    picture = f"trace.{'reference' if side == 'reference' else 'images'}.isel(run=0)"
    place = ", ".join(f"{dim}={index}" for dim, index in middle(answer).items())
    style = f"colours={state.colours!r}, opacity={state.opacity:g}, threshold={state.threshold:g}"
    lines = [
        *[line for line in imports if line.startswith("import ")],
        "from attlas.analysis import maps, open_trace",
        *[line for line in imports if line.startswith("from ")],
        "from attlas.dashboards import plots",
        "",
        f"trace = open_trace({path!r}).sel({question.run!r})",
        *body,
        f"attention = {made.source}.isel({place}).compute()",
        f"plots.overlay({picture}, attention, {style})",
    ]
    return "\n".join(lines) + "\n"

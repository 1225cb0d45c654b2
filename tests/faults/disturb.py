"""One fault in one recording, and what comes of it."""

import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from faults.aftermath import Aftermath
from faults.children import Ended, Note, in_child
from faults.interrupt import Fault, arm
from faults.outcome import Outcome
from faults.scenarios import STORE, Scenario
from faults.undisturbed import Undisturbed, copy_of

__all__ = ["disturb"]


def disturb(reference: Undisturbed, fault: Fault) -> Outcome:
    """Record with `fault`, look, resume, look again; the outcome lists everything that is not as promised."""
    began = time.perf_counter()
    scenario = reference.scenario
    outcome = Outcome(scenario.name, fault.mode, fault.number)
    # Whoever sees an error may call again at once, in the process in which it was raised.
    at_once = not fault.deadly and not fault.lasting and fault.number // 2 % 2 == 1
    with copy_of(reference.base) as folder:
        ended = in_child(lambda note: _call(scenario, folder, fault, note, again=at_once))
        outcome.operation = ended.notes[0] if ended.notes else ""
        outcome.reached = bool(ended.notes)
        if fault.deadly and outcome.reached and not scenario.survives:
            finished = False
            if not ended.signal:
                outcome.add("not killed", str(ended))
        else:
            finished = _judge(outcome, ended)

        def look_and_resume(_: Note) -> tuple[int, list[tuple[str, str]]]:
            aftermath = Aftermath(reference, folder)
            if not at_once:
                aftermath.at_once(finished=finished)
                aftermath.resume()
            aftermath.at_the_end()
            return aftermath.runs, aftermath.problems

        after = in_child(look_and_resume)
        if after.returned:
            outcome.runs, problems = after.value
            for kind, text in problems:
                outcome.add(kind, text)
        else:
            outcome.add("hang" if after.hung else "not resumed", f"{after}\n{after.trace}")
    outcome.seconds = time.perf_counter() - began
    return outcome


@dataclass
class Called:
    """How a call ended whose process lives: the classes and words of its error, and what it left in the pipeline."""

    bases: tuple[str, ...] = ()
    error: str = ""
    trace: str = ""
    hooks: int = 0


def _call(scenario: Scenario, folder: Path, fault: Fault, note: Note, *, again: bool) -> Called:
    called = Called()
    try:
        scenario.disturbed(folder / STORE, lambda: arm(folder, fault, lambda operation: note(str(operation))))
    except Exception as err:  # noqa: BLE001 - which it may be is the question
        called.bases = tuple(base.__name__ for base in type(err).__mro__)
        called.error, called.trace = str(err), "".join(traceback.format_exception(err))
    called.hooks = _hooks(scenario.pipe())
    if again and called.bases:
        scenario.call(folder / STORE)
    return called


def _hooks(pipe: Any) -> int:
    """Hooks on any module of the pipeline."""
    modules = (part for part in pipe.components.values() if isinstance(part, torch.nn.Module))
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for part in modules for m in part.modules())


def _judge(outcome: Outcome, ended: Ended) -> bool:
    """Judge how the process ended that made the call, and was to live; return whether it said success."""
    if ended.hung:
        outcome.add("hang", str(ended))
    elif ended.signal:
        outcome.add("foreign exception", f"the process died: {ended}")
    elif ended.error is not None:
        outcome.add("not resumed", f"the call that followed an error: {ended}\n{ended.trace}")
    else:
        called: Called = ended.value
        if called.hooks:
            outcome.add("left over", f"{called.hooks} hooks in the pipeline after {called.error or 'success'}")
        if called.bases and "AttlasError" not in called.bases:
            outcome.add("foreign exception", f"{called.bases[0]}: {called.error}\n{called.trace[-3000:]}")
        outcome.raised = called.bases[0] if called.bases else ""
        return not called.bases
    return False

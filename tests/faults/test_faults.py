"""A sample of all faults, the same each time; ``make soak`` tries every one."""

import pytest
from faults.choice import FAMILIES, everything, sampled
from faults.crew import crew
from faults.damage import DAMAGES
from faults.interrupt import MODES
from faults.scenarios import SCENARIOS
from faults.work import Task

pytestmark = pytest.mark.slow

OF_EACH_SCENARIO = 6
DAMAGED = 45
FUZZED = 30
OPENINGS = 8
SHARED = 8


@pytest.fixture(scope="module")
def hands():
    with crew(1) as hands:
        yield hands


@pytest.fixture(scope="module")
def tasks(hands):
    """Everything that could be tried."""
    failed = []
    made = everything(hands.operations(failed), hands.files(), FAMILIES)
    assert failed == []
    return made


def check(hands, tasks):
    outcomes = list(hands.perform(tasks))
    assert len(outcomes) == len(tasks)
    bad = [str(outcome) for outcome in outcomes if outcome.problems]
    assert bad == [], "\n\n".join(bad)
    return outcomes


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_disturbed_recording_goes_on_and_ends_as_an_undisturbed_one(hands, tasks, scenario):
    own = [task for task in tasks if task.what == "disturb" and task.arguments[0] == scenario]
    place = list(SCENARIOS).index(scenario)
    chosen = sampled([task for task in own if task.arguments[1].mode == "kill"], OF_EACH_SCENARIO // 2, place)
    chosen += sampled([task for task in own if task.arguments[1].mode != "kill"], OF_EACH_SCENARIO // 2, place)
    outcomes = check(hands, chosen)
    assert any(outcome.reached for outcome in outcomes)


def test_every_kind_of_fault_happens_at_every_change(tasks):
    faults = [task.arguments[1] for task in tasks if task.what == "disturb"]
    assert {fault.mode for fault in faults} == set(MODES)
    assert sum(fault.mode == "kill" for fault in faults) > 100 * (len(SCENARIOS) - 1)


def test_damaged_files_are_found_and_never_read_as_numbers(hands, tasks):
    own = [task for task in tasks if task.what == "damage"]
    assert {task.arguments[2] for task in own} == set(DAMAGES)
    outcomes = check(hands, sampled(own, DAMAGED))
    assert sum(outcome.runs for outcome in outcomes)


def test_strange_metadata_are_refused_or_read_right(hands, tasks):
    check(hands, sampled([task for task in tasks if task.what == "fuzz"], FUZZED))


def test_readers_beside_writers_see_complete_runs_only(hands):
    (outcome,) = check(hands, [Task("beside", (OPENINGS, 1))])
    assert outcome.runs >= OPENINGS


def test_a_list_that_processes_share_is_drawn_once(hands):
    check(hands, [Task("shared", (SHARED,))])

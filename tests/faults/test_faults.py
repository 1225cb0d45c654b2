"""A sample of all faults, the same each time; ``make soak`` tries every one."""

import pytest
from faults.choice import everything, sampled
from faults.crew import crew
from faults.damage import DAMAGES
from faults.interrupt import MODES
from faults.scenarios import SCENARIOS
from faults.work import Task

pytestmark = pytest.mark.slow

KILLS = 2
ERRORS = 2
"""Of each recording."""

DAMAGED = 30
STRANGE = 25
OPENINGS = 6
SHARED = 8


@pytest.fixture(scope="module")
def hands():
    with crew(1) as hands:
        yield hands


def check(hands, tasks):
    outcomes = list(hands.perform(tasks))
    assert len(outcomes) == len(tasks)
    bad = [str(outcome) for outcome in outcomes if outcome.problems]
    assert bad == [], "\n\n".join(bad)
    return outcomes


@pytest.mark.parametrize("place", range(len(SCENARIOS)), ids=SCENARIOS)
def test_a_disturbed_recording_goes_on_and_ends_as_an_undisturbed_one(hands, place):
    failed = []
    operations = hands.operations([list(SCENARIOS)[place]], failed)
    assert failed == [], "\n\n".join(map(str, failed))
    tasks = everything(operations, {}, ("disturb",))
    kills = [task for task in tasks if task.arguments[1].mode == "kill"]
    others = [task for task in tasks if task.arguments[1].mode != "kill"]
    assert min(len(kills), len(others)) > 5
    if place < 2:
        # The first two are disturbed in every way.
        assert {task.arguments[1].mode for task in tasks} == set(MODES)
        assert min(len(kills), len(others)) > 200
    outcomes = check(hands, sampled(kills, KILLS, place) + sampled(others, ERRORS, place))
    assert any(outcome.reached for outcome in outcomes)


def test_damaged_files_are_found_and_never_read_as_numbers(hands):
    tasks = everything({}, hands.files(), ("damage",))
    assert {task.arguments[2] for task in tasks} == set(DAMAGES)
    assert len({task.arguments[:2] for task in tasks}) > 300
    outcomes = check(hands, sampled(tasks, DAMAGED))
    assert sum(outcome.runs for outcome in outcomes)


def test_strange_metadata_are_refused_or_read_right(hands):
    check(hands, sampled(everything({}, hands.files(), ("fuzz",)), STRANGE))


def test_readers_beside_writers_see_complete_runs_only(hands):
    (outcome,) = check(hands, [Task("beside", (OPENINGS, 1))])
    assert outcome.runs >= OPENINGS


def test_a_list_that_is_shared_is_drawn_once(hands):
    check(hands, [Task("shared", (SHARED,)), Task("workers", (SHARED,))])

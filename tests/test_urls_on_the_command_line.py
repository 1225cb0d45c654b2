"""A URL reaches the storage as it was typed, in every command that takes a store."""

import json

import click
import far_memory
import pytest
from click.testing import CliRunner

from attlas.analysis import open_trace, survey
from attlas.dashboards.data import Catalogue
from attlas.dashboards.shelf import find_stores
from attlas.schemas import open_store, simulate_store
from attlas.schemas.cli.group import COMMANDS, attlas
from attlas.schemas.errors import StoreNotFoundError
from attlas.schemas.storage.opening import SCHEMES

ONE, OTHER = "far://bucket/runs/a.zarr", "far://bucket/runs/b.zarr"
PATTERN = "far://bucket/runs/*.zarr"
STORE = ("store", "stores", "truth")
"""Names of the parameters that are stores."""

CALLS = {
    "info": ["--json"],
    "map": ["--map", "ulam", "--json"],
    "sinks": ["--json"],
    "score": ["--json", "--truth", ONE],
    "survey": ["--statistic", "annotation:quality", "--quiet"],
    "recipe run daam-fig1": ["--quiet", "--option", "samples=1"],
    "report": ["--quiet", "--runs", "1"],
    "validate": ["--quiet"],
    "repair": ["--quiet"],
}
"""Commands that end by themselves, and what they need beside a store."""


@pytest.fixture
def far(monkeypatch, tmp_path):
    monkeypatch.setitem(SCHEMES, "far", ("far_memory", "open_far"))
    monkeypatch.chdir(tmp_path)
    far_memory.PLACES.clear()
    for url in (ONE, OTHER):
        simulate_store(url, runs=2, kinds=("text", "image"))
    far_memory.OPENED.clear()
    return far_memory


def run(*arguments):
    result = CliRunner().invoke(attlas, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def parameters():
    """Every parameter of every command, with the words that call it."""
    waiting = [((name,), attlas.get_command(None, name)) for name in COMMANDS]
    while waiting:
        words, command = waiting.pop()
        if isinstance(command, click.Group):
            waiting += [((*words, name), own) for name, own in command.commands.items()]
        for parameter in command.params:
            yield words, parameter


def test_no_store_is_taken_for_a_path_of_this_machine():
    taken = [(words, own) for words, own in parameters() if own.name in STORE]
    assert len(taken) >= len(CALLS)
    for words, own in taken:
        assert isinstance(own.type, click.types.StringParamType), f"{' '.join(words)}: {own.name} is {own.type}"


@pytest.mark.parametrize("command", CALLS)
def test_a_url_is_opened_as_it_is(far, command):
    run(*command.split(), ONE, *CALLS[command])
    opened = {url.removesuffix(".recording") for url in far.OPENED}
    assert opened == {ONE}


def test_the_dashboard_is_given_the_url(far, monkeypatch):
    given = []
    monkeypatch.setattr("attlas.dashboards.serve.serve", lambda stores, **_: given.extend(stores))
    run("dashboard", ONE, "--no-open")
    assert given == [ONE]
    assert find_stores([ONE]) == ({"a.zarr": ONE}, [])
    assert Catalogue([ONE]).trace("a.zarr").path == ONE


@pytest.mark.parametrize("command", ["info", "map", "sinks", "recipe run daam-fig1", "report"])
def test_a_pattern_of_urls(far, command):
    run(*command.split(), PATTERN, *CALLS[command])
    assert {ONE, OTHER} <= set(far.OPENED)


def test_a_pattern_is_one_trace_whose_runs_have_the_stores_name(far):
    told = json.loads(run("info", PATTERN, "--json"))
    assert told["stores"] == [ONE, OTHER]
    assert told["runs"] == {"complete": 4, "incomplete": 0}
    assert told["bytes"] is None
    told = json.loads(run("map", PATTERN, "--map", "ulam", "--run", "b/0001", "--json"))
    assert [one["run"] for one in told["maps"]] == ["b/0001"]


def test_patterns_match_part_by_part(far):
    assert open_trace("far://bucket/*/a.zarr").path == ONE
    assert open_trace("far://bucket/runs/[ab].zarr", prefix=True).run_ids[::2] == ("a/0000", "b/0000")
    assert find_stores([PATTERN]) == ({"a.zarr": ONE, "b.zarr": OTHER}, [])
    with pytest.raises(StoreNotFoundError, match=r"no store matches far://bucket/none/\*\.zarr"):
        open_trace("far://bucket/none/*.zarr")
    assert open_store(ONE).run_ids == ["0000", "0001"]


def test_a_survey_of_urls_names_stores_by_their_file(far):
    made = survey([ONE], "annotation:quality", progress=False)
    assert made.scores["store"].values.tolist() == ["a", "a"]

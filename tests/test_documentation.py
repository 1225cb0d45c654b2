"""The documentation says what the code says."""

import re
from pathlib import Path

import pytest
from page_examples import commands, make_models, measured, printed, program
from same_process import python

from attlas.schemas.variables import (
    LEAF_VARIABLES,
    ROOT_VARIABLES,
    STATISTIC_VARIABLES,
    VOCABULARY_VARIABLES,
    markdown_table,
)

ROOT = Path(__file__).parents[1]


def test_store_tables_are_the_registry():
    text = (ROOT / "docs/store.md").read_text()
    assert markdown_table(ROOT_VARIABLES) in text
    assert markdown_table(LEAF_VARIABLES) in text
    assert markdown_table(VOCABULARY_VARIABLES) in text
    assert markdown_table(STATISTIC_VARIABLES) in text


def test_the_ten_lines_of_the_readme_run(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    told = python(block, tmp_path)
    assert "('run', 'query_y', 'query_x')" in told
    assert "('run', 'branch', 't', 'layer', 'head', 'query', 'key')" in told


def test_pictures_and_pages_that_are_linked_exist():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow
def test_the_recording_page_runs_and_prints_what_it_says(tmp_path):
    page = (ROOT / "docs/recording.md").read_text()
    make_models(tmp_path)
    for command, output in commands(page):
        assert measured(printed(command, tmp_path)) == measured(output), command
    assert python(program(page), tmp_path).splitlines()[-1] == "['0000', '0001']"


def test_the_recording_page_knows_every_field_of_a_capture():
    from dataclasses import fields

    from attlas.recorder import Capture
    from attlas.recorder.commands import plan, record

    page = (ROOT / "docs/recording.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(--[\w-]+)` \|", page, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(field.name for field in fields(Capture))
    for command in (plan, record):
        options = {option for parameter in command.params for option in parameter.opts}
        assert {option for _, option in rows} <= options

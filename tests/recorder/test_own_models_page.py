"""The page on models of one's own: its program runs and prints what it says."""

import re
from pathlib import Path

from same_process import python

PAGE = Path(__file__).parents[2] / "docs/own-models.md"


def test_the_program_of_the_page_runs(tmp_path):
    text = PAGE.read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (printed,) = re.findall(r"The last line prints `(.*)`", text)
    told = python(program, tmp_path)
    assert told.splitlines()[-1] == printed
    assert "block.attn2" in told

"""The page of architectures says what the rows say."""

from matrix.rows import Row, rows
from matrix.table import PAGE, branches, grids, keys, page


def test_the_page_is_made_from_the_rows():
    assert PAGE.read_text() == page(rows()), "python tests/recorder/matrix/table.py writes it anew"


def test_every_row_has_a_name_of_its_own():
    names = [row.name for row in rows()]
    assert len(set(names)) == len(names)


def test_a_row_that_is_not_recorded_has_its_error():
    for row in rows():
        assert bool(row.reason) == (row.error is not None), row.name
        assert bool(row.reason) != bool(row.leaves), row.name


def test_cells():
    leaves = {"text/8x8": "1 bos, 2 word", "text/4x4": "1 bos, 2 word", "self/8x8": "64 self", "self/4x4": "16 self"}
    row = Row("name", "Pipeline", None, leaves=leaves, branches=("cond", "uncond"), passes=True)
    assert (branches(row), grids(row), keys(row)) == ("cond, uncond (passes)", "8x8, 4x4", "text: 1 bos, 2 word")
    row = Row("name", "Pipeline", None, leaves={"joint/4x8x8-h2": "12 text, 256 generated"})
    assert (branches(row), grids(row), keys(row)) == ("uncond, cond", "4x8x8", "12 text, 256 generated")

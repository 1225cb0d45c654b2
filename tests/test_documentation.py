"""The documentation says what the code says."""

from pathlib import Path

from attlas.schemas.variables import LEAF_VARIABLES, ROOT_VARIABLES, markdown_table

ROOT = Path(__file__).parents[1]


def test_store_tables_are_the_registry():
    text = (ROOT / "docs/store.md").read_text()
    assert markdown_table(ROOT_VARIABLES) in text
    assert markdown_table(LEAF_VARIABLES) in text

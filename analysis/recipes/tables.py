"""A recipe's table: text to read, CSV and Parquet to compute with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attlas.analysis.scoring.score_table import Score

__all__ = ["Table"]


@dataclass(frozen=True)
class Table:
    """Named columns and rows; a cell is a text, a number, a `Score` with its interval, or None for nothing to say.

    Raises
    ------
    ValueError
        If a row has another number of cells than there are columns.

    Examples
    --------
    >>> print(Table("IMACS", ("model", "ours", "paper"), [("trained", 0.25, None), ("random", -1.5, 0.0785)]))
    IMACS
      model     ours   paper
      trained   0.25       -
      random   -1.50  0.0785
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __post_init__(self) -> None:
        """Refuse rows of another length."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: a row has {len(row)} cells for {len(self.columns)} columns")

    def __str__(self) -> str:
        """Title and aligned columns: numbers to the right, with as many decimals as the column needs."""
        shown = [self._column(place) for place in range(len(self.columns))]
        lines = [self.title]
        lines += [("  " + "  ".join(cells)).rstrip() for cells in zip(*shown, strict=True)]
        return "\n".join(lines)

    def column(self, name: str) -> list[Any]:
        """Cells of one column."""
        place = list(self.columns).index(name)
        return [row[place] for row in self.rows]

    def to_frame(self) -> Any:
        """Pandas DataFrame: float where all cells are numbers or None, else text.

        A column of scores becomes three: its mean, half its 95 % interval (``NAME ci95``) and its samples (``NAME n``).
        """
        import pandas as pd

        columns = {}
        for name, cells in _plain_columns(self).items():
            if all(isinstance(cell, int) and not isinstance(cell, bool) for cell in cells) and cells:
                columns[name] = pd.Series(cells, dtype="int64")
            elif all(cell is None or _is_number(cell) for cell in cells):
                columns[name] = pd.Series(
                    [math.nan if cell is None else float(cell) for cell in cells], dtype="float64"
                )
            else:
                columns[name] = pd.Series([None if cell is None else str(cell) for cell in cells], dtype="object")
        return pd.DataFrame(columns)

    def _column(self, place: int) -> list[str]:
        """Heading and cells of a column, all of one width."""
        cells = [row[place] for row in self.rows]
        numbers = all(cell is None or _is_number(cell) or isinstance(cell, Score) for cell in cells)
        digits = max((_digits(cell) for cell in cells if _is_number(cell)), default=0)
        words = [self.columns[place], *(_shown(cell, digits) if numbers else _shown(cell, None) for cell in cells)]
        width = max(len(word) for word in words)
        return [word.rjust(width) if numbers else word.ljust(width) for word in words]


def _plain_columns(table: Table) -> dict[str, list[Any]]:
    """Columns with scores taken apart."""
    columns: dict[str, list[Any]] = {}
    for name in table.columns:
        cells = table.column(name)
        if not any(isinstance(cell, Score) for cell in cells):
            columns[name] = cells
            continue
        columns[name] = [cell.value if isinstance(cell, Score) else cell for cell in cells]
        columns[f"{name} ci95"] = [cell.ci95 if isinstance(cell, Score) else None for cell in cells]
        columns[f"{name} n"] = [cell.n if isinstance(cell, Score) else None for cell in cells]
    return columns


def _is_number(cell: Any) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _digits(number: float) -> int:
    """Decimals of a number at four significant digits, at most six."""
    if isinstance(number, int) or not math.isfinite(number) or number == 0 or abs(number) < 1e-6:
        return 0
    text = f"{number:.4g}"
    if "e" in text:
        text = f"{number:.6f}".rstrip("0")
    return min(6, len(text.partition(".")[2]))


def _shown(cell: Any, digits: int | None) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    if isinstance(cell, Score):
        spread = f" +-{cell.ci95:.3f}" if math.isfinite(cell.ci95) else ""
        return "-" if math.isnan(cell.value) else f"{cell.value:.3f}{spread}"
    if not _is_number(cell):
        return str(cell)
    if digits is None or isinstance(cell, int):
        return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
    if 0 < abs(cell) < 1e-6:
        return f"{cell:.1e}"
    return f"{cell:.{digits}f}"

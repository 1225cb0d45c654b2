"""Where each tile of a strip lies, in screen pixels: pure arithmetic, used to draw and to tell what was clicked."""

import math
from dataclasses import dataclass

from attlas.schemas.errors import InvalidValueError

__all__ = ["Tiles"]

GAP = 8
LABEL = 18


@dataclass(frozen=True)
class Tiles:
    """`count` tiles of `height` x `width` pixels in rows of `columns`, each with a label above it.

    Examples
    --------
    >>> tiles = Tiles(3, columns=2, height=50, width=100)
    >>> tiles.extent
    (144, 208)
    >>> tiles.origin(2)
    (94, 0)
    >>> tiles.at(30.0, 100.0), tiles.at(104.0, 30.0)
    (2, None)
    """

    count: int
    columns: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.count, self.columns, self.height, self.width) < 1:
            raise InvalidValueError(
                f"tiles: count {self.count}, columns {self.columns}, {self.height}x{self.width} pixels; "
                "each must be at least 1"
            )

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns of the whole strip, in pixels."""
        rows, columns = math.ceil(self.count / self.columns), min(self.count, self.columns)
        return rows * (LABEL + self.height) + (rows - 1) * GAP, columns * self.width + (columns - 1) * GAP

    def origin(self, index: int) -> tuple[int, int]:
        """Top left pixel (row, column) of the picture of tile `index`."""
        row, column = divmod(index, self.columns)
        return row * (LABEL + self.height + GAP) + LABEL, column * (self.width + GAP)

    def label(self, index: int) -> tuple[float, float]:
        """Place (x, y) of the left middle of a tile's label."""
        y, x = self.origin(index)
        return float(x), y - LABEL / 2 - 1

    def box(self, index: int) -> tuple[float, float, float, float]:
        """Left, low, right and high edge of a tile."""
        y, x = self.origin(index)
        return float(x), float(y), float(x + self.width), float(y + self.height)

    def at(self, x: float, y: float) -> int | None:
        """Tile at a place, or None between tiles."""
        for index in range(self.count):
            left, top, right, bottom = self.box(index)
            if left <= x < right and top <= y < bottom:
                return index
        return None

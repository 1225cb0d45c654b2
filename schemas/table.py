"""The run table: columns with an entry a run, in blocks of rows that are read and written whole.

The block of ``complete`` is written last; what it calls complete stands in all other columns already.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from attlas.schemas.errors import CorruptDataError
from attlas.schemas.inline import write_inline
from attlas.schemas.reading import read_array
from attlas.schemas.variables import Variable

__all__ = ["BLOCK", "RunTable", "column_block"]

BLOCK = 1024
"""Rows in a block of most columns: written anew with each run, read all at once."""

SMALLER = {"request": 256, "tokens": 64}
"""Rows in a block of columns with long entries, by name or by the group of the variable."""

Arrays = Callable[[str], "zarr.Array[Any]"]


def column_block(variable: Variable) -> int:
    """Rows in a block of a column.

    Examples
    --------
    >>> from attlas.schemas.variables import LEAF_VARIABLES, ROOT_VARIABLES
    >>> column_block(ROOT_VARIABLES["prompt"]), column_block(LEAF_VARIABLES["token"])
    (1024, 64)
    """
    return SMALLER.get(variable.name, SMALLER.get(variable.group, BLOCK))


class RunTable:
    """Columns of a store's runs, as its present root document has them.

    Parameters
    ----------
    strict, lenient
        Give the array of a name; an absent chunk raises, or is fill values.
    where
        How messages name the store.
    """

    def __init__(self, strict: Arrays, lenient: Arrays, where: str) -> None:
        self._strict = strict
        self._lenient = lenient
        self._where = where

    def complete(self, rows: slice = slice(None)) -> NDArray[np.bool_]:
        """Flag of each row: all of its data is stored."""
        return np.asarray(read_array(self._strict("complete"), rows, self._where), dtype=bool)

    def column(self, name: str, complete: NDArray[np.bool_]) -> NDArray[Any]:
        """Read a whole column; blocks without a complete run may be absent, and are fill values then."""
        block = self._strict(name).chunks[0]
        held = [complete[start : start + block].any() for start in range(0, len(complete), block)]
        if all(held):
            return read_array(self._strict(name), slice(None), self._where)
        lenient = read_array(self._lenient(name), slice(None), self._where)
        for number, some in enumerate(held):
            if some:
                part = slice(number * block, (number + 1) * block)
                lenient[part] = read_array(self._strict(name), part, self._where)
        return lenient

    def write(self, name: str, entries: Mapping[int, Any], complete: NDArray[np.bool_]) -> None:
        """Put entries at rows; each block that they lie in is written anew, whole."""
        array = self._strict(name)
        block = array.chunks[0]
        for number in sorted({row // block for row in entries}):
            start, stop = number * block, min((number + 1) * block, array.shape[0])
            source = self._strict(name) if complete[start:stop].any() else self._lenient(name)
            values = np.array(self._read_or_empty(source, slice(start, stop), complete[start:stop]))
            for row, entry in entries.items():
                if start <= row < stop:
                    values[row - start] = entry
            write_inline(self._lenient(name), (slice(start, stop),), values)

    def _read_or_empty(self, array: "zarr.Array[Any]", rows: slice, complete: NDArray[np.bool_]) -> NDArray[Any]:
        """Read a block; damage to one that says nothing of a complete run is written over."""
        try:
            return read_array(array, rows, self._where)
        except CorruptDataError:
            if complete.any():
                raise
            return np.full((rows.stop - rows.start, *array.shape[1:]), array.fill_value, array.dtype)

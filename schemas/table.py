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

    def column(self, name: str, complete: NDArray[np.bool_], rows: slice | None = None) -> NDArray[Any]:
        """Read a column, or whole blocks of it, with the flags of these rows.

        Blocks without a complete run may be absent, and are fill values then.
        """
        first = 0 if rows is None else rows.start
        block = self._strict(name).chunks[0]
        starts = range(0, len(complete), block)
        if all(complete[start : start + block].any() for start in starts):
            return read_array(self._strict(name), slice(first, first + len(complete)), self._where)
        parts = [slice(start, min(start + block, len(complete))) for start in starts]
        shift = [slice(first + part.start, first + part.stop) for part in parts]
        return np.concatenate([self._block(name, own, complete[part]) for own, part in zip(shift, parts, strict=True)])

    def write(self, name: str, entries: Mapping[int, Any], complete: NDArray[np.bool_]) -> None:
        """Put entries at rows; each block that they lie in is written anew, whole."""
        array = self._strict(name)
        block = array.chunks[0]
        for number in sorted({row // block for row in entries}):
            start, stop = number * block, min((number + 1) * block, array.shape[0])
            values = np.array(self._block(name, slice(start, stop), complete[start:stop]))
            for row, entry in entries.items():
                if start <= row < stop:
                    values[row - start] = entry
            write_inline(self._lenient(name), (slice(start, stop),), values)

    def _block(self, name: str, rows: slice, complete: NDArray[np.bool_]) -> NDArray[Any]:
        """Read a block; one without a complete run may be absent, or damaged, and is fill values then."""
        if complete.any():
            return read_array(self._strict(name), rows, self._where)
        array = self._lenient(name)
        try:
            return read_array(array, rows, self._where)
        except CorruptDataError:
            return np.full((rows.stop - rows.start, *array.shape[1:]), array.fill_value, array.dtype)

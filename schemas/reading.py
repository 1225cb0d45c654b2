"""Reading an array of a store: damage is an error of ours that names the array, never another library's."""

import struct
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from attlas.schemas.errors import AttlasError, CorruptDataError

__all__ = ["DECODE_ERRORS", "read_array"]

DECODE_ERRORS = (ValueError, RuntimeError, IndexError, KeyError, TypeError, EOFError, MemoryError, struct.error)
"""What zarr and its codecs raise for a flipped bit, a truncated or an unreadable file."""


def read_array(array: "zarr.Array[Any]", key: Any, where: str, *, of: str = "") -> NDArray[Any]:
    """Read ``array[key]`` of the store `where`; `of` says of which run.

    Raises
    ------
    CorruptDataError
        If a chunk is missing (where the array is read strictly), fails its checksum or cannot be decoded.
    StorageError
        If the disk or server fails.
    """
    try:
        return np.asarray(array[key])
    except AttlasError as err:
        if isinstance(err, CorruptDataError):
            raise _damage(array, where, of, err) from err
        raise
    except DECODE_ERRORS as err:
        raise _damage(array, where, of, err) from err


def _damage(array: "zarr.Array[Any]", where: str, of: str, err: Exception) -> CorruptDataError:
    return CorruptDataError(
        f"{array.path}{f' of {of}' if of else ''} in {where} cannot be read: {err}; `attlas validate --deep` lists all "
        "damage, `attlas repair` gives damaged runs back to be recorded again"
    )

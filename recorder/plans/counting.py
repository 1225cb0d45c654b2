"""A zarr store in memory that keeps of large arrays only how many bytes each of their files has."""

from collections.abc import Iterator, MutableMapping

from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from attlas.schemas.errors import ObservationError
from attlas.schemas.variables import LEAF_VARIABLES, ROOT_VARIABLES

__all__ = ["CountedFiles", "counting_store"]

LARGE = frozenset(
    [variable.name for variable in LEAF_VARIABLES.values() if variable.role == "data"]
    + [variable.name for variable in ROOT_VARIABLES.values() if variable.group in ("image", "video", "reference")]
)
"""Arrays whose files are written whole and never read back while a recording is made."""


class CountedFiles(MutableMapping[str, Buffer]):
    """Files by name, as `zarr.storage.MemoryStore` keeps them; chunks of large arrays are counted and dropped.

    Attributes
    ----------
    sizes
        Bytes of each file.

    Examples
    --------
    >>> from zarr.core.buffer import default_buffer_prototype
    >>> files = CountedFiles()
    >>> buffer = default_buffer_prototype().buffer.from_bytes(b"12345")
    >>> files["text/4x4/g2r/c.0.0"] = files["t/c.0"] = buffer
    >>> files.sizes, len(files["t/c.0"])
    ({'text/4x4/g2r/c.0.0': 5, 't/c.0': 5}, 5)
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self._kept: dict[str, Buffer] = {}

    def __getitem__(self, key: str) -> Buffer:
        """Content of a file; that of one that was only counted is an error, it would be another's data."""
        if key in self.sizes and key not in self._kept:
            raise ObservationError(f"{key} was counted, not kept; it cannot be read")
        return self._kept[key]

    def __setitem__(self, key: str, value: Buffer) -> None:
        """Count a file, and keep it if it is small."""
        array, chunk, _ = key.partition("/c.")
        self.sizes[key] = len(value)
        if not chunk or array.rsplit("/", 1)[-1] not in LARGE:
            self._kept[key] = value

    def __delitem__(self, key: str) -> None:
        """Forget a file."""
        del self.sizes[key]
        self._kept.pop(key, None)

    def __iter__(self) -> Iterator[str]:
        """Names of all files."""
        return iter(self.sizes)

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.sizes)


def counting_store() -> tuple[MemoryStore, CountedFiles]:
    """Make an empty zarr store, and the files whose sizes it counts."""
    files = CountedFiles()
    return MemoryStore(files), files

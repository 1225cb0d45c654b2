"""What an open store tells of itself and of its runs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from attlas.schemas.errors import CorruptDataError, unknown_name
from attlas.schemas.layout import ArrayLayout, Leaf
from attlas.schemas.manifest import Manifest
from attlas.schemas.runs import holds_of
from attlas.schemas.snapshot import Snapshot
from attlas.schemas.storage import Storage

__all__ = ["StoredRuns"]


class StoredRuns(ABC):
    """The reading side of `Store`."""

    path: str | None
    storage: Storage

    @property
    @abstractmethod
    def snapshot(self) -> Snapshot:
        """The store as it was last seen."""

    def __repr__(self) -> str:
        """Say path, runs and leaves in a few lines."""
        done = self.complete
        lines = [f"<attlas store {self.path or 'in memory'}: {int(done.sum())} complete of {len(done)} runs>"]
        lines += [
            f"  {name}: {len(leaf.layers)} layers x {leaf.heads} heads, {leaf.queries} queries x {leaf.keys} keys, "
            f"{leaf.encoding if leaf.encoding != 'none' else 'summary'}"
            for name, leaf in self.leaves.items()
        ]
        return "\n".join(lines)

    @property
    def group(self) -> zarr.Group:
        """The zarr root group; reading a chunk that is not there raises `CorruptDataError`."""
        return self.snapshot.group

    @property
    def lenient(self) -> zarr.Group:
        """The zarr root group in which a chunk that is not there is fill values."""
        return self.snapshot.lenient_group

    @property
    def manifest(self) -> Manifest:
        """What the recordings are made of."""
        return self.snapshot.manifest

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Geometry by group path, such as ``text/16x16``."""
        return self.snapshot.leaves

    @property
    def branches(self) -> tuple[str, ...]:
        """Guidance branches, in stored order."""
        return self.snapshot.branches

    @property
    def calls(self) -> int:
        """Denoiser calls that each run keeps; ``t_labels`` are their numbers."""
        return self.snapshot.calls

    @property
    def t_labels(self) -> tuple[int, ...]:
        """Numbers of the denoiser calls that are kept."""
        return self.snapshot.t_labels

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of the generated picture."""
        return self.snapshot.image_shape

    @property
    def reference_shape(self) -> tuple[int, int] | None:
        """Rows and columns of the reference image, or None where the pipeline takes none."""
        return self.snapshot.reference_shape

    @property
    def frames(self) -> int | None:
        """Frames of the generated video; None where the pipeline makes pictures."""
        return self.snapshot.frames

    @property
    def created(self) -> str:
        """When the store was made, which tells it from another that later stands at its place."""
        return str(self.snapshot.doc.attributes.get("created"))

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Flag of each row: all of its data is stored."""
        return self.snapshot.table.complete()

    @property
    def run_ids(self) -> list[str]:
        """Labels of all rows; empty text where a row has no run."""
        return [str(name) for name in self.column("run")]

    def run_labels(self, rows: Sequence[int]) -> dict[int, str]:
        """Say what messages call the runs at these rows, also where their labels are damaged."""
        try:
            ids = self.run_ids
        except CorruptDataError:
            return {row: f"in row {row}" for row in rows}
        return {row: repr(ids[row]) for row in rows}

    def column(self, name: str) -> NDArray[Any]:
        """Read a column of the run table whole, an entry a row; see `ROOT_VARIABLES`."""
        # The flags are read first: what they call complete stands in every column by then.
        complete = self.complete
        return self.snapshot.table.column(name, complete)

    def holds(self, row: int) -> frozenset[str]:
        """Names of what the run has beside its attention, such as ``generated_image`` or ``annotations/mask``."""
        return holds_of(str(self.snapshot.read("holds", row)), f"holds of row {row} in {self.storage.url}")

    def layout(self, leaf: str, variable: str) -> ArrayLayout:
        """Shape, chunk and shard of one attention array, by which the recorder buffers whole shards."""
        geometry = self._leaf(leaf).variable(variable)
        # As the array was made, whatever layout a later version would choose.
        array = self.snapshot.array(f"{leaf}/{variable}")
        return ArrayLayout(geometry.dims, array.shape, array.chunks, array.shards or array.chunks, geometry.dtype)

    @property
    def _where(self) -> str:
        return self.path or "the store in memory"

    def _leaf(self, name: str) -> Leaf:
        if name not in self.leaves:
            raise unknown_name("leaf", name, self.leaves, where=self._where)
        return self.leaves[name]

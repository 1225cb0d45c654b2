"""An open store: read what complete runs hold; claim runs, write whole shards, complete them, finish."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store as Backend

from attlas.schemas.annotation_arrays import annotation_nodes
from attlas.schemas.annotations import check_annotations
from attlas.schemas.commits import Commits
from attlas.schemas.errors import (
    InvalidValueError,
    RunTakenError,
    StoreExistsError,
    StoreMismatchError,
    StoreNotFoundError,
)
from attlas.schemas.inline import write_inline
from attlas.schemas.notes import Notes
from attlas.schemas.precision import round_values
from attlas.schemas.records import RunRecord, check_run_id, check_text
from attlas.schemas.root import ANNOTATIONS, ROOT, Nodes, read_root
from attlas.schemas.snapshot import Snapshot
from attlas.schemas.storage import Storage, open_storage
from attlas.schemas.storage.memory import MemoryStorage
from attlas.schemas.storage.zarr_adapter import StorageAdapter
from attlas.schemas.storage.zarr_storage import ZarrStorage
from attlas.schemas.stored_runs import StoredRuns
from attlas.schemas.variables import ROOT_VARIABLES

__all__ = ["Store", "open_store"]


class Store(StoredRuns):
    """An open attlas store.

    Runs are rows. A row is claimed, filled by its one writer in whole shards, and completed last; readers see
    complete rows only. `create_store` and `open_store` make instances. What it reads is as the store was when it was
    opened, or when it last wrote.

    Attributes
    ----------
    path
        Folder or URL of the store; None in memory.
    storage
        Where its bytes are.
    """

    def __init__(self, snapshot: Snapshot, path: str | None) -> None:
        self.path = path
        self.storage = snapshot.storage
        self._commits = Commits(snapshot)
        self._open: dict[int, RunRecord] = {}

    @property
    def snapshot(self) -> Snapshot:
        """The store as it was last seen: its arrays, with and without strictness, and its root document."""
        return self._commits.snapshot

    def claim(self, run_id: str, *, seed: int = -1, prompt: str = "", request: str = "{}", capacity: int = 1) -> int:
        """Take a row for `run_id` for this writer and return its number.

        A run that another writer began and did not finish is begun anew in its row. `capacity` is the number of runs
        still to come, this one included, so that arrays grow once.

        Raises
        ------
        RunTakenError
            If the run is complete, or is being recorded by a recorder that is alive.
        InvalidValueError
            If the id or another text cannot be stored.
        """
        (row,) = self.claim_all([RunRecord(run_id, seed, prompt, request)], capacity=capacity)
        if isinstance(row, RunTakenError):
            raise row
        return row

    def claim_all(self, runs: Sequence[RunRecord], *, capacity: int = 0) -> list[int | RunTakenError]:
        """Take a row for each of these runs at once; an error in the place of a row says why it cannot be had."""
        for run in runs:
            check_run_id(run.run)
            check_text(run.prompt, f"prompt of run {run.run!r}")
            check_text(run.request, f"request of run {run.run!r}")
        rows = self._commits.take(runs, max(capacity, len(runs)))
        for row, run in zip(rows, runs, strict=True):
            if not isinstance(row, RunTakenError):
                self._open[row] = run
        return rows

    def write(
        self,
        leaf: str,
        variable: str,
        row: int,
        values: NDArray[Any],
        *,
        t0: int = 0,
        layer0: int = 0,
        branch0: int = 0,
    ) -> None:
        """Write whole shards of one attention array, rounded to the store's precision.

        `values` has the variable's dims without run; it starts at call `t0`, layer `layer0` and branch `branch0`,
        which must be multiples of the shard, and ends at a shard's end or the axis' end, so that no shard is written
        twice.
        """
        layout = self.layout(leaf, variable)
        starts = {"t": t0, "layer": layer0, "branch": branch0}
        region = [slice(row, row + 1)]
        for axis, dim in enumerate(layout.dims[1:], start=1):
            start, length = starts.get(dim, 0), values.shape[axis - 1]
            stop, block = start + length, layout.shard[axis]
            if start % block or (stop % block and stop != layout.shape[axis]) or stop > layout.shape[axis]:
                raise InvalidValueError(
                    f"{leaf}/{variable}: {dim} {start}..{stop} is not whole shards of {block} in {layout.shape[axis]}"
                )
            region.append(slice(start, stop))
        precision = str(self.manifest.capture.get("precision", "exact"))
        stored = round_values(np.asarray(values, dtype=layout.dtype), variable, precision)
        self._put(f"{leaf}/{variable}", row, stored[None], tuple(region))

    def write_tokens(
        self,
        leaf: str,
        row: int,
        branch: int,
        *,
        tokens: Sequence[str],
        segments: Sequence[str],
        starts: Sequence[int],
        ends: Sequence[int],
        chunks: Sequence[int] | None = None,
    ) -> None:
        """Label the text keys of one run and branch; one entry per key in each list."""
        keys = self._leaf(leaf).keys
        columns: dict[str, list[Any]] = {
            "token": [_valid(token) for token in tokens],
            "token_segment": list(segments),
            "token_start": [int(place) for place in starts],
            "token_end": [int(place) for place in ends],
            "token_chunk": [0] * keys if chunks is None else [int(chunk) for chunk in chunks],
        }
        for name, column in columns.items():
            if len(column) != keys:
                raise InvalidValueError(f"{leaf}/{name}: {len(column)} labels for {keys} keys")
        self._record(row).tokens.setdefault(leaf, {})[str(branch)] = columns

    def write_clock(
        self, row: int, *, steps: Sequence[int], timesteps: Sequence[float], sigmas: Sequence[float]
    ) -> None:
        """Say step, timestep and sigma of each call of the run."""
        for name, column in (("step", steps), ("timestep", timesteps), ("sigma", sigmas)):
            if len(column) != self.calls:
                raise InvalidValueError(f"{name} has {len(column)} entries for {self.calls} calls")
            self._record(row).clock[name] = np.asarray(column, dtype=ROOT_VARIABLES[name].dtype).tolist()

    def write_image(self, row: int, image: NDArray[np.uint8]) -> None:
        """Store the generated image, uint8 (rows, columns, RGB)."""
        self._write_picture("generated_image", row, image, self.image_shape)

    def write_video(self, row: int, frames: NDArray[np.uint8]) -> None:
        """Store every frame of the generated video, uint8 (frames, rows, columns, RGB)."""
        if self.frames is None:
            raise StoreMismatchError(f"{self._where} was created without a video")
        self._write_picture("generated_video", row, frames, (self.frames, *self.image_shape))

    def write_reference(self, row: int, image: NDArray[np.uint8]) -> None:
        """Store the reference image, uint8 (rows, columns, RGB)."""
        if self.reference_shape is None:
            raise StoreMismatchError(f"{self._where} was created without a reference image")
        self._write_picture("reference_image", row, image, self.reference_shape)

    def write_annotations(self, row: int, annotations: Mapping[str, Any]) -> None:
        """Store annotations of one run; an unseen name gets an array, a known one must keep its shape and role."""
        record = self._record(row)
        checked = check_annotations(annotations, self.image_shape, self.reference_shape)
        if not checked:
            return
        with self.locked():
            self.add_nodes(annotation_nodes(self.snapshot, checked))
        for name, annotation in checked.items():
            path = f"{ANNOTATIONS}/{name}"
            values = np.asarray(annotation.values)[None]
            self._put(path, row, values, (slice(row, row + 1), *(slice(None),) * (values.ndim - 1)))
            record.holds.append(path)

    def write_projection(self, leaf: str, weights: Sequence[NDArray[np.float16]]) -> None:
        """Store W_k of each layer of a leaf, (feature, head and channel); once, when the store is new."""
        self.write_fixed(f"{leaf}/key_projection", np.stack(list(weights)))

    def write_fixed(self, name: str, values: NDArray[Any]) -> None:
        """Store an array that belongs to no run."""
        write_inline(self.snapshot.lenient(name), (slice(None),) * values.ndim, values)

    def complete_run(self, row: int) -> None:
        """Mark the run complete: the last thing that is written of it."""
        self.complete_runs([row])

    def complete_runs(self, rows: Sequence[int], *, settle: bool = True) -> None:
        """Mark several runs complete, all at once.

        They are safe when this returns, and readers see them, where `settle` is True and no other writer is at work in
        the same object store; else within a second or so, and after `settle` in any case.
        """
        records = {row: self._record(row) for row in rows}
        wait = self.storage.folder is not None or self.path is None
        self._commits.commit(records, wait=wait, settle=settle)
        for row in rows:
            del self._open[row]

    def settle(self) -> None:
        """Wait until every run that is finished is in the run table, and see what others completed."""
        with self.locked():
            pass

    def release(self, row: int) -> None:
        """Give an unfinished row back, and remove what was stored there."""
        if self._open.pop(row, None) is not None:
            self._commits.drop(row)

    def give_back(self, rows: Sequence[int]) -> None:
        """Mark complete runs incomplete and remove what they stored, so that they are recorded again in their rows."""
        self._commits.give_back(rows)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only writer of metadata and columns inside the ``with``; runs that others completed are seen."""
        with self._commits.turn():
            yield
        if not self._open:
            self._commits.tidy()

    def add_nodes(self, nodes: Nodes) -> None:
        """Add arrays and groups by their metadata documents, where they are not there; inside `locked`."""
        self._commits.add(nodes)

    def swap_nodes(self, nodes: Nodes, gone: Iterable[str], fill: Callable[[Snapshot], None]) -> None:
        """Add arrays and groups, which `fill` fills before anybody sees them, in place of groups; inside `locked`."""
        self._commits.swap(nodes, gone, fill)

    def discard(self) -> bool:
        """Remove the store where it has no run and nobody else writes to it; return whether it is gone."""
        return self._commits.discard()

    def finish(self) -> None:
        """End writing: where no other recorder is at work, cut spare rows and note the time."""
        self._commits.finish()

    def _record(self, row: int) -> RunRecord:
        if row not in self._open:
            raise InvalidValueError(f"row {row} of {self._where} is not claimed by this recorder; call claim first")
        return self._open[row]

    def _put(self, name: str, row: int, values: NDArray[Any], region: tuple[slice, ...]) -> None:
        """Write into a row; zarr would cut what lies beyond the array without a word."""
        self._record(row)
        # zarr reads what it writes a part of, which need not be there.
        array = self.snapshot.wide.lenient(name)
        if row >= array.shape[0] or values.shape[1:] != tuple(
            len(range(*part.indices(size))) for part, size in zip(region[1:], array.shape[1:], strict=True)
        ):
            raise StoreMismatchError(
                f"{name} of {self._where} has shape {array.shape}; values {values.shape} at row {row} do not fit"
            )
        write_inline(array, region, values)

    def _write_picture(self, name: str, row: int, image: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
        record = self._record(row)
        if image.shape != (*shape, 3) or image.dtype != np.uint8:
            raise StoreMismatchError(
                f"{name} is {image.shape} {image.dtype}; {self._where} holds {(*shape, 3)} uint8: "
                "record pictures of another size into another store"
            )
        self._put(name, row, image[None], (slice(row, row + 1), *(slice(None),) * image.ndim))
        record.holds.append(name)


def open_store(path: "str | Path | Backend | Storage", *, durable: bool = True) -> Store:
    """Open the attlas store at `path`, for reading or appending.

    Parameters
    ----------
    path
        A folder, a URL or an archive, see `open_storage`; or a zarr store object.
    durable
        Whether writing waits for the disk.

    Raises
    ------
    StoreNotFoundError
        If nothing is there.
    StoreExistsError
        If something is there that is not an attlas store.
    SchemaVersionError
        If an attlas of another schema wrote it.
    StoreInvalidError
        If its metadata break the schema; `validate_store` lists all problems.
    StorageError
        If it cannot be read.
    """
    storage, text = _place(path, durable=durable)
    data = read_root(storage)
    if data is None:
        if storage.writable and Notes(storage).half_made:
            raise StoreNotFoundError(
                f"no store at {storage.url}: a recorder died while it laid one out; the same `attlas record` goes on"
            )
        if storage.folder is not None and not storage.folder.exists():
            raise StoreNotFoundError(
                f"no store at {text}: nothing is there; give the folder that `attlas record` wrote"
            )
        if storage.folder is None:
            raise StoreNotFoundError(
                f"no store at {storage.url}: it has no {ROOT}; give the URL that `attlas record` wrote"
            )
        raise StoreExistsError(f"{text} is not an attlas store: it has no {ROOT}; it was left untouched")
    return Store(Snapshot(storage, data), text)


def _place(path: "str | Path | Backend | Storage", *, durable: bool) -> tuple[Storage, str | None]:
    if isinstance(path, StorageAdapter):
        # The zarr store of an open store of ours: what it reads from is at hand.
        path = path.storage
    if isinstance(path, Storage):
        return path, None if isinstance(path, MemoryStorage | ZarrStorage) else path.url
    if isinstance(path, Backend):
        return ZarrStorage(path), None
    return open_storage(path, durable=durable), str(path)


def _valid(token: str) -> str:
    """Give a token as text that can be stored: half of a surrogate pair becomes a question mark."""
    return token.encode("utf-8", "replace").decode()

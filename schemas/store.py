"""The life of a store: open, claim a run, write whole shards, complete the run, finish."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.errors import GroupNotFoundError, NodeTypeValidationError
from zarr.storage import LocalStore

from attlas.schemas.annotations import check_annotations, check_roles, roles_of
from attlas.schemas.claims import Claims
from attlas.schemas.codecs import codecs
from attlas.schemas.errors import (
    InvalidValueError,
    StoreExistsError,
    StoreInvalidError,
    StoreMismatchError,
    StoreNotFoundError,
    unknown_name,
)
from attlas.schemas.inline import write_inline
from attlas.schemas.layout import ArrayLayout, Leaf
from attlas.schemas.manifest import Manifest
from attlas.schemas.precision import round_values
from attlas.schemas.root import read_leaves, root_info
from attlas.schemas.variables import ROOT_VARIABLES, Variable

__all__ = ["Store", "open_store"]

SPARE_ROWS = 8
"""Rows added at a time where the number of runs is not known; resizing every array for each run would cost more."""


class Store:
    """An open attlas store.

    Runs are rows. A row is claimed, filled by its one writer in whole shards, and completed last; readers see
    complete rows only. `create_store` and `open_store` make instances.

    Attributes
    ----------
    path
        Folder or URL of the store; None in memory.
    group
        The zarr root group.
    manifest
        What the recordings are made of.
    leaves
        Geometry by group path, such as ``text/16x16``.
    branches, calls, image_shape, frames, reference_shape
        Geometry shared by all leaves; ``frames`` is None where the pipeline makes no video.
    """

    def __init__(self, group: zarr.Group, path: str | None) -> None:
        self.path = path
        self.group = group
        where = path or "memory"
        info = root_info(group, where)
        self.manifest = Manifest.from_json(info.get("manifest", {}), where=where)
        try:
            self.branches = tuple(str(name) for name in group["branch"][...])
            self.calls = int(group["t"].shape[0])
            self.image_shape: tuple[int, int] = tuple(group["generated_image"].shape[1:3])
            video = group.get("generated_video")
            self.frames: int | None = None if video is None else int(video.shape[1])
            reference = group.get("reference_image")
            self.reference_shape: tuple[int, int] | None = None if reference is None else tuple(reference.shape[1:3])
            self.leaves = dict(read_leaves(group))
        except (KeyError, TypeError) as err:
            raise StoreInvalidError(where, [f"root: an array of the schema is missing or unreadable: {err}"]) from err
        local = path is not None and isinstance(group.store, LocalStore)
        self._claims = Claims(Path(path) if local and path is not None else None)
        self._arrays: dict[str, zarr.Array[Any]] = {}

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
    def run_ids(self) -> list[str]:
        """Labels of all rows; empty text where a row is spare."""
        return [str(name) for name in self.group["run"][...]]

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Flag of each row: all of its data is stored."""
        return np.asarray(self.group["complete"][...], dtype=bool)

    def layout(self, leaf: str, variable: str) -> ArrayLayout:
        """Shape, chunk and shard of one attention array, by which the recorder buffers whole shards."""
        geometry = self._leaf(leaf).variable(variable)
        # As the array was made, whatever layout a later version would choose.
        array = self._array(f"{leaf}/{variable}")
        return ArrayLayout(geometry.dims, array.shape, array.chunks, array.shards or array.chunks, geometry.dtype)

    def claim(self, run_id: str, *, seed: int = -1, prompt: str = "", request: str = "{}", capacity: int = 1) -> int:
        """Take the row of `run_id` for this writer and return its number.

        An incomplete row with the same id and request is taken over and will be rewritten whole; a new id gets
        the first spare row. `capacity` is the number of runs still to come, so that arrays grow once.

        Raises
        ------
        StoreMismatchError
            If the id belongs to a complete run, to another request, or to a recorder that is alive.
        """
        if not run_id:
            raise InvalidValueError("a run needs a non-empty id")
        with self._claims:
            self._reopen()
            ids = self.run_ids
            if run_id in ids:
                row = ids.index(run_id)
                self._check_takeover(row, run_id, request)
            else:
                row = ids.index("") if "" in ids else len(ids)
                if row == len(ids):
                    self._resize(len(ids) + (capacity if capacity > 1 else SPARE_ROWS))
            if not self._claims.take(row):
                raise StoreMismatchError(f"run {run_id!r} of {self._where} is being recorded by another recorder")
            # The label comes last: a row that was killed in between is still spare.
            for name, value in (("seed", seed), ("prompt", prompt), ("request", request), ("run", run_id)):
                self.group[name][row] = value
        if run_id in ids:
            self._sweep(row)
        return row

    def write(self, leaf: str, variable: str, row: int, values: NDArray[Any], *, t0: int = 0, layer0: int = 0) -> None:
        """Write whole shards of one attention array, rounded to the store's precision.

        `values` has the variable's dims without run; it starts at call `t0` and layer `layer0`, which must be
        multiples of the shard, and ends at a shard's end or the axis' end, so that no shard is written twice.
        """
        layout = self.layout(leaf, variable)
        starts = {"t": t0, "layer": layer0}
        region = [slice(row, row + 1)]
        for axis, dim in enumerate(layout.dims[1:], start=1):
            start, length = starts.get(dim, 0), values.shape[axis - 1]
            stop, block = start + length, layout.shard[axis]
            if start % block or (stop % block and stop != layout.shape[axis]) or stop > layout.shape[axis]:
                raise InvalidValueError(
                    f"{leaf}/{variable}: {dim} {start}..{stop} is not whole shards of {block} in {layout.shape[axis]}"
                )
            region.append(slice(start, stop))
        self._check_held(row)
        precision = str(self.manifest.capture.get("precision", "exact"))
        stored = round_values(np.asarray(values, dtype=layout.dtype), variable, precision)
        write_inline(self._array(f"{leaf}/{variable}"), tuple(region), stored[None])

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
        self._check_held(row)
        columns: dict[str, Sequence[Any]] = {
            "token": tokens,
            "token_segment": segments,
            "token_start": starts,
            "token_end": ends,
            "token_chunk": (0,) * keys if chunks is None else chunks,
        }
        for name, column in columns.items():
            if len(column) != keys:
                raise InvalidValueError(f"{leaf}/{name}: {len(column)} labels for {keys} keys")
            dtype = object if isinstance(column[0], str) else "i4"
            self._array(f"{leaf}/{name}")[row, branch] = np.asarray(column, dtype=dtype)

    def write_clock(
        self, row: int, *, steps: Sequence[int], timesteps: Sequence[float], sigmas: Sequence[float]
    ) -> None:
        """Say step, timestep and sigma of each call of the run."""
        self._check_held(row)
        with self._claims:
            for name, column in (("step", steps), ("timestep", timesteps), ("sigma", sigmas)):
                if len(column) != self.calls:
                    raise InvalidValueError(f"{name} has {len(column)} entries for {self.calls} calls")
                self.group[name][row] = np.asarray(column, dtype=ROOT_VARIABLES[name].dtype)

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
        """Store annotations of one run; an unseen name gets an array, a known one keeps its shape and role."""
        self._check_held(row)
        checked = check_annotations(annotations, self.image_shape, self.reference_shape)
        if not checked:
            return
        with self._claims:
            roles = {name: annotation.role for name, annotation in checked.items()}
            check_roles(roles, roles_of(self.group), self._where)
            node = self.group.require_group("annotations")
            for name, annotation in checked.items():
                if name not in node:
                    variable = Variable(name, ("run", *annotation.dims), annotation.dtype, "", "annotation")
                    shape = (int(self._array("run").shape[0]), *annotation.values.shape)
                    node.create_array(
                        name,
                        shape=shape,
                        dtype=annotation.dtype,
                        chunks=(1, *(max(1, size) for size in shape[1:])),
                        fill_value=annotation.fill,
                        dimension_names=variable.dims,
                        attributes=annotation.attributes,
                        **codecs(variable),
                    )
                array = node[name]
                if array.shape[1:] != annotation.values.shape:
                    raise StoreMismatchError(
                        f"annotation {name!r} of {self._where} has shape {array.shape[1:]}, "
                        f"got {annotation.values.shape}"
                    )
        for name, annotation in checked.items():
            self.group[f"annotations/{name}"][row] = annotation.values

    def write_projection(self, leaf: str, weights: Sequence[NDArray[np.float16]]) -> None:
        """Store W_k of each layer of a leaf, (feature, head and channel); once, when the store is new."""
        self._array(f"{leaf}/key_projection")[...] = np.stack(list(weights))

    def complete_run(self, row: int) -> None:
        """Mark the run complete: the last thing written of it."""
        self._check_held(row)
        with self._claims:
            self.group["complete"][row] = True
            self._claims.drop(row)

    def release(self, row: int) -> None:
        """Give an unfinished row back; a later claim of the same run takes it over."""
        self._claims.drop(row)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run table, so that no recorder adds rows or sets flags meanwhile."""
        with self._claims:
            yield
        self._claims.tidy()

    def finish(self) -> None:
        """Drop spare rows, note the time, and consolidate the metadata for fast opening."""
        with self._claims:
            self._reopen()
            ids = self.run_ids
            used = max((i + 1 for i, name in enumerate(ids) if name), default=0)
            if used < len(ids):
                self._resize(used)
            self._arrays.clear()
            self.group.attrs["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
            with warnings.catch_warnings():
                # zarr says that consolidated metadata is not in the v3 specification; readers without it still work.
                warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
                zarr.consolidate_metadata(self.group.store)
        self._claims.clear()

    def _array(self, name: str) -> "zarr.Array[Any]":
        """Array of the group, remembered: finding it reads its metadata from disk."""
        if name not in self._arrays:
            # A shard is data even where it holds nothing but the fill value; looking for that costs more than zstd.
            self._arrays[name] = self.group[name].with_config({"write_empty_chunks": True})
        return self._arrays[name]

    @property
    def _where(self) -> str:
        return self.path or "the store in memory"

    def _leaf(self, name: str) -> Leaf:
        if name not in self.leaves:
            raise unknown_name("leaf", name, self.leaves, where=self._where)
        return self.leaves[name]

    def _check_held(self, row: int) -> None:
        if not self._claims.holds(row):
            raise InvalidValueError(f"row {row} of {self._where} is not claimed by this recorder; call claim first")

    def _check_takeover(self, row: int, run_id: str, request: str) -> None:
        if bool(self.group["complete"][row]):
            raise StoreMismatchError(f"run {run_id!r} of {self._where} is complete; choose another id")
        stored = str(self.group["request"][row])
        if stored != request:
            raise StoreMismatchError(
                f"run {run_id!r} of {self._where} was begun with another request\n  store {stored}\n  got   {request}"
            )

    def _reopen(self) -> None:
        """See what other recorders did to shapes; also drops consolidated metadata, which would go stale."""
        self.group = zarr.open_group(self.group.store, mode="r+", use_consolidated=False)
        self._arrays.clear()
        if self.group.attrs.get("finished") is not None:
            self.group.attrs["finished"] = None

    def _resize(self, rows: int) -> None:
        self._arrays.clear()
        for _, array in self.group.members(max_depth=None):
            if isinstance(array, zarr.Array) and (array.metadata.dimension_names or ("",))[0] == "run":
                array.resize((rows, *array.shape[1:]))

    def _sweep(self, row: int) -> None:
        """Remove what a killed writer of this row left half written: files that were never renamed."""
        if self.path is None or not isinstance(self.group.store, LocalStore):
            return
        for partial in Path(self.path).rglob(f"c/{row}/**/*.partial"):
            partial.unlink()

    def _write_picture(self, name: str, row: int, image: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
        self._check_held(row)
        if image.shape != (*shape, 3) or image.dtype != np.uint8:
            raise StoreMismatchError(
                f"{name} is {image.shape} {image.dtype}; {self._where} holds {(*shape, 3)} uint8: "
                "record pictures of another size into another store"
            )
        self.group[name][row] = image


def open_store(path: str | Path) -> Store:
    """Open the attlas store at `path` (a folder or a URL that zarr knows), for reading or appending.

    Raises
    ------
    StoreNotFoundError
        If nothing is there.
    StoreExistsError
        If something is there that is not an attlas store.
    SchemaVersionError
        If a newer attlas wrote it.
    StoreInvalidError
        If its root breaks the schema; `validate_store` lists all problems.
    """
    text = str(path)
    remote = "://" in text
    if not remote and not Path(text).exists():
        raise StoreNotFoundError(f"no store at {text}: nothing is there; give the folder that `attlas record` wrote")
    if not remote and not (Path(text) / "zarr.json").is_file():
        raise StoreExistsError(f"{text} is not an attlas store: it has no zarr.json; it was left untouched")
    try:
        group = zarr.open_group(text, mode="r" if remote else "r+", use_consolidated=False)
    except (GroupNotFoundError, NodeTypeValidationError, FileNotFoundError) as err:
        raise StoreExistsError(f"{text} is not an attlas store: {err}; it was left untouched") from err
    return Store(group, text)

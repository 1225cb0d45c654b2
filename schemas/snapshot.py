"""A store at one moment: its root document, checked, and the arrays, labels and geometry that follow from it."""

from copy import copy
from functools import cached_property
from typing import Any

import zarr

from attlas.schemas.check import LEAF_LABELS, document_problems, leaf_paths, leaf_problems
from attlas.schemas.errors import AttlasError, StoreInvalidError
from attlas.schemas.layout import Leaf
from attlas.schemas.manifest import Manifest
from attlas.schemas.reading import read_array
from attlas.schemas.root import RootDocument
from attlas.schemas.storage import Storage
from attlas.schemas.storage.zarr_adapter import StorageAdapter
from attlas.schemas.table import RunTable
from attlas.schemas.variables import KINDS

__all__ = ["Snapshot"]


class Snapshot:
    """What a store was when its root document was read. Runs may be completed since, but no array grows.

    Parameters
    ----------
    storage
        Where the store is.
    data
        Its root document.

    Raises
    ------
    StoreExistsError, SchemaVersionError, StoreInvalidError
        If it is none, of another schema, or broken; all problems are named at once.
    """

    def __init__(self, storage: Storage, data: bytes) -> None:
        self.data = data
        self.doc = RootDocument.from_bytes(data, storage.url)
        self.manifest = Manifest.from_json(self.doc.attributes["attlas"].get("manifest", {}), where=storage.url)
        problems = list(document_problems(self.doc))
        if problems:
            raise StoreInvalidError(storage.url, problems)
        self._connect(storage)
        self.branches = tuple(str(name) for name in self.read("branch"))
        self.t_labels = tuple(int(label) for label in self.read("t"))
        nodes = self.doc.nodes
        shape = {name: tuple(nodes[name]["shape"]) for name in nodes if nodes[name]["node_type"] == "array"}
        self.image_shape: tuple[int, int] = (shape["generated_image"][1], shape["generated_image"][2])
        self.frames: int | None = shape["generated_video"][1] if "generated_video" in shape else None
        reference = shape.get("reference_image")
        self.reference_shape: tuple[int, int] | None = None if reference is None else (reference[1], reference[2])
        self.leaves = self._read_leaves()

    def _connect(self, storage: Storage) -> None:
        self.storage = storage
        self._strict = StorageAdapter(storage, self.data, strict=True)
        self._lenient = StorageAdapter(storage, self.data, strict=False)
        self._arrays: dict[tuple[str, bool], zarr.Array[Any]] = {}
        self.table = RunTable(self.array, self.lenient, storage.url)

    def resized(self, doc: RootDocument) -> "Snapshot":
        """Return the store with other rows or room, and all else the same."""
        made = copy(self)
        for name in ("group", "lenient_group", "wide"):
            vars(made).pop(name, None)
        made.doc, made.data = doc, doc.to_bytes()
        made._connect(self.storage)
        return made

    def renewed(self, data: bytes) -> "Snapshot":
        """Return the store by another root document of it; one that differs in its rows alone is not checked anew."""
        doc = RootDocument.from_bytes(data, self.storage.url)
        same = doc.with_rows(self.doc.rows).nodes == self.doc.nodes
        return self.resized(doc) if same else Snapshot(self.storage, data)

    @cached_property
    def wide(self) -> "Snapshot":
        """The store with all the room there is as its run axis: for writing runs that nobody sees yet."""
        return self if self.doc.room == self.doc.rows else self.resized(self.doc.with_rows(self.doc.room))

    def through(self, storage: Storage) -> "Snapshot":
        """Return the same moment of the store, read through another storage, such as one that keeps what it read."""
        made = copy(self)
        for name in ("group", "lenient_group", "wide"):
            vars(made).pop(name, None)
        made._connect(storage)
        return made

    @property
    def calls(self) -> int:
        """Denoiser calls that a run keeps."""
        return len(self.t_labels)

    @cached_property
    def group(self) -> zarr.Group:
        """Root group; reading a chunk that is not there raises `CorruptDataError`."""
        return self._grouped(self._strict)

    @cached_property
    def lenient_group(self) -> zarr.Group:
        """Root group in which a chunk that is not there is fill values."""
        return self._grouped(self._lenient)

    def _grouped(self, adapter: StorageAdapter) -> zarr.Group:
        return zarr.open_group(adapter, mode="r+" if self.storage.writable else "r", use_consolidated=True)

    def array(self, name: str) -> "zarr.Array[Any]":
        """Array by path; an absent chunk raises."""
        return self._opened(name, strict=True)

    def lenient(self, name: str) -> "zarr.Array[Any]":
        """Array by path; an absent chunk is fill values."""
        return self._opened(name, strict=False)

    def read(self, name: str, key: Any = slice(None)) -> Any:
        """Read an array, or a part; damage is an error of ours."""
        return read_array(self.array(name), key, self.storage.url)

    def _opened(self, name: str, *, strict: bool) -> "zarr.Array[Any]":
        place = (name, strict)
        if place not in self._arrays:
            adapter = self._strict if strict else self._lenient
            self._arrays[place] = adapter.array(name, self.doc.nodes[name])
        return self._arrays[place]

    def _read_leaves(self) -> dict[str, Leaf]:
        """Geometry of every leaf by path, kinds in their order and the largest grid of a kind first."""
        leaves, problems = {}, []
        for path in leaf_paths(self.doc):
            try:
                leaf = self._read_leaf(path)
            except (AttlasError, TypeError, ValueError) as err:
                problems.append(f"{path}: {err}")
                continue
            problems += leaf_problems(path, leaf, self.doc, branches=len(self.branches), calls=self.calls)
            leaves[path] = leaf
        if problems:
            raise StoreInvalidError(self.storage.url, problems)
        return dict(sorted(leaves.items(), key=lambda item: (KINDS.index(item[1].kind), -item[1].queries)))

    def _read_leaf(self, path: str) -> Leaf:
        held = {name: self.read(f"{path}/{name}") for name in LEAF_LABELS if f"{path}/{name}" in self.doc.nodes}
        labels: dict[str, tuple[Any, ...]] = {
            "layers": tuple(str(name) for name in held["layer"]),
            "head_labels": tuple(int(head) for head in held["head"]),
            "key_segments": tuple(str(name) for name in held.get("key_segment", ())),
        }
        for name in ("key_y", "key_x", "key_picture", "key_frame"):
            labels[name] = tuple(int(place) for place in held.get(name, ()))
        return Leaf.from_json(self.doc.nodes[path]["attributes"]["attlas"], labels)

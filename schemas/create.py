"""Lay out a new store: every group, array and label that does not depend on a run."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from zarr.abc.store import Store as Backend

from attlas.schemas.errors import InvalidValueError, StoreExistsError
from attlas.schemas.growth import publish
from attlas.schemas.inline import write_inline
from attlas.schemas.layout import Leaf, array_layout, leaf_names
from attlas.schemas.manifest import Manifest
from attlas.schemas.nodes import array_document
from attlas.schemas.notes import Notes
from attlas.schemas.root import RootDocument, group_document, read_root
from attlas.schemas.snapshot import Snapshot
from attlas.schemas.storage import Storage, open_storage
from attlas.schemas.storage.memory import MemoryStorage
from attlas.schemas.storage.zarr_adapter import StorageAdapter
from attlas.schemas.storage.zarr_storage import ZarrStorage
from attlas.schemas.store import Store
from attlas.schemas.table import column_block
from attlas.schemas.variables import ROOT_VARIABLES, SCHEMA_VERSION
from attlas.schemas.vocabulary import Vocabulary, vocabulary_arrays

__all__ = ["create_store", "fixed_labels"]

Labels = dict[str, Any]


def create_store(
    path: str | Path | Backend | None,
    manifest: Manifest,
    leaves: Iterable[Leaf],
    branches: tuple[str, ...],
    calls: int,
    image_shape: tuple[int, int],
    reference_shape: tuple[int, int] | None = None,
    *,
    t_labels: tuple[int, ...] | None = None,
    frames: int | None = None,
    vocabulary: Vocabulary | None = None,
    fill: Callable[[Store], None] | None = None,
    durable: bool = True,
) -> Store:
    """Create an empty store and return it open for writing.

    It becomes visible when it is whole, with its root document; what a recorder left that died before is removed.

    Parameters
    ----------
    path
        Folder or URL to create, or an empty zarr store that is written by this process alone; None keeps the store in
        memory.
    manifest
        What the recordings are made of.
    leaves
        Geometry of each leaf group.
    branches
        Labels of the guidance branches, in stored order.
    calls
        Length of t: denoiser calls that each run keeps.
    image_shape, reference_shape
        Rows and columns of the generated and the reference image (None: the pipeline takes no reference).
    t_labels
        Denoiser calls that are kept; ``0 .. calls - 1`` by default.
    frames
        Frames of the generated video; None where pictures are generated.
    vocabulary
        Words with their embeddings, which belong to no run.
    fill
        Called with the store before it becomes visible, to write what else belongs to no run.
    durable
        Whether writing waits for the disk.

    Returns
    -------
    Store without a run.

    Raises
    ------
    StoreExistsError
        If something is at `path`. Nothing there is touched.
    """
    leaves = tuple(leaves)
    kept = tuple(range(calls)) if t_labels is None else t_labels
    if len(kept) != calls:
        raise InvalidValueError(f"t has {calls} calls but {len(kept)} labels; one label a call is needed")
    if not leaves:
        raise InvalidValueError("a store needs at least one leaf; the capture selects no attention")
    storage = _place(path, durable=durable)
    if read_root(storage) is not None or (storage.folder is not None and storage.folder.is_file()):
        raise StoreExistsError(f"{storage.url} exists; a new store needs a path where nothing is")
    if not branches or not calls:
        raise InvalidValueError(f"a store needs a branch and a call at least; got {branches} and {calls}")
    nodes, labels = _root_nodes(branches, kept, image_shape, reference_shape, frames)
    info = {"schema": SCHEMA_VERSION, "manifest": manifest.to_json()}
    for kind in dict.fromkeys(leaf.kind for leaf in leaves):
        # A second copy, from which the root document can be made again.
        nodes[kind] = group_document({"attlas": info})
    for name, leaf in zip(leaf_names(leaves), leaves, strict=True):
        _add_leaf(nodes, labels, name, leaf, leaf.sizes(runs=0, branches=len(branches), calls=calls))
    if vocabulary is not None:
        added, values = vocabulary_arrays(vocabulary)
        nodes |= added
        labels |= values
    coordinates = " ".join(v.name for v in ROOT_VARIABLES.values() if v.role == "coord")
    created = datetime.now(UTC).isoformat(timespec="seconds")
    attributes = {"attlas": {**info, "room": 0}, "created": created, "finished": None, "coordinates": coordinates}
    doc = RootDocument(attributes, nodes)
    made: list[Store] = []

    def lay_out() -> None:
        adapter = StorageAdapter(storage, doc.to_bytes(), strict=False)
        for name, values in labels.items():
            write_inline(adapter.array(name, nodes[name]), (slice(None),) * values.ndim, values)
        store = Store(Snapshot(storage, doc.to_bytes()), None if path is None else storage.url)
        if fill is not None:
            fill(store)
        publish(storage, None, doc)
        made.append(store)

    notes = Notes(storage)
    with notes.turn():
        if notes.half_made and read_root(storage) is None:
            storage.clear()
        if next(storage.keys(), None) is not None or (storage.folder is not None and storage.folder.exists()):
            notes.tidy()
            raise StoreExistsError(f"{storage.url} exists; a new store needs a path where nothing is")
        notes.begin_store(lay_out)
        notes.tidy()
    return made[0]


def _place(path: str | Path | Backend | None, *, durable: bool) -> Storage:
    if path is None:
        return MemoryStorage()
    return ZarrStorage(path) if isinstance(path, Backend) else open_storage(path, durable=durable)


def _root_nodes(
    branches: tuple[str, ...],
    kept: tuple[int, ...],
    image: tuple[int, int],
    reference: tuple[int, int] | None,
    frames: int | None,
) -> tuple[dict[str, Any], Labels]:
    sizes = {"run": 0, "t": len(kept), "branch": len(branches), "image_y": image[0], "image_x": image[1], "rgb": 3}
    present = {"always", "image"}
    if frames is not None:
        sizes["video_frame"] = frames
        present.add("video")
    if reference is not None:
        sizes |= {"reference_y": reference[0], "reference_x": reference[1]}
        present.add("reference")
    nodes: dict[str, Any] = {}
    for variable in ROOT_VARIABLES.values():
        if variable.group in present:
            shape = tuple(sizes[dim] for dim in variable.dims)
            rows = 1 if variable.group != "always" else column_block(variable)
            chunk = (rows if variable.dims[0] == "run" else shape[0], *shape[1:])
            nodes[variable.name] = array_document(variable, shape, chunk)
    return nodes, {"t": np.asarray(kept, "i4"), "branch": np.asarray(branches, dtype=object)}


def _add_leaf(nodes: dict[str, Any], labels: Labels, name: str, leaf: Leaf, sizes: Mapping[str, int]) -> None:
    variables = leaf.variables()
    coordinates = " ".join(v.name for v in variables if v.role == "coord")
    nodes[name] = group_document({"attlas": leaf.to_json(), "coordinates": coordinates})
    fixed = fixed_labels(leaf)
    for variable in variables:
        path = f"{name}/{variable.name}"
        shape = tuple(sizes[dim] for dim in variable.dims)
        if variable.name in fixed:
            nodes[path] = array_document(variable, shape, shape)
            labels[path] = fixed[variable.name]
        elif "run" not in variable.dims:
            nodes[path] = array_document(variable, shape, (1, *shape[1:]))
        elif variable.group == "tokens":
            nodes[path] = array_document(variable, shape, (column_block(variable), *shape[1:]))
        else:
            layout = array_layout(variable, sizes)
            nodes[path] = array_document(variable, shape, layout.chunk, layout.shard)


def fixed_labels(leaf: Leaf) -> Labels:
    """Return the labels of a leaf that are the same for every run, by the name of their array."""
    places = np.indices(leaf.query_grid).reshape(len(leaf.query_grid), -1)
    heads = leaf.head_labels or tuple(range(leaf.heads))
    return {
        "layer": np.asarray(leaf.layers, dtype=object),
        "head": np.asarray(heads, "i4"),
        "query": np.arange(leaf.queries, dtype="i4"),
        "key": np.arange(leaf.keys, dtype="i4"),
        "query_frame": places[0].astype("i4"),
        "query_y": places[-2].astype("i4"),
        "query_x": places[-1].astype("i4"),
        "key_frame": np.asarray(leaf.key_frame, "i4"),
        "key_picture": np.asarray(leaf.key_picture, "i4"),
        "key_y": np.asarray(leaf.key_y, "i4"),
        "key_x": np.asarray(leaf.key_x, "i4"),
        "key_segment": np.asarray(leaf.key_segments, dtype=object),
    }

"""Lay out a new store: every group, array and label that does not depend on a run."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store as Backend
from zarr.storage import LocalStore, MemoryStore

from attlas.schemas.codecs import codecs
from attlas.schemas.errors import InvalidValueError, StoreExistsError
from attlas.schemas.layout import Leaf, array_layout, leaf_names
from attlas.schemas.manifest import Manifest
from attlas.schemas.store import Store
from attlas.schemas.variables import ROOT_VARIABLES, SCHEMA_VERSION, Variable

__all__ = ["create_store"]

TABLE_CHUNK = 1024
"""Rows of the run table in one chunk; the table is small and read whole."""


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
) -> Store:
    """Create an empty store and return it open for writing.

    Parameters
    ----------
    path
        Folder to create, or an empty zarr store that is written by this process alone; None keeps the store in memory.
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

    Returns
    -------
    Store without a run.

    Raises
    ------
    StoreExistsError
        If `path` exists. Nothing there is touched.
    """
    leaves = tuple(leaves)
    labels = tuple(range(calls)) if t_labels is None else t_labels
    if len(labels) != calls:
        raise InvalidValueError(f"t has {calls} calls but {len(labels)} labels; one label a call is needed")
    if not leaves:
        raise InvalidValueError("a store needs at least one leaf; the capture selects no attention")
    group = zarr.open_group(_backend(path), mode="w-", zarr_format=3)
    sizes = {
        "run": 0,
        "t": calls,
        "branch": len(branches),
        "image_y": image_shape[0],
        "image_x": image_shape[1],
        "rgb": 3,
    }
    present = {"always", "image"}
    if frames is not None:
        sizes["video_frame"] = frames
        present.add("video")
    if reference_shape is not None:
        sizes |= {"reference_y": reference_shape[0], "reference_x": reference_shape[1]}
        present.add("reference")
    for variable in ROOT_VARIABLES.values():
        if variable.group in present:
            shape = tuple(sizes[dim] for dim in variable.dims)
            whole = variable.group in ("image", "video", "reference")
            chunk = (1, *shape[1:]) if whole else (TABLE_CHUNK if variable.dims[0] == "run" else shape[0], *shape[1:])
            _create(group, variable, shape, chunk)
    group["t"][...] = np.asarray(labels, "i4")
    group["branch"][...] = np.asarray(branches, dtype=object)
    for name, leaf in zip(leaf_names(leaves), leaves, strict=True):
        _create_leaf(group, name, leaf, leaf.sizes(runs=0, branches=len(branches), calls=calls))
    coordinates = " ".join(v.name for v in ROOT_VARIABLES.values() if v.role == "coord")
    created = datetime.now(UTC).isoformat(timespec="seconds")
    # The attributes come last: a folder without them is not a store yet.
    group.attrs.put(
        {
            "attlas": {"schema": SCHEMA_VERSION, "manifest": manifest.to_json()},
            "created": created,
            "finished": None,
            "coordinates": coordinates,
        }
    )
    return Store(group, str(path) if isinstance(path, str | Path) else None)


def _backend(path: str | Path | Backend | None) -> Backend:
    if path is None:
        return MemoryStore()
    if isinstance(path, Backend):
        return path
    target = Path(path)
    if target.exists():
        raise StoreExistsError(f"{target} exists; a new store needs a path where nothing is")
    return LocalStore(target)


def _create(
    group: zarr.Group,
    variable: Variable,
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    shard: tuple[int, ...] | None = None,
) -> Any:
    attributes = {"description": variable.meaning, **({"units": variable.unit} if variable.unit else {})}
    return group.create_array(
        variable.name,
        shape=shape,
        dtype=variable.dtype,
        chunks=tuple(max(1, size) for size in chunk),
        shards=shard,
        fill_value=variable.fill,
        dimension_names=variable.dims,
        attributes=attributes,
        **codecs(variable),
    )


def _create_leaf(group: zarr.Group, name: str, leaf: Leaf, sizes: Mapping[str, int]) -> None:
    variables = leaf.variables()
    coordinates = " ".join(v.name for v in variables if v.role == "coord")
    node = group.require_group(name, overwrite=False)
    node.attrs.put({"attlas": leaf.to_json(), "coordinates": coordinates})
    places = np.indices(leaf.query_grid).reshape(len(leaf.query_grid), -1)
    heads = leaf.head_labels or tuple(range(leaf.heads))
    labels: dict[str, Any] = {
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
    for variable in variables:
        shape = tuple(sizes[dim] for dim in variable.dims)
        if variable.name in labels:
            _create(node, variable, shape, shape)[...] = labels[variable.name]
        elif variable.group in ("projection", "tokens"):
            _create(node, variable, shape, (1, *shape[1:]))
        else:
            layout = array_layout(variable, sizes)
            # One shard that is one chunk needs no index of its own.
            shard = None if layout.shard == layout.chunk else layout.shard
            _create(node, variable, shape, layout.chunk, shard)

"""Every problem of a store at once: geometry, labels, missing shards and, on request, checksums."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import zarr
from zarr.core.sync import sync

from attlas.schemas.errors import StoreInvalidError
from attlas.schemas.layout import Leaf
from attlas.schemas.statistics import statistic_problems
from attlas.schemas.store import Store, open_store
from attlas.schemas.variables import ROOT_VARIABLES, Variable

__all__ = ["validate_store"]


def validate_store(store: Store | str | Path, *, deep: bool = False) -> list[str]:
    """All problems of a store, one line each; an empty list says that it is sound.

    Checks that each array of the schema is there with its dims, dtype and shape, that runs are labelled once,
    and that complete runs lack no shard. ``deep`` also reads every shard of complete runs, so that a flipped
    bit is found by its checksum.

    Examples
    --------
    >>> from attlas.schemas import simulate_store
    >>> validate_store(simulate_store(runs=1), deep=True)
    []
    """
    if not isinstance(store, Store):
        try:
            store = open_store(store)
        except StoreInvalidError as err:
            return list(err.problems)
    return list(_problems(store, deep))


def _problems(store: Store, deep: bool) -> Iterator[str]:
    group = store.group
    runs = int(group["run"].shape[0]) if "run" in group else 0
    sizes = {"run": runs, "t": store.calls, "branch": len(store.branches)}
    for variable in ROOT_VARIABLES.values():
        if variable.group == "always" or variable.name in group:
            yield from _check_array(group, "", variable, sizes)
    ids = [name for name in store.run_ids if name]
    for name in sorted({name for name in ids if ids.count(name) > 1}):
        yield f"run: the label {name!r} stands in {ids.count(name)} rows"
    done = [row for row, flag in enumerate(store.complete) if flag]
    for row in done:
        if not store.run_ids[row]:
            yield f"run: row {row} is complete but has no label"
    for path, leaf in store.leaves.items():
        yield from _check_leaf(store, path, leaf, sizes, done, deep)
    yield from statistic_problems(store, deep=deep)


def _check_leaf(
    store: Store, path: str, leaf: Leaf, sizes: dict[str, int], done: list[int], deep: bool
) -> Iterator[str]:
    node = store.group[path]
    own = leaf.sizes(runs=sizes["run"], branches=sizes["branch"], calls=sizes["t"])
    variables = {variable.name: variable for variable in leaf.variables()}
    for name in sorted(set(node.array_keys()) - set(variables)):
        yield f"{path}/{name}: the schema has no such array here"
    for variable in variables.values():
        found = list(_check_array(node, path + "/", variable, own))
        yield from found
        if not found and variable.dims[0] == "run":
            yield from _check_shards(store, f"{path}/{variable.name}", done, deep)


def _check_array(group: zarr.Group, prefix: str, variable: Variable, sizes: dict[str, int]) -> Iterator[str]:
    where = prefix + variable.name
    if variable.name not in group:
        yield f"{where}: missing"
        return
    array = group[variable.name]
    if not isinstance(array, zarr.Array):
        yield f"{where}: a group stands where an array is needed"
        return
    dims = tuple(array.metadata.dimension_names or ())
    if dims != variable.dims:
        yield f"{where}: dims are {dims}; {variable.dims} are needed"
        return
    for dim, length in zip(dims, array.shape, strict=True):
        if dim in sizes and sizes[dim] != length:
            yield f"{where}: {dim} has length {length}; {sizes[dim]} is needed"
    kind = str(array.dtype).replace("StringDType()", "str")
    needed = {"f2": "float16", "f4": "float32", "i4": "int32", "i8": "int64", "u1": "uint8"}
    if kind != needed.get(variable.dtype, variable.dtype):
        yield f"{where}: dtype is {kind}; {needed.get(variable.dtype, variable.dtype)} is needed"


def _check_shards(store: Store, name: str, done: list[int], deep: bool) -> Iterator[str]:
    array = store.group[name]
    shards = array.shards or array.chunks
    blocks = [range(-(-size // shard)) for size, shard in zip(array.shape[1:], shards[1:], strict=True)]
    label = {row: store.run_ids[row] for row in done}
    for row in done:
        for block in itertools.product(*blocks):
            key = "/".join(["c", str(row), *(str(i) for i in block)])
            if array.dtype.kind == "f" and not sync(array.store_path.store.exists(f"{name}/{key}")):
                yield f"{name}: run {label[row]!r} is complete but shard {key} is missing"
            elif deep:
                start = [slice(i * s, (i + 1) * s) for i, s in zip(block, shards[1:], strict=True)]
                try:
                    array[(row, *start)]
                except (ValueError, RuntimeError) as err:
                    yield f"{name}: run {label[row]!r}, shard {key} cannot be read: {err}"

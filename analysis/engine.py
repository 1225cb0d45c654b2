"""The xarray backend: ``xr.open_dataset("cats.zarr", engine="attlas", group="text/64x64")``.

Stored arrays come with their labels, and with them the attention itself, which the store may hold as its logarithm or
as Q and K. xarray finds the backend by the entry point ``xarray.backends``; nothing heavy is imported before it opens.
"""

from collections.abc import Iterable
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

if TYPE_CHECKING:
    from attlas.analysis.trace import Trace

__all__ = ["AttlasBackendEntrypoint"]


class AttlasBackendEntrypoint(BackendEntrypoint):
    """Opens attlas stores as plain xarray Datasets and DataTrees; a list or a pattern of stores as one.

    Options beside xarray's own:

    ``group``
        Group path of a leaf, such as ``"text/64x64"``, or ``"annotations"``; None is the run table and the pictures.
    ``direction``
        Of ``attention``: ``"g2r"`` (softmax over keys, the default) or ``"r2g"`` (softmax over queries).
    ``incomplete``
        Also runs that are unfinished; what they lack is NaN.
    ``prefix``
        Label runs ``store/run``, where several stores have runs of the same label.
    ``device``
        Torch device on which attention is computed.

    A leaf has its stored arrays and ``attention (run, branch, t, layer, head, query, key)``, float32, from either
    encoding (see `attlas.analysis.blockwise.attention.attention`); one that keeps summaries only has no ``attention``.
    Values are read when they are asked for. With ``chunks={}`` arrays are dask-backed, a stored array one chunk a
    shard; ``attention`` in blocks of at most 64 MiB or one matrix, each inside a shard.

    Raises
    ------
    UnknownNameError
        For a group or a direction that is not there.
    StoreNotFoundError, StoreExistsError, SchemaVersionError, StoreInvalidError, StoreMismatchError
        As `attlas.analysis.open_trace`.
    """

    description = "attention of diffusion models recorded by attlas, with labels"
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        "filename_or_obj",
        "drop_variables",
        "group",
        "direction",
        "incomplete",
        "prefix",
        "device",
    )
    supports_groups = True

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether it is the folder of an attlas store; others must name the engine."""
        if not isinstance(filename_or_obj, (str, PathLike)):
            return False
        from attlas.schemas.root import is_store

        path = fspath(filename_or_obj)
        return isinstance(path, str) and "://" not in path and is_store(path)

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        direction: str = "g2r",
        incomplete: bool = False,
        prefix: bool = False,
        device: str = "cpu",
    ) -> xr.Dataset:
        """Open one group."""
        from attlas.schemas.errors import unknown_name

        trace = _open(filename_or_obj, direction, incomplete=incomplete, prefix=prefix, device=device)
        wanted = (group or "").strip("/")
        known = _groups(trace)
        if wanted not in known:
            raise unknown_name("group", wanted, [name for name in known if name], where=trace.where)
        return _served(_group(trace, wanted, direction), drop_variables)

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        direction: str = "g2r",
        incomplete: bool = False,
        prefix: bool = False,
        device: str = "cpu",
    ) -> dict[str, xr.Dataset]:
        """Open every group, or those below `group`, by path."""
        from attlas.schemas.errors import unknown_name

        trace = _open(filename_or_obj, direction, incomplete=incomplete, prefix=prefix, device=device)
        wanted = (group or "").strip("/")
        known = _groups(trace)
        chosen = [name for name in known if not wanted or name == wanted or name.startswith(f"{wanted}/")]
        if not chosen:
            raise unknown_name("group", wanted, [name for name in known if name], where=trace.where)
        return {
            "/" + name.removeprefix(wanted).strip("/"): _served(_group(trace, name, direction), drop_variables)
            for name in chosen
        }

    def open_datatree(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        direction: str = "g2r",
        incomplete: bool = False,
        prefix: bool = False,
        device: str = "cpu",
    ) -> xr.DataTree:
        """Open every group, or those below `group`, as a tree."""
        return xr.DataTree.from_dict(
            self.open_groups_as_dict(
                filename_or_obj,
                drop_variables=drop_variables,
                group=group,
                direction=direction,
                incomplete=incomplete,
                prefix=prefix,
                device=device,
            )
        )


class _Values(BackendArray):
    """Values of a dask array for xarray's lazy indexing: what is asked for is computed, here and now.

    One thread, since blocks are read by dask tasks when the user has asked for chunks.
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        made = self.array
        for axis in reversed(range(len(key))):
            made = made[(slice(None),) * axis + (key[axis],)]
        return np.asarray(made.compute(scheduler="synchronous"))


def _open(filename_or_obj: Any, direction: str, **options: Any) -> "Trace":
    from attlas.analysis.aggregation.selection import check_direction
    from attlas.analysis.opening import open_trace

    check_direction(direction)
    return open_trace(filename_or_obj, **options)


def _groups(trace: "Trace") -> list[str]:
    return ["", *trace.leaves, *(["annotations"] if len(trace.annotations) else [])]


def _group(trace: "Trace", name: str, direction: str) -> xr.Dataset:
    """One group with everything lazy, dask-backed."""
    if not name:
        return trace.tree.to_dataset()
    if name == "annotations":
        return trace.annotations
    leaf = trace.leaves[name]
    made = trace.dataset(name)
    if trace.holds(name, "log_attention") or trace.holds(name, "query_vectors"):
        made = made.assign(attention=trace.attention(leaf.kind, direction, name.partition("/")[2]))
    return made


def _served(dataset: xr.Dataset, drop_variables: str | Iterable[str] | None) -> xr.Dataset:
    """Dataset without dask: values are lazy as xarray's own, chunks are a preference."""
    dropped = {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())
    held = dataset.drop_vars(dropped, errors="ignore")
    lazy = {
        name: xr.Variable(
            variable.dims,
            indexing.LazilyIndexedArray(_Values(variable.data)),
            variable.attrs,
            {"preferred_chunks": dict(zip(variable.dims, variable.chunks, strict=True))},
        )
        for name, variable in held.variables.items()
        if variable.chunks is not None
    }
    data = {name: variable for name, variable in lazy.items() if name not in held.coords}
    return held.assign(data).assign_coords({name: own for name, own in lazy.items() if name in held.coords})

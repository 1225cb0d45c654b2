"""A trace: one store seen as a lazy, labelled xarray tree."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from attlas.analysis.reading import Files, ShardReader, lazy_variable
from attlas.schemas import ROOT_VARIABLES, Leaf, Manifest, Store, open_store
from attlas.schemas.errors import InvalidValueError, NotRecordedError, unknown_name

__all__ = ["Trace", "open_trace"]

TABLE = ("prompt", "seed", "request", "complete")
CLOCK = ("step", "timestep", "sigma")
PICTURES = ("generated_image", "generated_video", "reference_image")


class Trace:
    """The complete runs of a store as lazy labelled arrays; `open_trace` makes one.

    Only the run table and the labels are in memory; every attention array is dask-backed, one chunk a shard.
    Opening is a snapshot: runs that are recorded later are seen by opening again.

    Attributes
    ----------
    store
        The store behind it.
    rows
        Rows of the store that it shows.
    device
        Torch device on which kernels run.
    """

    def __init__(self, store: Store, rows: Iterable[int], *, device: str = "cpu", files: Files | None = None) -> None:
        self.store = store
        self.rows = tuple(rows)
        self.device = device
        self._files = Files(store.group.store) if files is None else files
        self._tokens: dict[str, xr.Dataset] = {}
        self._datasets: dict[str, xr.Dataset] = {}
        self._labels: dict[tuple[str, str | None], xr.Dataset] = {}
        self._variables: dict[tuple[str, int | None], xr.Variable] = {}

    @property
    def path(self) -> str | None:
        """Folder or URL of the store; None in memory."""
        return self.store.path

    @property
    def manifest(self) -> Manifest:
        """What the recordings are made of."""
        return self.store.manifest

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Geometry by group path, such as ``text/16x16``; finest grid first within a kind."""
        return self.store.leaves

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of attention that the store holds."""
        return tuple(dict.fromkeys(leaf.kind for leaf in self.leaves.values()))

    @property
    def branches(self) -> tuple[str, ...]:
        """Guidance branches, in stored order."""
        return self.store.branches

    @cached_property
    def runs(self) -> xr.Dataset:
        """The run table, in memory: prompt, seed, request, complete ``(run,)``; step, timestep, sigma ``(run, t)``."""
        whole = xr.Dataset({name: self._files.label(name) for name in ("run", "t", *TABLE, *CLOCK)})
        return whole.set_coords([*CLOCK, "t", "run"]).isel(run=list(self.rows))

    @cached_property
    def run_ids(self) -> tuple[str, ...]:
        """Labels of the runs."""
        return tuple(str(name) for name in self.runs["run"].values)

    @cached_property
    def tree(self) -> xr.DataTree:
        """The whole store as an xarray tree: run table and pictures at the root, a node per leaf, annotations."""
        root = self.runs.assign_coords(branch=("branch", np.asarray(self.branches)))
        pictures = {name: self._variable(name) for name in PICTURES if name in self._files}
        nodes = {"/": root.assign(pictures), **{f"/{name}": self.dataset(name) for name in self.leaves}}
        if "annotations" in self._files:
            nodes["/annotations"] = self.annotations.drop_vars("run")
        tree = xr.DataTree.from_dict(nodes)
        tree.attrs = {"attlas": dict(self._files.group.attrs["attlas"])}
        return tree

    @property
    def images(self) -> xr.DataArray:
        """Generated images, uint8 (run, image_y, image_x, rgb), lazy; the middle frames of videos."""
        return self._labelled(self._variable("generated_image"), "generated_image")

    @property
    def videos(self) -> xr.DataArray:
        """Generated videos, uint8 (run, video_frame, image_y, image_x, rgb), lazy; `NotRecordedError` if none."""
        if "generated_video" not in self._files:
            raise NotRecordedError(f"{self.where} has no video: its pipeline makes pictures")
        return self._labelled(self._variable("generated_video"), "generated_video")

    @property
    def reference(self) -> xr.DataArray:
        """Reference images, uint8 (run, reference_y, reference_x, rgb), lazy; `NotRecordedError` if there are none."""
        if "reference_image" not in self._files:
            raise NotRecordedError(f"{self.where} has no reference image: its pipeline takes none")
        return self._labelled(self._variable("reference_image"), "reference_image")

    @cached_property
    def annotations(self) -> xr.Dataset:
        """What the user gave with each run, lazy; empty if nothing was given."""
        group = self._files.group
        names = sorted(group["annotations"].array_keys()) if "annotations" in self._files else []
        variables = {name: self._variable(f"annotations/{name}") for name in names}
        return xr.Dataset(variables, coords={"run": self.runs["run"]})

    def dataset(self, leaf: str) -> xr.Dataset:
        """Give the stored arrays of one leaf, lazy, with its labels as coordinates; `leaf` as in ``leaves``."""
        if leaf not in self.leaves:
            raise unknown_name("leaf", leaf, self.leaves, where=self.where)
        if leaf not in self._datasets:
            geometry = self.leaves[leaf]
            held = [variable for variable in geometry.variables() if self.holds(leaf, variable.name)]
            arrays = [variable for variable in held if variable.role == "data"]
            data = self.arrays(leaf, [variable.name for variable in arrays if "run" in variable.dims])
            weights = [variable.name for variable in arrays if "run" not in variable.dims]
            data = data.assign({name: self._files.weights(f"{leaf}/{name}", self.where) for name in weights})
            coords = {
                variable.name: self._variable(f"{leaf}/{variable.name}", None)
                if "run" in variable.dims
                else self._files.label(f"{leaf}/{variable.name}")
                for variable in held
                if variable.role != "data"
            }
            whole = data.assign_coords(coords).assign_coords(run=self.runs["run"].variable)
            self._datasets[leaf] = whole.assign_attrs(kind=geometry.kind, grid=geometry.grid)
        return self._datasets[leaf]

    def holds(self, leaf: str, name: str) -> bool:
        """Whether the leaf has the array `name`."""
        return f"{leaf}/{name}" in self._files

    def array(self, leaf: str, name: str, branch: str | None = None) -> xr.Variable:
        """Give one stored array of a leaf, lazy, without labels; with `branch` only its part of each shard is read."""
        return self._variable(f"{leaf}/{name}", self._branch_place(branch))

    def label(self, leaf: str, name: str) -> xr.Variable:
        """Give a label of a leaf that is the same for every run, such as ``layer`` or ``head``, in memory."""
        return self._files.label(f"{leaf}/{name}")

    def arrays(self, leaf: str, names: Iterable[str], branch: str | None = None) -> xr.Dataset:
        """Give some stored arrays of a leaf, lazy, labelled along branch, t, layer and head only.

        With `branch` its part of each shard is all that is read: branches are chunks of their own in a shard.
        """
        place = self._branch_place(branch)
        data = {name: self._variable(f"{leaf}/{name}", place) for name in names}
        if (leaf, branch) not in self._labels:
            # Indexes of labels take longer to make than a graph; they are the same for every array of the leaf.
            own: dict[str, Any] = {"branch": ("branch", np.asarray(self.branches if branch is None else [branch]))}
            own |= {name: self._files.label(f"{leaf}/{name}") for name in ("layer", "head")}
            self._labels[leaf, branch] = xr.Dataset(coords={**own, "t": self.runs["t"].variable})
        return self._labels[leaf, branch].assign(data)

    def attention(self, kind: str, direction: str = "g2r", grid: str | None = None) -> xr.DataArray:
        """Attention of one leaf; see `attlas.analysis.blockwise.attention.attention`."""
        from attlas.analysis.blockwise.attention import attention

        return attention(self, kind, direction, grid)

    def sel(self, runs: str | Iterable[str]) -> "Trace":
        """Trace of the named runs only, in the given order; reads nothing.

        Raises
        ------
        UnknownNameError
            If a run is not there.
        """
        wanted = [runs] if isinstance(runs, str) else list(runs)
        for name in wanted:
            if name not in self.run_ids:
                raise unknown_name("run", name, self.run_ids, where=self.where)
        return self.isel([self.run_ids.index(name) for name in wanted])

    def isel(self, runs: Iterable[int]) -> "Trace":
        """Trace of the runs at these places; reads nothing."""
        places = list(runs)
        if any(not -len(self.rows) <= place < len(self.rows) for place in places):
            raise InvalidValueError(f"run places {places} reach outside the {len(self.rows)} runs of {self.where}")
        return Trace(self.store, [self.rows[place] for place in places], device=self.device, files=self._files)

    def tokens(self, leaf: str) -> xr.Dataset:
        """Characters ``[token_start, token_end)`` of each text key in its prompt, ``(run, branch, key)``, read once.

        -1 where the key is no part of the prompt. `NotRecordedError` if the leaf's keys are no tokens.
        """
        if f"{leaf}/token_start" not in self._files:
            raise NotRecordedError(
                f"{self.where}: keys of leaf {leaf} are no tokens; word maps need attention of kind 'text', or 'joint'"
            )
        if leaf not in self._tokens:
            names = ("token_start", "token_end")
            columns = {name: (("run", "branch", "key"), self._reader(f"{leaf}/{name}")[:]) for name in names}
            self._tokens[leaf] = xr.Dataset(columns, {"run": list(self.run_ids), "branch": list(self.branches)})
        return self._tokens[leaf]

    @property
    def where(self) -> str:
        """The store's name in messages."""
        return self.path or "the store in memory"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as a path and rows; files are opened there."""
        if self.path is None:
            raise InvalidValueError(
                "a trace of a store in memory cannot go to another process; keep the store in a folder, as "
                'record(pipe, "path.zarr", ...) does, and open it from there'
            )
        return (_opened, (self.path, self.rows, self.device))

    def __repr__(self) -> str:
        """Short table of runs and leaves."""
        lines = [f"<attlas trace of {self.where}: {len(self.rows)} runs, {self.store.calls} calls, branches "]
        lines[0] += f"{', '.join(self.branches)}>"
        lines += [
            f"  {name:<14} {len(leaf.layers):>3} layers x {leaf.heads:>2} heads  {leaf.queries:>5} queries x "
            f"{leaf.keys:>5} keys  {_kept(leaf)}"
            for name, leaf in self.leaves.items()
        ]
        if len(self.annotations):
            lines.append(f"  annotations    {', '.join(str(name) for name in self.annotations)}")
        return "\n".join(lines)

    def _branch_place(self, branch: str | None) -> int | None:
        if branch is not None and branch not in self.branches:
            raise unknown_name("branch", branch, self.branches, where=self.where)
        return None if branch is None else self.branches.index(branch)

    def _variable(self, name: str, branch: int | None = None) -> xr.Variable:
        if (name, branch) not in self._variables:
            self._variables[name, branch] = lazy_variable(self._reader(name, branch))
        return self._variables[name, branch]

    def _reader(self, name: str, branch: int | None = None) -> ShardReader:
        flags = tuple(bool(flag) for flag in self.runs["complete"].values)
        sure = flags if name not in ROOT_VARIABLES and not name.startswith("annotations/") else (False,) * len(flags)
        return ShardReader(self._files.stored(name), self.where, self.rows, self.run_ids, sure, branch)

    def _labelled(self, variable: xr.Variable, name: str) -> xr.DataArray:
        return xr.DataArray(variable, coords={"run": self.runs["run"]}, name=name)


def _opened(path: str, rows: tuple[int, ...], device: str) -> Trace:
    return Trace(open_store(path), rows, device=device)


def _kept(leaf: Leaf) -> str:
    """Say what a leaf keeps."""
    kept = "summary" if leaf.encoding == "none" else f"full, {leaf.encoding}"
    return f"{kept}, a part of the keys" if leaf.partial else kept


def open_trace(store: str | Path | Store | Any, *, incomplete: bool = False, device: str = "cpu") -> Trace:
    """Open a store for analysis; reads the run table and labels, no attention.

    Parameters
    ----------
    store
        Folder, URL, an open `attlas.schemas.Store` (in memory or not), or a zarr store object.
    incomplete
        Also show runs that are unfinished or were interrupted; what they lack is NaN.
    device
        Torch device on which attention is computed from stored arrays, such as ``"cuda"``.

    Returns
    -------
    Trace of the complete runs.

    Raises
    ------
    StoreNotFoundError
        If nothing is at the path.
    StoreExistsError, SchemaVersionError, StoreInvalidError
        If what is there is no store, of a newer attlas, or broken.

    Examples
    --------
    >>> from attlas.schemas import simulate_store
    >>> open_trace(simulate_store(runs=2, kinds=("text",)))
    <attlas trace of the store in memory: 2 runs, 3 calls, branches uncond, cond>
      text/4x4         2 layers x  2 heads     16 queries x    10 keys  full, dense
      annotations    cross, disc
    """
    if isinstance(store, (str, Path)):
        opened = open_store(store)
    elif isinstance(store, Store):
        opened = store
    else:
        opened = Store(zarr.open_group(store, mode="r", use_consolidated=False), None)
    done = opened.complete
    rows = [row for row, name in enumerate(opened.run_ids) if name and (incomplete or done[row])]
    return Trace(opened, rows, device=device)

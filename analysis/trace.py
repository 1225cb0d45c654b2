"""A trace: the runs of one or several stores seen as a lazy, labelled xarray tree."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.reading import lazy_variable
from attlas.analysis.run_axis import PICTURES, RunAxis
from attlas.analysis.store_files import StoreFiles
from attlas.schemas import SCHEMA_VERSION, Leaf, Manifest, Store, open_store
from attlas.schemas.errors import InvalidValueError, NotRecordedError, unknown_name

__all__ = ["Part", "Trace"]

TABLE = ("prompt", "seed", "request", "complete")
CLOCK = ("step", "timestep", "sigma")


class Trace:
    """The complete runs of one or several stores as lazy labelled arrays; `attlas.analysis.open_trace` makes one.

    Only the run table and the labels are in memory; every attention array is dask-backed, one chunk a shard.
    Opening is a snapshot: runs that are recorded later are seen by opening again. What a run never had (a reference
    picture, an annotation) is all fill: NaN, -1, black, or empty text.

    Attributes
    ----------
    device
        Torch device on which kernels run.
    """

    def __init__(self, axis: RunAxis, *, device: str = "cpu") -> None:
        self.device = device
        self._axis = axis
        self._tokens: dict[str, xr.Dataset] = {}
        self._datasets: dict[str, xr.Dataset] = {}
        self._labels: dict[tuple[str, str | None], xr.Dataset] = {}
        self._variables: dict[tuple[str, int | None], xr.Variable] = {}

    @property
    def stores(self) -> tuple[Store, ...]:
        """The stores behind it; they agree in what made them and in every shape."""
        return tuple(own.store for own in self._axis.files)

    @property
    def store(self) -> Store:
        """The store behind it; `InvalidValueError` where there are several: `parts` has a trace of each."""
        if len(self.stores) > 1:
            raise InvalidValueError(f"this trace is of {len(self.stores)} stores, {self.where}; take one of its parts")
        return self.stores[0]

    @property
    def rows(self) -> tuple[int, ...]:
        """Row of each run in its own store."""
        return self._axis.rows

    @cached_property
    def parts(self) -> "tuple[Part, ...]":
        """The same runs store by store, each with a trace of its own."""
        if len(self.stores) == 1:
            return (Part(tuple(range(len(self.rows))), self),)
        return tuple(Part(places, Trace(axis, device=self.device)) for places, axis in self._axis.apart())

    @property
    def path(self) -> str | None:
        """Folder or URL of the store; None in memory, and where there are several stores."""
        return self.stores[0].path if len(self.stores) == 1 else None

    @property
    def identity(self) -> Hashable:
        """Traces that agree in this show the same runs of the same stores."""
        return self._axis.identity

    @property
    def manifest(self) -> Manifest:
        """What the recordings are made of."""
        return self.stores[0].manifest

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Geometry by group path, such as ``text/16x16``; finest grid first within a kind."""
        return self.stores[0].leaves

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of attention that the store holds."""
        return tuple(dict.fromkeys(leaf.kind for leaf in self.leaves.values()))

    @property
    def branches(self) -> tuple[str, ...]:
        """Guidance branches, in stored order."""
        return self.stores[0].branches

    @property
    def calls(self) -> int:
        """Calls of the denoiser in a run."""
        return self.stores[0].calls

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of the generated pictures."""
        return self.stores[0].image_shape

    @property
    def frames(self) -> int | None:
        """Frames of the generated videos; None where the pipeline makes pictures."""
        return self.stores[0].frames

    @property
    def reference_shape(self) -> tuple[int, int] | None:
        """Rows and columns of the reference pictures; None where there are none."""
        return self._axis.reference_shape

    @property
    def incomplete(self) -> int:
        """How many runs of its stores are not complete: under way, or interrupted."""
        return sum(own.incomplete for own in self._axis.files)

    @cached_property
    def runs(self) -> xr.Dataset:
        """The run table, in memory: prompt, seed, request, complete ``(run,)``; step, timestep, sigma ``(run, t)``."""
        columns = self._axis.columns(("run", *TABLE, *CLOCK))
        columns["run"] = columns["run"].copy(data=np.asarray(self.run_ids, dtype=str))
        return xr.Dataset({**columns, "t": self._axis.first.label("t")}).set_coords([*CLOCK, "t", "run"])

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Labels of the runs."""
        return self._axis.ids

    @cached_property
    def tree(self) -> xr.DataTree:
        """All of it as an xarray tree: run table and pictures at the root, a node per leaf, annotations."""
        root = self.runs.assign_coords(branch=("branch", np.asarray(self.branches)))
        pictures = {name: self._variable(name) for name in PICTURES if name in self._axis}
        nodes = {"/": root.assign(pictures), **{f"/{name}": self.dataset(name) for name in self.leaves}}
        if len(self.annotations):
            nodes["/annotations"] = self.annotations.drop_vars("run")
        tree = xr.DataTree.from_dict(nodes)
        tree.attrs = {"attlas": {"schema": SCHEMA_VERSION, "manifest": self.manifest.to_json()}}
        return tree

    @property
    def images(self) -> xr.DataArray:
        """Generated images, uint8 (run, image_y, image_x, rgb), lazy; the middle frames of videos."""
        return self._labelled(self._variable("generated_image"), "generated_image")

    @property
    def videos(self) -> xr.DataArray:
        """Generated videos, uint8 (run, video_frame, image_y, image_x, rgb), lazy; `NotRecordedError` if none."""
        if "generated_video" not in self._axis:
            raise NotRecordedError(f"{self.where} has no video: its pipeline makes pictures")
        return self._labelled(self._variable("generated_video"), "generated_video")

    @property
    def reference(self) -> xr.DataArray:
        """Reference images, uint8 (run, reference_y, reference_x, rgb), lazy; `NotRecordedError` if there are none."""
        if "reference_image" not in self._axis:
            raise NotRecordedError(f"{self.where} has no reference image: its pipeline takes none")
        return self._labelled(self._variable("reference_image"), "reference_image")

    @cached_property
    def annotations(self) -> xr.Dataset:
        """What the user gave with each run, lazy; empty if nothing was given."""
        variables = {name: self._variable(f"annotations/{name}") for name in self._axis.annotations}
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
            data = data.assign({name: self._axis.first.weights(f"{leaf}/{name}") for name in weights})
            coords = {
                variable.name: self._variable(f"{leaf}/{variable.name}", None)
                if "run" in variable.dims
                else self._axis.first.label(f"{leaf}/{variable.name}")
                for variable in held
                if variable.role != "data"
            }
            whole = data.assign_coords(coords).assign_coords(run=self.runs["run"].variable)
            self._datasets[leaf] = whole.assign_attrs(kind=geometry.kind, grid=geometry.grid)
        return self._datasets[leaf]

    def holds(self, leaf: str, name: str) -> bool:
        """Whether the leaf has the array `name`."""
        return f"{leaf}/{name}" in self._axis

    def array(self, leaf: str, name: str, branch: str | None = None) -> xr.Variable:
        """Give one stored array of a leaf, lazy, without labels; with `branch` only its part of each shard is read."""
        return self._variable(f"{leaf}/{name}", self._branch_place(branch))

    def label(self, leaf: str, name: str) -> xr.Variable:
        """Give a label of a leaf that is the same for every run, such as ``layer`` or ``head``, in memory."""
        return self._axis.first.label(f"{leaf}/{name}")

    def arrays(self, leaf: str, names: Iterable[str], branch: str | None = None) -> xr.Dataset:
        """Give some stored arrays of a leaf, lazy, labelled along branch, t, layer and head only.

        With `branch` its part of each shard is all that is read: branches are chunks of their own in a shard.
        """
        place = self._branch_place(branch)
        data = {name: self._variable(f"{leaf}/{name}", place) for name in names}
        if (leaf, branch) not in self._labels:
            # Indexes of labels take longer to make than a graph; they are the same for every array of the leaf.
            own: dict[str, Any] = {"branch": ("branch", np.asarray(self.branches if branch is None else [branch]))}
            own |= {name: self._axis.first.label(f"{leaf}/{name}") for name in ("layer", "head")}
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
        places = {name: place for place, name in enumerate(self.run_ids)}
        for name in wanted:
            if name not in places:
                raise unknown_name("run", name, self.run_ids, where=self.where)
        return self.isel([places[name] for name in wanted])

    def isel(self, runs: Iterable[int]) -> "Trace":
        """Trace of the runs at these places; reads nothing."""
        places = list(runs)
        if any(not -len(self.rows) <= place < len(self.rows) for place in places):
            raise InvalidValueError(f"run places {places} reach outside the {len(self.rows)} runs of {self.where}")
        return Trace(self._axis.take(places), device=self.device)

    def tokens(self, leaf: str) -> xr.Dataset:
        """Characters ``[token_start, token_end)`` of each text key in its prompt, ``(run, branch, key)``, read once.

        -1 where the key is no part of the prompt. `NotRecordedError` if the leaf's keys are no tokens.
        """
        if f"{leaf}/token_start" not in self._axis:
            raise NotRecordedError(
                f"{self.where}: keys of leaf {leaf} are no tokens; word maps need attention of kind 'text', or 'joint'"
            )
        if leaf not in self._tokens:
            names = ("token_start", "token_end")
            columns = {name: (("run", "branch", "key"), self._axis.reader(f"{leaf}/{name}")[:]) for name in names}
            self._tokens[leaf] = xr.Dataset(columns, {"run": list(self.run_ids), "branch": list(self.branches)})
        return self._tokens[leaf]

    @property
    def where(self) -> str:
        """The store's name in messages, or the stores'."""
        return self._axis.where

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as paths and rows; files are opened there."""
        axis = self._axis
        paths = [[own.store.path for own in files] for files in (axis.files, axis.forms)]
        if None in (*paths[0], *paths[1]):
            raise InvalidValueError(
                "a trace of a store in memory cannot go to another process; keep the store in a folder, as "
                'record(pipe, "path.zarr", ...) does, and open it from there'
            )
        whole = all(axis.complete)
        return (_opened, (*paths, axis.stores, axis.rows, axis.prefixes, self.device, whole))

    def __repr__(self) -> str:
        """Short table of runs and leaves."""
        lines = [f"<attlas trace of {self.where}: {len(self.rows)} runs, {self.calls} calls, branches "]
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
            self._variables[name, branch] = lazy_variable(self._axis.reader(name, branch))
        return self._variables[name, branch]

    def _labelled(self, variable: xr.Variable, name: str) -> xr.DataArray:
        return xr.DataArray(variable, coords={"run": self.runs["run"]}, name=name)


@dataclass(frozen=True)
class Part:
    """The runs of one store in a trace: their places in it, and their own trace."""

    places: tuple[int, ...]
    trace: Trace


def _opened(
    paths: list[str],
    forms: list[str],
    stores: tuple[int, ...],
    rows: tuple[int, ...],
    prefixes: tuple[str, ...],
    device: str,
    whole: bool,
) -> Trace:
    files = {path: StoreFiles(open_store(path), incomplete=not whole) for path in dict.fromkeys((*paths, *forms))}
    axis = RunAxis(tuple(files[one] for one in paths), stores, rows, prefixes, tuple(files[one] for one in forms))
    return Trace(axis, device=device)


def _kept(leaf: Leaf) -> str:
    """Say what a leaf keeps."""
    kept = "summary" if leaf.encoding == "none" else f"full, {leaf.encoding}"
    return f"{kept}, a part of the keys" if leaf.partial else kept

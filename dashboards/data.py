"""The data behind the page: open traces, pictures and computed maps, each kept while there is room."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis import Trace, open_trace
from attlas.analysis.words import text_kind
from attlas.dashboards.code import ALL_GRIDS, asked_side, call, python
from attlas.dashboards.labels import layer_order
from attlas.dashboards.map_calls import FAILURES, side_of
from attlas.dashboards.offering import offer_of
from attlas.dashboards.shelf import find_stores
from attlas.dashboards.state import BenchState, Offer, Question
from attlas.schemas import Leaf
from attlas.schemas.errors import AttlasError, InvalidValueError, NotRecordedError, unknown_name

__all__ = ["STRIPS", "Answer", "Catalogue", "Kept"]

STRIPS = ("t", "head", "layer")
"""Axes along which an answer is taken apart."""

CUBE_BYTES = 64 * 2**20
"""Largest map by (t, layer, head) that is computed at once; above it each strip is computed by itself."""

TIME_TILES = 10


class Kept:
    """Least recently used values go first once `room` bytes are full; the newest always stays.

    Examples
    --------
    >>> kept = Kept(room=20)
    >>> for name in "abc":
    ...     value = kept.get(name, lambda: (name.upper(), 10))
    >>> value, sorted(kept.values)
    ('C', ['b', 'c'])
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.values: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._lock = RLock()

    def get(self, key: Any, make: Callable[[], tuple[Any, int]]) -> Any:
        """Value of `key`; where it is not kept, `make` gives it and its bytes."""
        with self._lock:
            if key in self.values:
                self.values.move_to_end(key)
                return self.values[key][0]
        value, size = make()
        with self._lock:
            self.values[key] = (value, size)
            while len(self.values) > 1 and sum(bytes_ for _, bytes_ in self.values.values()) > self.room:
                self.values.popitem(last=False)
        return value

    def forget(self, store: str) -> None:
        """Drop what belongs to `store`: keys are tuples that begin with its name."""
        with self._lock:
            for key in [key for key in self.values if key[0] == store]:
                del self.values[key]


@dataclass(frozen=True)
class Answer:
    """A computed map, float32 (rows, columns), and the picture that it lies on: ``generated`` or ``reference``."""

    attention: xr.DataArray
    side: str


class Catalogue:
    """All stores that a page may look at, by name; opens each when it is first asked for.

    Parameters
    ----------
    paths
        Stores, folders of stores, URLs.
    room
        Bytes of computed maps and pictures that are kept.

    Attributes
    ----------
    problems
        What was found wrong while looking for stores, one line each.
    """

    def __init__(self, paths: Iterable[str | Path], *, room: int = 256 * 2**20) -> None:
        self._paths, problems = find_stores(paths)
        self.problems = tuple(problems)
        self._kept = Kept(room)
        self._traces: dict[str, Trace] = {}
        self._runs = Kept(32)
        self._lock = RLock()

    @property
    def stores(self) -> tuple[str, ...]:
        """Names of the stores, in the order given."""
        return tuple(self._paths)

    def path(self, store: str) -> str:
        """Path or URL of a store."""
        if store not in self._paths:
            raise unknown_name("store", store, self._paths)
        return self._paths[store]

    def refresh(self) -> None:
        """Forget open traces, so that runs recorded since are seen; computed maps stay unless the store is another."""
        with self._lock:
            for name, old in list(self._traces.items()):
                del self._traces[name]
                self._runs.forget(name)
                try:
                    same = self.trace(name).store.created == old.store.created
                except (AttlasError, OSError, ValueError, KeyError):
                    same = False
                if not same:
                    self._kept.forget(name)

    def trace(self, store: str, run: str | None = None) -> Trace:
        """Trace of a store, or of one run of it.

        Raises
        ------
        UnknownNameError
            For an unknown store or run.
        AttlasError
            If the store is broken.
        """
        with self._lock:
            path = self.path(store)
            if store not in self._traces:
                try:
                    self._traces[store] = open_trace(path)
                except AttlasError as err:
                    raise InvalidValueError(f"store {store!r} cannot be shown: {err}") from err
            whole = self._traces[store]
        return whole if run is None else self._runs.get((store, run), lambda: (whole.sel(run), 1))

    def offer(self, store: str, run: str | None) -> Offer:
        """Say what can be asked of `run` (None: of the first run) of `store`."""
        whole = self.trace(store)
        if not whole.run_ids:
            return Offer()
        one = self.trace(store, run or whole.run_ids[0])
        return offer_of(whole, one)

    def picture(self, store: str, run: str, side: str = "generated") -> xr.DataArray | None:
        """Picture of a run, uint8 (rows, columns, RGB) in memory; None where the store has no reference."""
        if side == "reference" and self.trace(store).reference_shape is None:
            return None

        def read() -> tuple[xr.DataArray, int]:
            one = self.trace(store, run)
            image = (one.reference if side == "reference" else one.images).isel(run=0).compute()
            return image, image.nbytes

        made: xr.DataArray = self._kept.get((store, run, "picture", side), read)
        return made

    def answer(self, question: Question, patch_grid: tuple[int, int]) -> Answer:
        """Compute the map that answers a question, or recall it."""
        # A registered map does not depend on the grid of patches.
        attention = self._compute(question, (1, 1) if question.map is not None else patch_grid, ())
        return Answer(attention, self.side(question))

    def side(self, question: Question) -> str:
        """Picture that the answer lies on, ``generated`` or ``reference``."""
        if question.map is not None:
            return side_of(self._compute(question, (1, 1), ()))
        return asked_side(question, self.trace(question.store))

    def strip(self, question: Question, patch_grid: tuple[int, int], dim: str) -> xr.DataArray:
        """Take an answer apart along ``t`` (at most ten groups of calls), ``head`` or ``layer``; dims (dim, y, x).

        Raises
        ------
        NotRecordedError
            If the store keeps no single steps, and ``t`` is asked.
        InvalidValueError
            If layers differ in their number of heads, and ``head`` is asked.
        """
        if dim == "head" and question.map is None:
            self._check_heads(question)
        cube = None if question.map is not None else self._cube(question, patch_grid)
        if cube is None or dim not in cube.dims:
            made = self._compute(question, patch_grid, (dim,))
        else:
            made = cube.mean([other for other in STRIPS if other in cube.dims and other != dim])
        if dim == "layer":
            return made.isel(layer=layer_order([str(path) for path in made["layer"].values]))
        return _grouped(made) if dim == "t" else made

    def python(self, state: BenchState) -> str:
        """Python that reproduces what `state` shows."""
        return python(state, self.path(state.store), self.trace(state.store, state.run))

    def _compute(self, question: Question, patch_grid: tuple[int, int], keep: tuple[str, ...]) -> xr.DataArray:
        def make() -> tuple[xr.DataArray, int]:
            one = self.trace(question.store, question.run)
            asked = call(question, patch_grid, one, keep).lazy(one)
            made = asked.compute() if question.map is None else _computed(asked, question.map)
            return made, made.nbytes

        made: xr.DataArray = self._kept.get((question.store, question, keep), make)
        return made

    def _cube(self, question: Question, patch_grid: tuple[int, int]) -> xr.DataArray | None:
        """Map by (t, layer, head), or by (layer, head) where the store has no single steps; None if too large."""
        calls = self.trace(question.store).calls
        leaves = self._leaves(question)
        cells = max(leaf.queries if leaf.key_grid is None else max(leaf.queries, leaf.keys) for leaf in leaves)
        heads = sum(len(leaf.layers) * leaf.heads for leaf in leaves)
        if 4 * calls * heads * cells > CUBE_BYTES:
            return None
        try:
            return self._compute(question, patch_grid, ("t", "layer", "head"))
        except NotRecordedError:
            return self._compute(question, patch_grid, ("layer", "head"))

    def _leaves(self, question: Question) -> list[Leaf]:
        trace = self.trace(question.store)
        kind = text_kind(trace) if question.word is not None else question.kind
        leaves = [leaf for leaf in trace.leaves.values() if leaf.kind == kind]
        return [leaf for leaf in leaves if question.grid in (ALL_GRIDS, leaf.grid)]

    def _check_heads(self, question: Question) -> None:
        counts = sorted({leaf.heads for leaf in self._leaves(question)})
        if len(counts) > 1:
            shown = ", ".join(map(str, counts))
            raise InvalidValueError(f"layers have {shown} heads; choose one grid to see them apart")


def _computed(asked: xr.DataArray, name: str) -> xr.DataArray:
    """Compute a person's own map; what it raises is shown on the page."""
    try:
        return asked.compute()
    except AttlasError:
        raise
    except FAILURES as err:
        raise InvalidValueError(f"map {name!r} fails here: {type(err).__name__}: {err}") from err


def _grouped(maps: xr.DataArray) -> xr.DataArray:
    """Mean of neighbouring calls, so that at most ten tiles remain; coordinates ``first`` and ``last`` call."""
    calls = maps["t"].values
    places = np.array_split(np.arange(calls.size), min(TIME_TILES, calls.size))
    parts = [maps.isel(t=place).mean("t") for place in places]
    made = xr.concat(parts, "t", coords="minimal", compat="override")
    bounds = {"first": [int(calls[p[0]]) for p in places], "last": [int(calls[p[-1]]) for p in places]}
    return made.assign_coords({name: ("t", values) for name, values in bounds.items()})

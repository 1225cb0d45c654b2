"""One block of runs: what statistics and maps are of it; here, or on a worker of a cluster."""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import dask
import xarray as xr

from attlas.analysis.aggregation.together import together
from attlas.analysis.statistics.grouping import grouped
from attlas.analysis.statistics.partials import Moments
from attlas.analysis.surveys.labels import Labels
from attlas.analysis.surveys.memory import kept_at_hand
from attlas.analysis.surveys.records import canonical
from attlas.analysis.surveys.specs import Spec
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError

__all__ = ["Block", "Elsewhere", "Found", "compute", "compute_elsewhere", "packed"]


@dataclass(frozen=True)
class Block:
    """Some runs of one source: their places among its runs, and which of them each statistic must be computed of."""

    source: int
    places: tuple[int, ...]
    fingerprints: tuple[str, ...]
    asked: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Found:
    """Numbers of the runs asked of each statistic, in memory, and the moments of each map over the block."""

    values: Mapping[str, xr.DataArray]
    moments: Mapping[str, Moments]


@dataclass(frozen=True)
class Elsewhere:
    """What a worker is told of a store, and by `packed` of what is asked of it.

    ``trace`` is a pickled trace: paths and rows. ``created`` tells the store from another that later stands at its
    path, ``survey`` one survey from another.
    """

    survey: str
    trace: bytes
    created: str
    asked: bytes


def compute(trace: Trace, block: Block, scores: Sequence[Spec], maps: Sequence[Spec], labels: Labels) -> Found:
    """Compute a block; all lazy results at once, so that what they read alike is read once."""
    made: dict[str, xr.DataArray] = {}
    traces: dict[tuple[int, ...], Trace] = {}
    for spec in (*scores, *maps):
        places = block.places if spec.is_map else block.asked.get(spec.label, ())
        if places:
            one = traces.setdefault(places, trace.isel(places))
            made[spec.label] = canonical(spec.function(one, **spec.options), spec, one)
    computed = dict(zip(made, dask.compute(*together(made).values()), strict=True))
    moments = {}
    for spec in maps:
        values = computed.pop(spec.label)
        moments[spec.label] = Moments.of(grouped(values, labels.of(block.source, block.places, values, spec.label)))
    return Found(computed, moments)


def packed(scores: Sequence[Spec], maps: Sequence[Spec], labels: Labels) -> bytes:
    """Pack what workers need to know; functions of a notebook or of a plugin's file go whole."""
    import cloudpickle

    made: bytes = cloudpickle.dumps((tuple(scores), tuple(maps), labels))
    return made


def compute_elsewhere(there: Elsewhere, block: Block) -> Found:
    """`compute` in a worker, which opens the store by itself and reads with one thread."""
    with dask.config.set(scheduler="synchronous"), kept_at_hand():
        return compute(_opened(there), block, *_unpacked(there.asked))


@lru_cache(maxsize=4)
def _opened(there: Elsewhere) -> Trace:
    """Open a store once a worker and survey: a later survey sees what was recorded since."""
    trace: Trace = pickle.loads(there.trace)  # noqa: S301 - the survey's own
    if str(trace.store.created) != there.created:
        raise InvalidValueError(f"{trace.where} is another store on a worker than here; workers need the same files")
    return trace


@lru_cache(maxsize=4)
def _unpacked(asked: bytes) -> tuple[Sequence[Spec], Sequence[Spec], Labels]:
    import cloudpickle

    made: tuple[Sequence[Spec], Sequence[Spec], Labels] = cloudpickle.loads(asked)
    return made

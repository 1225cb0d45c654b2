"""The work of a survey: blocks of runs, a few in flight, each read from the store or computed."""

import pickle
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any
from uuid import uuid4

import xarray as xr

from attlas.analysis.statistics.grouping import grouped, plain
from attlas.analysis.statistics.partials import Comoments, Histogram, Moments
from attlas.analysis.statistics.sketch import Sketch
from attlas.analysis.surveys.blocks import Block, Elsewhere, Found, compute, compute_elsewhere, packed
from attlas.analysis.surveys.cache import Cache
from attlas.analysis.surveys.labels import Labels
from attlas.analysis.surveys.partial import Pair, Part, Partial
from attlas.analysis.surveys.records import from_records, to_records
from attlas.analysis.surveys.sources import Source
from attlas.analysis.surveys.specs import Spec
from attlas.analysis.surveys.workers import threads_of
from attlas.schemas.errors import InvalidValueError
from attlas.schemas.fingerprints import Fingerprints
from attlas.schemas.statistics import Record

__all__ = ["Edges", "Job"]

SCORES = 256
"""Most numbers of a run that are kept run by run; of a statistic with more, only what adds up is."""

Edges = Sequence[float] | Mapping[str, Sequence[float]]
Known = dict[str, dict[int, Record]]


class Job:
    """All that stays the same from block to block."""

    def __init__(
        self,
        sources: Sequence[Source],
        labels: Labels,
        specs: Sequence[Spec],
        maps: Sequence[Spec],
        pairs: Sequence[Pair],
        quantiles: Sequence[float],
        histogram: Edges | None,
        *,
        cache: bool,
    ) -> None:
        self.sources, self.labels, self.specs, self.maps, self.pairs = sources, labels, specs, maps, pairs
        self.sketched, self.histogram = bool(quantiles), histogram
        self.caches = [Cache(source.trace, enabled=cache) for source in sources]
        self._fingerprints = [Fingerprints(source.trace.store) for source in sources]
        self._elsewhere: dict[int, Elsewhere] = {}
        self.settings = _settings(specs, maps, labels, pairs, quantiles, histogram)

    def run(self, size: int, seen: set[str], client: Any, *, progress: bool) -> Iterator[Partial]:
        """Give the partial results of all blocks, in order."""
        from tqdm import tqdm

        runs = sum(len(source.trace.rows) for source in self.sources)
        threads = threads_of(client)
        waiting: deque[tuple[Block, Known, Callable[[], Found]]] = deque()
        with tqdm(total=runs, desc="survey", unit="run", disable=not progress) as bar:
            for source, places in self._places(size, threads):
                block, known = self._prepare(source, places, seen)
                bar.update(len(places) - len(block.places))
                if block.places:
                    waiting.append((block, known, self._start(block, client)))
                # Two blocks a thread: one that it computes, and the next. They are added in order.
                while len(waiting) > 2 * threads:
                    yield self._end(*waiting[0], bar)
                    waiting.popleft()
            for entry in waiting:
                yield self._end(*entry, bar)

    def _places(self, size: int, threads: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Give the runs of each block.

        With several threads a block is no more than half of what is left for each, so that they end together.
        """
        rest = sum(len(source.trace.rows) for source in self.sources)
        for place, source in enumerate(self.sources):
            first, runs = 0, len(source.trace.rows)
            while first < runs:
                fair = size if threads < 2 else max(1, min(size, rest // (2 * threads)))
                last = min(first + fair, runs)
                yield place, tuple(range(first, last))
                rest -= last - first
                first = last

    def _prepare(self, source: int, places: tuple[int, ...], seen: set[str]) -> tuple[Block, Known]:
        """Leave out runs that were seen, and look up what is kept of the others, by statistic and place."""
        trace = self.sources[source].trace
        prints = self._fingerprints[source].of([trace.rows[place] for place in places])
        fresh = [(place, own) for place, own in zip(places, prints, strict=True) if own not in seen]
        places, prints = tuple(place for place, _ in fresh), [own for _, own in fresh]
        rows = [trace.rows[place] for place in places]
        known: Known = {}
        asked: dict[str, tuple[int, ...]] = {}
        for spec in self.specs:
            found = self.caches[source].read(spec, rows, prints)
            known[spec.label] = {place: found[row] for place, row in zip(places, rows, strict=True) if row in found}
            asked[spec.label] = tuple(place for place in places if place not in known[spec.label])
        return Block(source, places, tuple(prints), asked), known

    @cached_property
    def packed(self) -> bytes:
        """What is asked, packed once a survey."""
        return packed(self.specs, self.maps, self.labels)

    def _told(self, source: int) -> Elsewhere:
        """Give what a worker must know of a source.

        Raises
        ------
        InvalidValueError
            If the store is in memory.
        """
        if source not in self._elsewhere:
            trace = self.sources[source].trace
            if trace.path is None:
                raise InvalidValueError("a store in memory cannot be surveyed by other processes; leave client out")
            created = str(trace.store.created)
            self._elsewhere[source] = Elsewhere(uuid4().hex, pickle.dumps(trace), created, self.packed)
        return self._elsewhere[source]

    def _start(self, block: Block, client: Any) -> Callable[[], Found]:
        trace = self.sources[block.source].trace
        if not self.maps and not any(block.asked.values()):
            return lambda: Found({}, {})
        if client is None:
            return lambda: compute(trace, block, self.specs, self.maps, self.labels)
        future = client.submit(compute_elsewhere, self._told(block.source), block, pure=False)
        return lambda: future.result()

    def _end(self, block: Block, known: Known, wait: Callable[[], Found], bar: Any) -> Partial:
        found = wait()
        trace = self.sources[block.source].trace
        prints = dict(zip(block.places, block.fingerprints, strict=True))
        values = {}
        for spec in self.specs:
            asked = block.asked[spec.label]
            if asked:
                made = to_records(found.values[spec.label], [prints[place] for place in asked])
                fresh = dict(zip(asked, made, strict=True))
                self.caches[block.source].write(spec, {trace.rows[place]: own for place, own in fresh.items()})
                known[spec.label] |= fresh
            runs = [trace.run_ids[place] for place in block.places]
            values[spec.label] = from_records([known[spec.label][place] for place in block.places], runs, spec.label)
        bar.update(len(block.places))
        return self._partial(block, values, found.moments)

    def _partial(self, block: Block, values: Mapping[str, xr.DataArray], moments: Mapping[str, Moments]) -> Partial:
        parts: dict[str, Part] = {name: Part(own) for name, own in moments.items()}
        for name, own in values.items():
            samples = grouped(own, self.labels.of(block.source, block.places, own, name))
            edges = self.histogram.get(name) if isinstance(self.histogram, Mapping) else self.histogram
            parts[name] = Part(
                Moments.of(samples),
                Sketch.of(samples) if self.sketched else Sketch(),
                Histogram() if edges is None else Histogram.of(samples, edges),
                (own,) if own[0].size <= SCORES else (),
            )
        pairs = {}
        for one, other in self.pairs:
            sides = [values[one], values[other]]
            if set(sides[0].dims) != set(sides[1].dims):
                raise InvalidValueError(
                    f"{one!r} has dims {sides[0].dims} and {other!r} {sides[1].dims}; numbers "
                    "with the same dims correlate"
                )
            aligned = xr.align(*sides, join="outer", copy=False)
            both = [
                grouped(own.transpose(*aligned[0].dims), self.labels.of(block.source, block.places, own, one))
                for own in aligned
            ]
            pairs[one, other] = Comoments.of(*both)
        return Partial(self.settings, self._rows(block), parts, pairs)

    def _rows(self, block: Block) -> tuple[dict[str, Any], ...]:
        """Give what the table of runs says of each."""
        source = self.sources[block.source]
        columns = {
            name: values.values for name, values in self.labels.columns[block.source].items() if values.dims == ("run",)
        }
        table = source.trace.runs
        return tuple(
            {
                "run": source.trace.run_ids[place],
                "store": source.name,
                "model": source.model,
                "row": source.trace.rows[place],
                "fingerprint": own,
                "prompt": str(table["prompt"].values[place]),
                "seed": int(table["seed"].values[place]),
                **{name: plain(values[place]) for name, values in columns.items()},
            }
            for place, own in zip(block.places, block.fingerprints, strict=True)
        )


def _settings(
    specs: Sequence[Spec],
    maps: Sequence[Spec],
    labels: Labels,
    pairs: Sequence[Pair],
    quantiles: Sequence[float],
    histogram: Edges | None,
) -> dict[str, Any]:
    """Say what is asked, as plain values: surveys that add up are asked alike."""
    edges: Any = histogram
    if isinstance(histogram, Mapping):
        edges = {name: [float(edge) for edge in own] for name, own in histogram.items()}
    elif histogram is not None:
        edges = [float(edge) for edge in histogram]
    return {
        "statistics": {spec.label: spec.provenance for spec in specs},
        "maps": {spec.label: spec.provenance for spec in maps},
        "by": list(labels.names),
        "correlate": [list(pair) for pair in pairs],
        "quantiles": [float(q) for q in quantiles],
        "histogram": edges,
    }

"""Digests of what each run is, by which numbers that were computed of it are told from those of another."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from attlas.schemas.errors import CorruptDataError
from attlas.schemas.growth import chunk_names
from attlas.schemas.root import ANNOTATIONS
from attlas.schemas.runs import holds_of
from attlas.schemas.store import Store

__all__ = ["Fingerprints"]

THREADS = 16
"""Runs that are read at once: a server answers many in the time of one."""


class Fingerprints:
    """Digests of runs: of a run's label, seed and request, its picture, its annotations and part of its attention.

    A digest is made of what the run alone has stored, byte for byte. So it is the same in a copy of the store, whatever
    other runs are added, and another once the run is recorded anew with another outcome. Columns of the run table are
    read once, and some small files of each run.
    """

    def __init__(self, store: Store) -> None:
        self._snapshot = store.snapshot
        self._complete = store.complete
        self._labels = [store.column(name) for name in ("run", "seed", "prompt", "request")]
        self._holds = store.column("holds")
        least = min(store.leaves, key=lambda name: store.leaves[name].keys)
        self._attention = f"{least}/g2r"

    def of(self, rows: Sequence[int]) -> list[str]:
        """Give the digests of the runs at these rows.

        Raises
        ------
        CorruptDataError
            If a complete run lacks a file.
        """
        if len(rows) < 2:
            return [self._digest(row) for row in rows]
        with ThreadPoolExecutor(min(THREADS, len(rows))) as pool:
            return list(pool.map(self._digest, rows))

    def _digest(self, row: int) -> str:
        made = hashlib.blake2b(digest_size=12)
        for column in self._labels:
            made.update(f"{column[row]}\0".encode())
        held = holds_of(str(self._holds[row]), f"holds of row {row} in {self._snapshot.storage.url}")
        own = [name for name in sorted(held) if name == "generated_image" or name.startswith(f"{ANNOTATIONS}/")]
        for name in [*own, self._attention]:
            made.update(f"{name}\0".encode())
            for data in self._stored(name, row):
                made.update(hashlib.blake2b(data).digest())
        return made.hexdigest()

    def _stored(self, name: str, row: int) -> Iterator[bytes]:
        """Give what an array holds of a run: its files, the first one of attention; or its entry of a column."""
        node = self._snapshot.doc.nodes[name]
        if node["chunk_grid"]["configuration"]["chunk_shape"][0] > 1:
            entry = self._snapshot.read(name, row)
            yield str(entry).encode() if entry.dtype.kind in "OTU" else np.ascontiguousarray(entry).tobytes()
            return
        files = chunk_names(name, node, row)
        for file in files[:1] if name == self._attention else files:
            data = self._snapshot.storage.get(file)
            if data is None and self._complete[row]:
                raise CorruptDataError(
                    f"{file} of {self._snapshot.storage.url} is missing, and run {self._labels[0][row]!r} is complete; "
                    "`attlas validate --deep` lists all damage, `attlas repair` gives damaged runs back to be recorded "
                    "again"
                )
            yield b"" if data is None else data

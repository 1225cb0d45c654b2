"""What statistics found before, read from the store and kept there."""

from collections.abc import Mapping, Sequence

from attlas.analysis.surveys.specs import Spec
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError
from attlas.schemas.statistics import Record, read_block, write_records

__all__ = ["Cache"]


class Cache:
    """Records of one store's runs.

    Attributes
    ----------
    state
        ``kept``, or why nothing is kept any more: a survey goes on without.
    refused
        Why a statistic is not kept, by its label: its numbers have labels that a store cannot hold.
    """

    def __init__(self, trace: Trace, *, enabled: bool) -> None:
        self._store = trace.store
        self._enabled = enabled
        # A survey asks for a few runs after the other: those that were read with them are at hand.
        self._ahead: dict[str, tuple[range, dict[int, Record]]] = {}
        self.refused: dict[str, str] = {}
        self.state = "kept" if enabled else "not kept: switched off"
        if enabled and not trace.store.storage.writable:
            self.state = "not kept: the store is read-only"

    def read(self, spec: Spec, rows: Sequence[int], fingerprints: Sequence[str]) -> dict[int, Record]:
        """Give the records of the runs as they are now, by row."""
        if not self._enabled or spec.digest is None:
            return {}
        found = {}
        for row, fingerprint in zip(rows, fingerprints, strict=True):
            known, records = self._ahead.get(spec.node, (range(0), {}))
            if row not in known:
                known, records = read_block(self._store, spec.node, row)
                self._ahead[spec.node] = known, records
            if row in records and records[row].fingerprint == fingerprint:
                found[row] = records[row]
        return found

    def write(self, spec: Spec, records: Mapping[int, Record]) -> None:
        """Keep records; a store that cannot be written is left alone from then on."""
        if self.state != "kept" or spec.digest is None or spec.label in self.refused:
            return
        try:
            write_records(self._store, spec.node, spec.provenance, records)
        except InvalidValueError as err:
            self.refused[spec.label] = str(err)
        except OSError as err:
            self.state = f"not kept: the store cannot be written ({err})"

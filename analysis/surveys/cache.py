"""What statistics found before, read from the store and kept there."""

from collections.abc import Mapping, Sequence

from attlas.analysis.surveys.specs import Spec
from attlas.analysis.trace import Trace
from attlas.schemas.statistics import Record, read_records, write_records

__all__ = ["Cache"]


class Cache:
    """Records of one store's runs.

    Attributes
    ----------
    state
        ``kept``, or why nothing is kept any more: a survey goes on without.
    """

    def __init__(self, trace: Trace, *, enabled: bool) -> None:
        self._store = trace.store
        read_only = bool(getattr(trace.store.group.store, "read_only", False))
        self._enabled = enabled
        self.state = "kept" if enabled else "not kept: switched off"
        if enabled and read_only:
            self.state = "not kept: the store is read-only"

    def read(self, spec: Spec, rows: Sequence[int], fingerprints: Sequence[str]) -> dict[int, Record]:
        """Give the records of the runs as they are now, by row."""
        if not self._enabled or spec.digest is None:
            return {}
        found = read_records(self._store.group, spec.node, rows)
        wanted = dict(zip(rows, fingerprints, strict=True))
        return {row: record for row, record in found.items() if record.fingerprint == wanted[row]}

    def write(self, spec: Spec, records: Mapping[int, Record]) -> None:
        """Keep records; a store that cannot be written is left alone from then on."""
        if self.state != "kept" or spec.digest is None:
            return
        try:
            write_records(self._store, spec.node, spec.provenance, records)
        except OSError as err:
            self.state = f"not kept: the store cannot be written ({err})"

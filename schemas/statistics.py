"""Numbers that were computed of each run, kept in the store beside the data they come from.

``statistics/<name>-<digest>`` holds one statistic with one set of options, as one version of its code computed it. Its
array ``record`` has a text for each run, so that whatever dims a statistic has, no reader of the store meets
a dim of another length. A record names the run that it was computed of by a fingerprint: whoever reads one compares it.
"""

import asyncio
import base64
import binascii
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from attlas.schemas.codecs import codecs
from attlas.schemas.errors import CorruptDataError, InvalidValueError
from attlas.schemas.store import Store
from attlas.schemas.variables import STATISTIC_VARIABLES

__all__ = ["GROUP", "PROVENANCE", "Fingerprints", "Record", "read_records", "statistic_problems", "write_records"]

GROUP = "statistics"
"""Path of the group inside a store."""

PROVENANCE = ("statistic", "options", "digest", "version", "attlas", "units", "meaning", "source")
"""What the attributes of a statistic's group say of it."""

ROWS = 32
"""Runs in a chunk, which is written whole."""

_RECORD = STATISTIC_VARIABLES["record"]
_DECODE_ERRORS = (ValueError, RuntimeError, OSError, EOFError)


@dataclass(frozen=True)
class Record:
    """Numbers of one run: float64 with named, labelled dims (none where it is one number).

    ``labels`` are further coordinates, such as the part of speech of each word: name to dims and values.
    """

    fingerprint: str
    values: NDArray[np.float64]
    dims: tuple[str, ...] = ()
    coords: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    labels: Mapping[str, tuple[tuple[str, ...], Sequence[Any]]] = field(default_factory=dict)

    def to_text(self) -> str:
        """Return the record as JSON; the numbers bit for bit, in base64 of little-endian float64."""
        packed = base64.b64encode(np.ascontiguousarray(self.values, dtype="<f8").tobytes()).decode("ascii")
        plain = {
            "fingerprint": self.fingerprint,
            "dims": list(self.dims),
            "shape": list(self.values.shape),
            "coords": {name: list(values) for name, values in self.coords.items()},
            "labels": {name: [list(dims), list(values)] for name, (dims, values) in self.labels.items()},
            "values": packed,
        }
        return json.dumps(plain, sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> "Record":
        """Read a record; `InvalidValueError` says what is wrong with it.

        Examples
        --------
        >>> Record.from_text(Record("f", np.array([0.5, np.nan]), ("head",), {"head": [0, 1]}).to_text()).values
        array([0.5, nan])
        """
        try:
            plain = json.loads(text)
            shape = tuple(int(size) for size in plain["shape"])
            dims = tuple(str(dim) for dim in plain["dims"])
            flat = np.frombuffer(base64.b64decode(plain["values"], validate=True), dtype="<f8").astype(np.float64)
            values = flat.reshape(shape)
            coords = {str(name): tuple(labels) for name, labels in plain["coords"].items()}
            labels = {str(name): (tuple(own), tuple(given)) for name, (own, given) in plain["labels"].items()}
            made = cls(str(plain["fingerprint"]), values, dims, coords, labels)
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as err:
            raise InvalidValueError(f"not a record of a statistic: {err}") from err
        sizes = dict(zip(dims, shape, strict=False))
        fits = len(dims) == len(shape) and all(len(coords.get(dim, ())) == size for dim, size in sizes.items())
        if not fits or any(
            int(np.prod([sizes.get(dim, -1) for dim in own])) != len(given) for own, given in labels.values()
        ):
            raise InvalidValueError(f"not a record of a statistic: labels do not fit dims {dims} of shape {shape}")
        return made


def read_records(group: zarr.Group, name: str, rows: Sequence[int]) -> dict[int, Record]:
    """Read the records of the statistic `name` at these rows of the store, by row; a row without one is left out.

    Raises
    ------
    CorruptDataError
        If they are there and cannot be read.
    """
    array: Any = group.get(f"{GROUP}/{name}/record")
    if not isinstance(array, zarr.Array):
        return {}
    found: dict[int, Record] = {}
    for chunk in sorted({row // ROWS for row in rows}):
        first = chunk * ROWS
        try:
            texts = array[first : first + ROWS]
        except _DECODE_ERRORS as err:
            raise CorruptDataError(
                f"{GROUP}/{name} cannot be read: {err}; remove that folder, it is computed anew"
            ) from err
        wanted = [row for row in rows if first <= row < first + len(texts) and str(texts[row - first])]
        for row in wanted:
            try:
                found[row] = Record.from_text(str(texts[row - first]))
            except InvalidValueError as err:
                raise CorruptDataError(
                    f"{GROUP}/{name}, row {row}: {err}; remove that folder, it is computed anew"
                ) from err
    return found


def write_records(store: Store, name: str, provenance: Mapping[str, Any], records: Mapping[int, Record]) -> None:
    """Keep records by row, a chunk of runs at a time, each written whole; others in the chunk stay.

    The group is made where it is new, and consolidated metadata, where the store has it, then names it too.
    Of two writers of one chunk the later wins, so that records of the other may be missing; none is ever wrong.
    """
    if not records:
        return
    array: Any = store.group.get(f"{GROUP}/{name}/record")
    if array is None:
        with store.locked():
            array = _create(store.group, name, provenance)
    for chunk in sorted({row // ROWS for row in records}):
        first = chunk * ROWS
        texts = np.asarray(array[first : first + ROWS], dtype=object)
        for row, record in records.items():
            if first <= row < first + len(texts):
                texts[row - first] = record.to_text()
        array[first : first + len(texts)] = texts


def _create(group: zarr.Group, name: str, provenance: Mapping[str, Any]) -> Any:
    """Make the group of one statistic; the caller holds the lock of the run table."""
    root = zarr.open_group(group.store, mode="r+", use_consolidated=False)
    if f"{GROUP}/{name}/record" in root:
        return root[f"{GROUP}/{name}/record"]
    made = root.require_group(f"{GROUP}/{name}").create_array(
        _RECORD.name,
        shape=root["run"].shape,
        dtype=_RECORD.dtype,
        chunks=(ROWS,),
        fill_value=_RECORD.fill,
        dimension_names=_RECORD.dims,
        attributes={"description": _RECORD.meaning},
        **codecs(_RECORD),
    )
    root[f"{GROUP}/{name}"].attrs.put({"attlas": dict(provenance)})
    if zarr.open_group(group.store, mode="r").metadata.consolidated_metadata is not None:
        with warnings.catch_warnings():
            # zarr says that consolidated metadata is not in the v3 specification; readers without it still work.
            warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
            zarr.consolidate_metadata(group.store)
    return made


def statistic_problems(group: zarr.Group, *, deep: bool) -> Iterator[str]:
    """Problems of what is kept of statistics, one line each; `deep` also reads every record."""
    if GROUP not in group:
        return
    node: Any = group[GROUP]
    for name, member in sorted(node.members()):
        where = f"{GROUP}/{name}"
        if not isinstance(member, zarr.Group):
            yield f"{where}: an array stands where the group of a statistic is needed"
            continue
        told = member.attrs.get("attlas")
        lacking = [key for key in PROVENANCE if not isinstance(told, Mapping) or key not in told]
        if lacking:
            yield f"{where}: attribute 'attlas' lacks {', '.join(lacking)}"
        if deep and isinstance(member.get(_RECORD.name), zarr.Array):
            try:
                rows = range(int(member[_RECORD.name].shape[0]))
                read_records(group, name, rows)
            except CorruptDataError as err:
                yield str(err)


class Fingerprints:
    """Digests of what each run is: its label, seed, request, picture, annotations and part of its attention.

    A digest is made of stored bytes, so that it is the same for a copy of the store, and another once the run is
    recorded anew with another outcome. Columns of the run table are read once, and some small files of each run.
    """

    def __init__(self, store: Store) -> None:
        group = store.group
        self._arrays = [group["generated_image"]]
        if "annotations" in group:
            self._arrays += [array for _, array in sorted(group["annotations"].arrays())]
        if store.leaves:
            least = min(store.leaves, key=lambda name: store.leaves[name].keys)
            self._arrays.append(group[f"{least}/g2r"])
        self._labels = [group[name][...] for name in ("run", "seed", "prompt", "request")]

    def of(self, rows: Sequence[int]) -> list[str]:
        """Give the digests of the runs at these rows."""
        return list(sync(self._read_all(rows)))

    async def _read_all(self, rows: Sequence[int]) -> list[str]:
        return list(await asyncio.gather(*(self._read(row) for row in rows)))

    async def _read(self, row: int) -> str:
        made = hashlib.blake2b(digest_size=12)
        for column in self._labels:
            made.update(f"{column[row]}\0".encode())
        for array in self._arrays:
            rest = (0,) * (len(array.shape) - 1)
            found = await (array.store_path / array.metadata.encode_chunk_key((row, *rest))).get()
            made.update(b"-" if found is None else found.to_bytes())
        return made.hexdigest()

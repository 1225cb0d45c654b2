"""A partial survey as a file: arrays in numpy's own format, all else as JSON; nothing in it is executed."""

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.output.whole_file import whole_file
from attlas.analysis.statistics.grouping import plain
from attlas.analysis.statistics.partials import Comoments, Histogram, Moments
from attlas.analysis.statistics.sketch import Sketch
from attlas.analysis.surveys.partial import Part, Partial
from attlas.schemas.errors import InvalidValueError

__all__ = ["load", "save"]

FORMAT = "attlas partial survey 2"


def save(partial: Partial, path: str | Path) -> None:
    """Write `partial` whole."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    told = {
        "format": FORMAT,
        "settings": partial.settings,
        "rows": [dict(row) for row in partial.rows],
        "left_out": dict(partial.left_out),
        "parts": {name: _pack_part(part, arrays) for name, part in partial.parts.items()},
        "pairs": [[*pair, _pack(made.data, arrays)] for pair, made in partial.pairs.items()],
    }
    with whole_file(path) as part, part.open("wb") as file:
        held: dict[str, Any] = {"header": np.asarray(json.dumps(told)), **arrays}
        np.savez_compressed(file, **held)


def load(path: str | Path) -> Partial:
    """Read what `save` wrote."""
    try:
        with np.load(path, allow_pickle=False) as file:
            told = json.loads(str(file["header"]))
            if told["format"] != FORMAT:
                raise InvalidValueError(f"{path} is {told['format']!r}; this attlas reads {FORMAT!r}")
            return Partial(
                told["settings"],
                tuple(told["rows"]),
                {name: _unpack_part(part, file) for name, part in told["parts"].items()},
                {(one, other): Comoments(_unpack(data, file)) for one, other, data in told["pairs"]},
                told["left_out"],
            )
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as err:
        if isinstance(err, InvalidValueError):
            raise
        raise InvalidValueError(f"{path} is no saved survey: {err}") from err


def _pack_part(part: Part, arrays: dict[str, Any]) -> dict[str, Any]:
    cells = [[list(cell), [[*key, count] for key, count in sorted(counts.items())]]
             for cell, counts in part.sketch.cells.items()]  # fmt: skip
    return {
        "moments": _pack(part.moments.data, arrays),
        "sketch": {"dims": list(part.sketch.dims), "cells": cells},
        "histogram": {"edges": list(part.histogram.edges), "data": _pack(part.histogram.data, arrays)},
        "scores": [_pack(one.rename("scores").to_dataset(), arrays) for one in part.scores],
    }


def _unpack_part(told: Any, file: Any) -> Part:
    cells = {
        tuple(cell): Counter({(sign, place): count for sign, place, count in counts})
        for cell, counts in told["sketch"]["cells"]
    }
    scores = [_unpack(one, file) for one in told["scores"]]
    return Part(
        Moments(_unpack(told["moments"], file)),
        Sketch(tuple(told["sketch"]["dims"]), cells),
        Histogram(_unpack(told["histogram"]["data"], file), tuple(told["histogram"]["edges"])),
        tuple(one["scores"] for one in scores if one is not None),
    )


def _pack(data: xr.Dataset | None, arrays: dict[str, Any]) -> dict[str, Any] | None:
    """Labels as plain values, numbers by the name under which they are in `arrays`."""
    if data is None:
        return None
    held = {}
    for name, values in data.data_vars.items():
        key = f"a{len(arrays)}"
        arrays[key] = np.asarray(values.values)
        held[str(name)] = [list(values.dims), key]
    coords = {
        str(name): [list(coord.dims), list(coord.shape), [plain(label) for label in coord.values.ravel()]]
        for name, coord in data.coords.items()
    }
    return {"arrays": held, "coords": coords}


def _unpack(told: Any, file: Any) -> xr.Dataset | None:
    if told is None:
        return None
    coords = {name: (dims, _labels(labels).reshape(shape)) for name, (dims, shape, labels) in told["coords"].items()}
    return xr.Dataset({name: (dims, file[key]) for name, (dims, key) in told["arrays"].items()}, coords)


def _labels(labels: list[Any]) -> np.ndarray[Any, Any]:
    mixed = any(isinstance(label, str) or label is None for label in labels)
    return np.asarray(labels, dtype=object) if mixed else np.asarray(labels)

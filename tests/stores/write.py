"""Writes the store that stands for the present schema among those that every later attlas reads.

Run once for each schema, by the attlas that has it: ``python tests/stores/write.py``. It keeps the store as an
archive, and beside it what stock zarr reads from it, as sums and texts.
"""

import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import zarr

from attlas.schemas import SCHEMA_VERSION, simulate_store

HERE = Path(__file__).parent


def write() -> None:
    """Make the archive and its summary."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.zarr"
        simulate_store(path, kinds=("text", "image", "self", "joint"), references=1, runs=2, calls=2, values=True)
        name = f"schema-{SCHEMA_VERSION}"
        with zipfile.ZipFile(HERE / f"{name}.zarr.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(path.rglob("*")):
                if file.is_file():
                    # Without the time of writing, so that the same store is the same archive.
                    archive.writestr(zipfile.ZipInfo(str(file.relative_to(path))), file.read_bytes())
        told = {name: summary(array) for name, array in sorted(arrays(path).items())}
        (HERE / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def arrays(path):
    """Every array of a store, by stock zarr."""
    members = zarr.open_group(path, mode="r").members(max_depth=None)
    return {name: array for name, array in members if isinstance(array, zarr.Array)}


def summary(array):
    """Dims, shape, and all texts or a sum that tells every number's place."""
    values = np.asarray(array[...])
    told = {"dims": list(array.metadata.dimension_names), "shape": list(values.shape)}
    if values.dtype.kind in "OTU":
        return {**told, "texts": [str(text) for text in values.ravel()]}
    flat = values.astype(np.float64).ravel()
    finite = np.isfinite(flat)
    return {**told, "finite": int(finite.sum()), "sum": float(flat[finite] @ np.cos(np.flatnonzero(finite)))}


if __name__ == "__main__":
    write()

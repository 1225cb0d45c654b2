"""Every chunk carries a checksum, and stock codecs are all that is used."""

import json

import numpy as np
import pytest

from attlas.schemas import LEAF_VARIABLES, simulate_store
from attlas.schemas.codecs import codecs
from attlas.schemas.errors import CorruptDataError

VARIABLES = ["log_attention", "query_vectors", "key_vectors", "logsumexp", "g2r", "r2g", "attention_mean"]
VARIABLES += ["attention_mean_r2g", "value_vectors", "output_projection"]


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_flipped_bit_never_yields_a_number(tmp_path, variable):
    encoding = {"text": "factors" if variable.endswith("vectors") else "dense"}
    store = simulate_store(tmp_path / "s.zarr", kinds=("text",), runs=1, encoding=encoding, values=True)
    (shard, *_) = sorted((tmp_path / "s.zarr/text/4x4" / variable).glob("c.*"))
    clean = shard.read_bytes()
    for position in np.linspace(0, len(clean) - 1, 25).astype(int):
        dirty = bytearray(clean)
        dirty[position] ^= 1 << int(position % 8)
        shard.write_bytes(bytes(dirty))
        with pytest.raises((ValueError, RuntimeError, CorruptDataError)):
            store.group[f"text/4x4/{variable}"][...]
    shard.write_bytes(clean[: len(clean) // 2])
    with pytest.raises((ValueError, RuntimeError)):
        store.group[f"text/4x4/{variable}"][...]


def test_only_codecs_of_the_zarr_specification(tmp_path):
    simulate_store(tmp_path / "s.zarr", runs=1)
    allowed = {"sharding_indexed", "transpose", "bytes", "vlen-utf8", "blosc", "crc32c"}
    for path in (tmp_path / "s.zarr").rglob("zarr.json"):
        stack = list(json.loads(path.read_text()).get("codecs", ()))
        while stack:
            codec = stack.pop()
            assert codec["name"] in allowed, f"{path}: {codec['name']}"
            stack += codec.get("configuration", {}).get("codecs", [])


@pytest.mark.parametrize(
    ("variable", "compressed"),
    [
        ("log_attention", "run branch layer head key query t"),
        ("query_vectors", "run branch layer head channel query t"),
        ("key_vectors", "run branch layer head channel key t"),
        ("g2r", "run branch layer head key t"),
        ("attention_mean", "run branch layer head key query"),
        ("attention_mean_r2g", "run branch layer head key query"),
        ("value_vectors", "run branch layer head value_channel key t"),
        ("computed", "run branch layer t"),
    ],
)
def test_order_in_which_axes_are_compressed(variable, compressed):
    dims = LEAF_VARIABLES[variable].dims
    filters = codecs(LEAF_VARIABLES[variable])["filters"]
    order = filters[0].order if filters else range(len(dims))
    assert " ".join(dims[axis] for axis in order) == compressed


def test_an_array_is_one_folder(tmp_path):
    store = simulate_store(tmp_path / "s.zarr", kinds=("text",), runs=2)
    for name in ("text/4x4/g2r", "text/4x4/token", "generated_image"):
        files = {path.name for path in (tmp_path / "s.zarr" / name).iterdir()}
        dims = len(store.group[name].shape)
        assert {"c" + ".0" * dims, "zarr.json"} <= files
        assert all(name.startswith("c.") for name in files - {"zarr.json"})

"""Metadata that lie: refused in words of ours, before anything of their size is read or made."""

import json
import os
import tracemalloc

import pytest

from attlas.schemas import open_store, simulate_store, validate_store
from attlas.schemas.errors import AttlasError, StorageError, StoreExistsError, StoreInvalidError
from attlas.schemas.root import RootDocument, is_store


@pytest.fixture
def path(tmp_path):
    simulate_store(tmp_path / "s.zarr", kinds=("text", "image"), runs=1)
    return tmp_path / "s.zarr"


def tell(path, change):
    """Change nodes of the root document, with a checksum that fits."""
    doc = RootDocument.from_bytes((path / "zarr.json").read_bytes(), "x")
    nodes = json.loads(json.dumps(doc.nodes))
    change(nodes)
    (path / "zarr.json").write_bytes(RootDocument(doc.attributes, nodes).to_bytes())


def put(*places, value):
    """Return what sets an entry of a node, given by its path and keys."""

    def change(nodes):
        entry = nodes
        for key in places[:-1]:
            entry = entry[key]
        entry[places[-1]] = value

    return change


LIES = {
    "rows": (put("run", "shape", value=[10**12]), "run: run has length 1000000000000, more than any store has"),
    "one column": (put("complete", "shape", value=[5]), "run has length 5; 1 is needed"),
    "keys": (put("image/4x4/key_y", "shape", value=[10**9]), "key has length 1000000000, more than any store has"),
    "queries": (put("text/4x4/query", "shape", value=[10**7]), r"has shape \(10000000,\); \(16,\) is needed"),
    "layers": (put("text/4x4/layer", "shape", value=[10**9]), "layer has length 1000000000"),
    "picture": (put("generated_image", "shape", value=[1, 10**6, 10**6, 3]), "image_y has length 1000000"),
    "chunk": (
        put("text/4x4/g2r", "chunk_grid", "configuration", "chunk_shape", value=[1, 2, 3, 2, 2, 10**9]),
        "a chunk of .* is larger than 1073741824 bytes",
    ),
    "chunk 0": (put("seed", "chunk_grid", "configuration", "chunk_shape", value=[0]), "chunk grid .* does not fit"),
    "shape": (put("seed", "shape", value="big"), "shape 'big' and dims"),
    "negative": (put("seed", "shape", value=[-1]), "do not fit"),
    "true": (put("seed", "shape", value=[True]), "do not fit"),
    "dtype": (put("seed", "data_type", value="object"), "dtype is 'object'"),
    "another dtype": (put("seed", "data_type", value="float32"), "dtype is float32; int64 is needed"),
    "dims": (put("seed", "dimension_names", value=["walk"]), r"dims are \('walk',\)"),
    "dims twice": (put("step", "dimension_names", value=["run", "run"]), "are no different names"),
    "codec": (put("seed", "codecs", value=[{"name": "pickle"}]), "codec 'pickle' is not read"),
    "keys elsewhere": (put("seed", "chunk_key_encoding", value={"name": "v2"}), "chunk keys are"),
    "transformers": (put("seed", "storage_transformers", value=[{"name": "x"}]), "storage transformers"),
    "heads": (put("text/4x4", "attributes", "attlas", "heads", value=10**12), "heads is '1000000000000'"),
    "heads 3": (put("text/4x4", "attributes", "attlas", "heads", value=3), r"head: has shape \(2,\); \(3,\) is needed"),
    "grid": (
        put("text/4x4", "attributes", "attlas", "query_grid", value=[10**6, 10**6]),
        r"query: has shape \(16,\); \(10",
    ),
    "grid 1": (put("text/4x4", "attributes", "attlas", "query_grid", value=[16]), "needed, or frames, rows"),
    "partial": (put("text/4x4", "attributes", "attlas", "partial", value="yes"), "partial is 'yes'; bool is needed"),
    "kind": (put("text/4x4", "attributes", "attlas", "kind", value="self"), "kind is 'self'"),
    "encoding": (put("text/4x4", "attributes", "attlas", "encoding", value="factors"), "the schema has no such array"),
    "more": (put("text/4x4", "attributes", "attlas", "code", value="x"), "unknown key 'code'"),
    "no geometry": (put("text/4x4", "attributes", value={}), "the geometry of a leaf is needed"),
    "node": (put("seed", value=None), "seed: no metadata document"),
    "kind of node": (put("seed", "node_type", value="link"), "node_type is 'link'"),
    "gone": (lambda nodes: nodes.pop("complete"), "complete: missing"),
    "no leaf": (lambda nodes: [nodes.pop(p) for p in list(nodes) if p.split("/")[0] in ("text", "image")], "no leaf"),
    "path": (lambda nodes: nodes.update({"../../etc/x": nodes["seed"]}), "no name of an array or group"),
    "unknown": (lambda nodes: nodes.update({"text/4x4/extra": nodes["seed"]}), "the schema has no such array here"),
    "annotation": (
        lambda nodes: nodes.update({"annotations/../x": nodes["annotations/disc"]}),
        "no name of an array or group",
    ),
    "a group": (lambda nodes: nodes.update({"text/4x4/g2r": nodes["text"]}), "text/4x4/g2r: missing"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_named(path, lie):
    change, words = LIES[lie]
    tell(path, change)
    tracemalloc.start()
    with pytest.raises(StoreInvalidError, match=words):
        open_store(path)
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()
    assert validate_store(path)
    assert is_store(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b'{"attributes": 3}',
        b'{"attributes": {"attlas": 3}}',
        b'{"attributes": {"attlas": {"schema": "2"}}}',
        b'{"attributes": {"attlas": {"schema": true}}}',
        b'{"attributes": {"attlas": {"schema": 2}}, "node_type": "group", "zarr_format": 3}',
        b'{"a":' * 100_000,
    ],
)
def test_what_is_no_root_document_is_said(path, data):
    (path / "zarr.json").write_bytes(data)
    with pytest.raises(AttlasError, match=r"zarr\.json|attlas"):
        open_store(path)
    if b"attlas" not in data:
        assert validate_store(path)


def test_every_flipped_bit_of_the_root_document_is_found(path):
    clean = (path / "zarr.json").read_bytes()
    for place in range(0, len(clean), len(clean) // 150):
        dirty = bytearray(clean)
        dirty[place] ^= 1 << (place % 8)
        (path / "zarr.json").write_bytes(dirty)
        try:
            store = open_store(path)
        except AttlasError:
            continue
        # Nothing that attlas goes by was hit.
        assert store.snapshot.doc == RootDocument.from_bytes(clean, "x")


def test_a_root_document_of_any_size_is_not_read(path):
    os.truncate(path / "zarr.json", 2**40)
    with pytest.raises(StoreInvalidError, match="it has 1099511627776 bytes"):
        open_store(path)


def test_nothing_waits_for_a_fifo(path):
    (path / "text/4x4/layer/c.0").unlink()
    os.mkfifo(path / "text/4x4/layer/c.0")
    with pytest.raises((StorageError, StoreInvalidError), match="is no regular file"):
        open_store(path)
    (path / "zarr.json").unlink()
    os.mkfifo(path / "zarr.json")
    with pytest.raises((StorageError, StoreExistsError)):
        open_store(path)
    assert not is_store(path)


def test_attributes_of_the_users_own_are_no_damage(path):
    plain = json.loads((path / "zarr.json").read_text())
    plain["attributes"]["note"] = "mine"
    (path / "zarr.json").write_text(json.dumps(plain))
    assert open_store(path).run_ids == ["0000"]
    assert validate_store(path, deep=True) == []

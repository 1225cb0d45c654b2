"""What is missing or damaged is an error that names it, whatever its dtype; what a run never had is not even read."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from attlas.analysis import open_trace
from attlas.analysis.stored_order import StoredOrder
from attlas.schemas import open_store, simulate_store
from attlas.schemas.errors import AttlasError, CorruptDataError

FAULTS = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "flipped": lambda file: file.write_bytes(flipped(file.read_bytes())),
    "of another array": lambda file: file.write_bytes(b"\x28\xb5\x2f\xfd no frame of these numbers"),
}


def flipped(data):
    changed = bytearray(data)
    changed[len(changed) // 2] ^= 16
    return bytes(changed)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("strict") / "a.zarr"
    return simulate_store(path, runs=2, kinds=("text", "image"), values=True), path


@pytest.fixture
def copy(recorded, tmp_path):
    return Path(shutil.copytree(recorded[1], tmp_path / "a.zarr"))


def arrays(store, *, runs, column):
    """Names of the arrays with or without a run axis, in blocks of rows or not."""
    found = []
    for name, node in store.snapshot.doc.nodes.items():
        if node["node_type"] == "array" and (node["dimension_names"][:1] == ["run"]) == runs:
            block = node["chunk_grid"]["configuration"]["chunk_shape"][0] if node["shape"] else 1
            if not runs or (block > 1) == column:
                found.append(name)
    return found


def read(trace, name):
    """Read all of an array by the trace's own ways; labels first, since opening reads them."""
    leaf, _, own = name.rpartition("/")
    if leaf == "annotations":
        return trace.annotations[own].compute()
    if leaf:
        return trace.dataset(leaf).variables[own].compute()
    if name in trace.runs.variables:
        return trace.runs[name]
    return {"generated_image": "images", "reference_image": "reference"}[name] and getattr(
        trace, {"generated_image": "images", "reference_image": "reference"}[name]
    ).compute()


def read_opened(path, name):
    """Open, which reads labels, and then read."""
    trace = open_trace(path)
    if name == "holds":
        trace.images.compute()
    read(trace, name)


@pytest.mark.parametrize("fault", FAULTS)
def test_data_of_a_run_of_every_array(recorded, copy, fault):
    names = arrays(recorded[0], runs=True, column=False)
    assert {np.dtype(recorded[0].group[name].dtype).kind for name in names} >= set("fui")
    for name in names:
        for file in sorted((copy / name).glob("c.1*"))[:1]:
            whole = file.read_bytes()
            FAULTS[fault](file)
            with pytest.raises(CorruptDataError, match=rf"^{name} of run '0001' in .*a\.zarr cannot be read: "):
                read(open_trace(copy), name)
            read(open_trace(copy).sel("0000"), name)
            file.write_bytes(whole)


@pytest.mark.parametrize("fault", FAULTS)
def test_columns_and_labels(recorded, copy, fault):
    names = arrays(recorded[0], runs=True, column=True) + arrays(recorded[0], runs=False, column=False)
    for name in names:
        for file in sorted((copy / name).glob("c*"))[:1]:
            whole = file.read_bytes()
            FAULTS[fault](file)
            with pytest.raises(AttlasError, match=rf"(?m)(^|\W){name} "):
                read_opened(copy, name)
            file.write_bytes(whole)


@pytest.fixture
def reads(monkeypatch):
    """Names of the arrays of which something is read."""
    found = []
    own = StoredOrder.__getitem__
    monkeypatch.setattr(StoredOrder, "__getitem__", lambda self, key: (found.append(self.path), own(self, key))[1])
    return found


def test_what_a_run_never_had_is_fill_and_not_read(tools, reads):
    leaf = tools.leaf_of("text", (2, 2))
    store, _ = tools.make_store((leaf,), runs=3, annotations=lambda row: NOTED if row == 1 else {})
    trace = open_trace(store)
    noted = trace.annotations.sel(run=["run0", "run2"]).compute()
    assert reads == []
    assert (noted["mask"] == -1).all()
    assert np.isnan(noted["quality"]).all()
    assert noted["kind"].values.tolist() == ["", ""]
    assert open_trace(store).annotations.compute().sel(run="run1")["kind"].item() == "cat"
    assert set(reads) == {"annotations/mask", "annotations/quality", "annotations/kind"}


NOTED = {"mask": np.eye(16, dtype=bool), "quality": 0.5, "kind": "cat"}


def test_a_run_without_a_reference_has_a_black_one(tools, reads):
    leaf = tools.leaf_of("text", (2, 2))
    store, _ = tools.make_store((leaf,), runs=1)
    row = store.claim("bare", prompt="a cat")
    store.write_image(row, np.full((16, 16, 3), 7, np.uint8))
    for name, own in store.leaves.items():
        tools.write_leaf(store, name, row, *blank(store, own))
    store.complete_run(row)
    trace = open_trace(store)
    assert trace.reference.dtype == np.uint8
    assert not trace.reference.sel(run="bare").compute().any()
    assert reads == []
    assert (trace.images.sel(run="bare").compute() == 7).all()
    assert trace.reference.sel(run="run0").compute().any()


def blank(store, leaf):
    shape = (len(store.branches), store.calls, len(leaf.layers), leaf.heads)
    return np.zeros((*shape, leaf.queries, leaf.channels)), np.zeros((*shape, leaf.keys, leaf.channels))


def test_a_run_under_way_shows_what_it_has(tools):
    leaf = tools.leaf_of("text", (2, 2), encoding="dense")
    store, _ = tools.make_store((leaf,), runs=1)
    row = store.claim("late", prompt="a cat", request='{"seed": 3}')
    store.write_image(row, np.full((16, 16, 3), 7, np.uint8))
    trace = open_trace(store, incomplete=True)
    assert trace.run_ids == ("run0", "late")
    assert trace.runs["request"].sel(run="late").item() == '{"seed": 3}'
    assert trace.incomplete == 1
    assert (trace.images.sel(run="late").compute() == 7).all()
    assert not trace.reference.sel(run="late").compute().any()
    assert np.isnan(trace.dataset("text/2x2")["g2r"].sel(run="late").compute()).all()
    assert open_trace(store).run_ids == ("run0",)
    store.release(row)


def test_a_run_of_a_dead_recorder_shows_too(tools, tmp_path):
    leaf = tools.leaf_of("text", (2, 2), encoding="dense")
    tools.make_store((leaf,), path=tmp_path / "a.zarr", runs=2, complete=(0,))
    trace = open_trace(tmp_path / "a.zarr", incomplete=True)
    assert trace.run_ids == ("run0", "run1")
    assert not np.isnan(trace.dataset("text/2x2")["g2r"].sel(run="run1").compute()).any()
    assert open_trace(open_store(tmp_path / "a.zarr")).incomplete == 1

"""Stores opened by xarray itself, through the installed entry point."""

import os
import pickle
import subprocess
import sys
from importlib.metadata import entry_points

import dask
import numpy as np
import pytest
import xarray as xr
import zarr

from attlas.analysis import open_trace
from attlas.analysis.reading import ShardReader
from attlas.schemas import open_store, simulate_store
from attlas.schemas.errors import SchemaVersionError, StoreNotFoundError, UnknownNameError

ENCODING = {"text": "dense", "image": "factors", "self": "factors"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    where = str(tmp_path_factory.mktemp("engine") / "a.zarr")
    simulate_store(where, runs=3, encoding=ENCODING)
    return where


@pytest.fixture(scope="module")
def trace(path):
    return open_trace(path)


def test_the_entry_point_is_installed():
    (point,) = entry_points(group="xarray.backends", name="attlas")
    assert point.value == "attlas.analysis.engine:AttlasBackendEntrypoint"
    assert xr.backends.list_engines()["attlas"].supports_groups


def test_the_backend_is_found_without_heavy_imports():
    """xarray loads every backend when anything is opened at all."""
    code = "import xarray, sys; xarray.backends.list_engines(); print('torch' in sys.modules, 'zarr' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split()[0] == "False"


@pytest.mark.parametrize("direction", ["g2r", "r2g"])
@pytest.mark.parametrize("kind", ["text", "image", "self"])
def test_attention_of_either_encoding(path, trace, kind, direction):
    with xr.open_dataset(path, engine="attlas", group=f"{kind}/4x4", direction=direction) as opened:
        expected = trace.attention(kind, direction)
        assert opened["attention"].dims == expected.dims
        assert opened["attention"].attrs["direction"] == direction
        xr.testing.assert_identical(opened["attention"].load(), expected.compute())


@pytest.mark.parametrize("group", ["text/4x4", "image/4x4"])
def test_stored_arrays_and_labels(path, trace, group):
    own = trace.dataset(group).compute()
    opened = xr.open_dataset(path, engine="attlas", group=f"/{group}").load()
    assert set(opened.data_vars) == {*own.data_vars, "attention"}
    for name in (*own.data_vars, *own.coords):
        xr.testing.assert_equal(opened[name].variable, own[name].variable)
    assert set(own.coords) <= set(opened.coords)
    assert opened.attrs == {"kind": group.partition("/")[0], "grid": "4x4"}


def test_the_root_and_the_annotations(path, trace):
    root = xr.open_dataset(path, engine="attlas")
    assert root["prompt"].values.tolist() == ["a red disc and a blue cross"] * 3
    np.testing.assert_array_equal(root["generated_image"], trace.images)
    given = xr.open_dataset(path, engine="attlas", group="annotations")
    np.testing.assert_array_equal(given["disc"], trace.annotations["disc"])


def test_what_is_read_is_what_is_asked(path, monkeypatch):
    read = []
    own = ShardReader._read
    monkeypatch.setattr(
        ShardReader,
        "_read",
        lambda self, places, rest: (read.append((self.array.path, places)), own(self, places, rest))[1],
    )
    opened = xr.open_dataset(path, engine="attlas", group="image/4x4")
    assert read == []
    picked = opened["attention"].isel(run=[2], t=[2, 0], branch=1, layer=slice(1, None))
    assert read == []
    picked.load()
    assert set(read) == {("image/4x4/query_vectors", (2,)), ("image/4x4/key_vectors", (2,))}
    expected = open_trace(path).attention("image").compute().isel(run=[2], t=[2, 0], branch=1, layer=slice(1, None))
    np.testing.assert_array_equal(picked, expected)
    assert picked["t"].values.tolist() == [2, 0]


def test_chunks_are_shards(path, trace):
    opened = xr.open_dataset(path, engine="attlas", group="text/4x4", chunks={})
    stored = trace.dataset("text/4x4")
    for name in ("log_attention", "logsumexp", "g2r"):
        assert opened[name].chunks == stored[name].chunks
        shard = open_store(path).group[f"text/4x4/{name}"]
        assert opened[name].data.chunksize == tuple(min(a, b) for a, b in zip(shard.shards, shard.shape, strict=True))
    assert opened["attention"].chunks == trace.attention("text").chunks
    assert all(size == 1 for size in opened["attention"].chunks[0])
    for scheduler in ("synchronous", "threads"):
        with dask.config.set(scheduler=scheduler):
            np.testing.assert_array_equal(opened["attention"].mean("t"), trace.attention("text").mean("t"))


def test_datatree(path, trace):
    tree = xr.open_datatree(path, engine="attlas", chunks={}, direction="r2g")
    assert {node.path for node in tree.leaves} == {"/text/4x4", "/image/4x4", "/self/4x4", "/annotations"}
    made = tree["image/4x4/attention"]
    assert made.chunks is not None
    np.testing.assert_array_equal(made, trace.attention("image", "r2g"))
    assert tree["self/4x4"]["prompt"].sizes == {"run": 3}
    below = xr.open_datatree(path, engine="attlas", group="text")
    assert [node.path for node in below.leaves] == ["/4x4"]
    groups = xr.open_groups(path, engine="attlas")
    assert list(groups) == ["/", "/text/4x4", "/image/4x4", "/self/4x4", "/annotations"]


def test_guessing_takes_attlas_stores_only(path, tmp_path):
    (guess,) = (xr.backends.list_engines()["attlas"].guess_can_open,)
    other = tmp_path / "b.zarr"
    xr.Dataset({"a": ("x", [1, 2])}).to_zarr(other, zarr_format=3, consolidated=False)
    (tmp_path / "torn.zarr").mkdir()
    (tmp_path / "torn.zarr" / "zarr.json").write_text("[1]")
    (tmp_path / "pipe.zarr").mkdir()
    os.mkfifo(tmp_path / "pipe.zarr" / "zarr.json")
    assert guess(path)
    assert not any(
        guess(one)
        for one in (
            *(str(other), other / "a", tmp_path / "none", tmp_path / "torn.zarr", tmp_path / "pipe.zarr"),
            *(b"CDF", 3, "s3://bucket/a.zarr", "a" * 5000, [path, path]),
        )
    )
    assert "attention" in xr.open_dataset(path, group="text/4x4")
    assert xr.open_dataset(other, engine="zarr", consolidated=False)["a"].values.tolist() == [1, 2]


def test_variables_may_be_dropped(path):
    opened = xr.open_dataset(path, engine="attlas", group="text/4x4", drop_variables=["attention", "g2r", "none"])
    assert not {"attention", "g2r"} & set(opened)
    assert "r2g" in opened
    assert "attention" not in xr.open_dataset(path, engine="attlas", group="text/4x4", drop_variables="attention")


def test_pickles(path):
    sent = pickle.dumps(xr.open_dataset(path, engine="attlas", group="image/4x4"))
    opened = pickle.loads(sent)  # noqa: S301 - what was just dumped
    assert opened["attention"].isel(run=0).sum("key").values == pytest.approx(1, abs=1e-5)


def test_incomplete_runs_are_left_out_unless_asked(tools, tmp_path):
    where = str(tmp_path / "a.zarr")
    tools.make_store((tools.leaf_of("self", (2, 2)),), path=where, runs=3, complete=(0, 2))
    opened = xr.open_dataset(where, engine="attlas", group="self/2x2")
    assert opened["run"].values.tolist() == ["run0", "run2"]
    whole = xr.open_dataset(where, engine="attlas", group="self/2x2", incomplete=True)
    assert whole["run"].values.tolist() == ["run0", "run1", "run2"]


def test_a_summary_has_no_attention(tools, tmp_path):
    where = str(tmp_path / "a.zarr")
    tools.make_store((tools.leaf_of("image", (2, 2), encoding="none"),), path=where, detail="summary")
    opened = xr.open_dataset(where, engine="attlas", group="image/2x2")
    assert set(opened) == {"g2r", "r2g", "attention_mean", "attention_mean_r2g", "computed"}


def test_errors(path, tmp_path):
    with pytest.raises(UnknownNameError, match=r"group 'text/4x5'.*'text/4x4'"):
        xr.open_dataset(path, engine="attlas", group="text/4x5")
    with pytest.raises(UnknownNameError, match="group 'word'"):
        xr.open_datatree(path, engine="attlas", group="word")
    with pytest.raises(UnknownNameError, match="direction 'g2g'"):
        xr.open_dataset(path, engine="attlas", direction="g2g")
    with pytest.raises(StoreNotFoundError):
        xr.open_dataset(str(tmp_path / "none.zarr"), engine="attlas")
    simulate_store(str(tmp_path / "new.zarr"), runs=1, kinds=("text",))
    root = zarr.open_group(str(tmp_path / "new.zarr"))
    root.attrs["attlas"] = {**root.attrs["attlas"], "schema": 99}
    with pytest.raises(SchemaVersionError, match="99"):
        xr.open_dataset(str(tmp_path / "new.zarr"), engine="attlas")

import pickle
import shutil
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore

from attlas.analysis import maps, open_trace
from attlas.analysis.reading import ShardReader
from attlas.schemas import Leaf, Manifest, create_store, open_store, simulate_store
from attlas.schemas.errors import (
    CorruptDataError,
    InvalidValueError,
    NotRecordedError,
    StoreExistsError,
    StoreNotFoundError,
    UnknownNameError,
)

DIMS = ("run", "branch", "t", "layer", "head", "query", "key")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    target = tmp_path_factory.mktemp("trace") / "store.zarr"
    simulate_store(target, runs=2)
    return target


@pytest.fixture
def copy(path, tmp_path):
    return Path(shutil.copytree(path, tmp_path / "copy.zarr"))


def test_a_folder_a_store_and_a_zarr_store_give_the_same(path):
    opened = [
        open_trace(path),
        open_trace(str(path)),
        open_trace(open_store(path)),
        open_trace(open_store(path).group.store),
    ]
    for trace in opened:
        xr.testing.assert_identical(trace.tree.to_dataset().compute(), opened[0].tree.to_dataset().compute())
        values = trace.attention("text").compute()
        xr.testing.assert_identical(values, opened[0].attention("text").compute())


def test_a_zarr_store_whose_reads_wait_in_threads(path):
    """More columns and chunks at once than zarr has threads."""
    trace = open_trace(LocalStore(path, read_only=True))
    assert trace.path is None
    xr.testing.assert_equal(trace.tree.to_dataset().compute(), open_trace(path).tree.to_dataset().compute())
    with dask.config.set(scheduler="threads", num_workers=16):
        xr.testing.assert_equal(trace.attention("self").compute(), open_trace(path).attention("self").compute())


def test_opening_and_looking_compute_nothing(path, computes):
    with computes(0):
        trace = open_trace(path)
        repr(trace)
        assert trace.tree["text/4x4"]["log_attention"].chunks is not None
        assert set(trace.tree.children) == {"annotations", "image", "self", "text"}
        trace.images, trace.reference, trace.annotations, trace.runs  # noqa: B018


def test_repr_is_a_short_table(path):
    assert repr(open_trace(path)) == (
        f"<attlas trace of {path}: 2 runs, 3 calls, branches uncond, cond>\n"
        "  text/4x4         2 layers x  2 heads     16 queries x    10 keys  full, dense\n"
        "  image/4x4        2 layers x  2 heads     16 queries x    17 keys  full, factors\n"
        "  self/4x4         2 layers x  2 heads     16 queries x    16 keys  full, factors\n"
        "  annotations    correspondence, cross, disc, garment, quality, reference_garment"
    )


def test_the_run_table_and_pictures(path):
    trace = open_trace(path)
    assert trace.runs["prompt"].values.tolist() == ["a red disc and a blue cross"] * 2
    assert trace.runs["seed"].values.tolist() == [0, 1]
    assert trace.runs["timestep"].dims == ("run", "t")
    assert trace.run_ids == ("0000", "0001")
    assert trace.kinds == ("text", "image", "self")
    stored = open_store(path).group
    np.testing.assert_array_equal(trace.images.compute(), stored["generated_image"][...])
    np.testing.assert_array_equal(trace.reference.compute(), stored["reference_image"][...])
    assert trace.annotations["disc"].sel(run="0001").compute().dtype == np.int8


def test_a_dask_chunk_is_a_shard(path):
    stored = open_store(path)
    trace = open_trace(path)
    for leaf in stored.leaves:
        for name, array in trace.dataset(leaf).data_vars.items():
            shard, whole = stored.layout(leaf, name).shard, array.shape
            assert tuple(sizes[0] for sizes in array.chunks) == tuple(map(min, shard, whole))


def test_stock_xarray_opens_the_store(path):
    tree = xr.open_datatree(str(path), engine="zarr")
    full = tree["text/4x4"]["log_attention"]
    assert full.dims == DIMS
    assert full.coords["token"].dims == ("run", "branch", "key")
    assert float(np.exp(full.astype("f4")).sum("key").mean()) == pytest.approx(1, abs=1e-3)
    assert tree["image/4x4"]["query_vectors"].dims == (*DIMS[:6], "channel")


def test_only_complete_runs_unless_asked(tools):
    store, _ = tools.make_store((tools.leaf_of("text", (2, 2), encoding="dense"),), runs=3, complete=(0, 2))
    assert open_trace(store).run_ids == ("run0", "run2")
    assert open_trace(store).attention("text").sizes["run"] == 2
    shown = open_trace(store, incomplete=True)
    assert shown.run_ids == ("run0", "run1", "run2")
    assert shown.runs["complete"].values.tolist() == [True, False, True]


def test_a_run_under_way_shows_nan_where_nothing_is_written_yet(tools):
    store, _ = tools.make_store((tools.leaf_of("text", (2, 2), encoding="dense"),), runs=1)
    row = store.claim("late", prompt="a cat")
    values = open_trace(store, incomplete=True).attention("text").compute()
    assert np.isnan(values.sel(run="late")).all()
    assert not np.isnan(values.sel(run="run0")).any()
    store.release(row)


def test_only_the_asked_branch_is_read(path, monkeypatch):
    read = []
    whole = ShardReader._read
    monkeypatch.setattr(
        ShardReader, "_read", lambda self, place, rest: read.append(self.branch) or whole(self, place, rest)
    )
    trace = open_trace(path)
    for branch, number in (("uncond", 0), ("cond", 1)):
        read.clear()
        made = maps.ulam(trace, "r2g", kind="image", branch=branch, source="full").compute()
        assert set(read) == {number}
        expected = trace.attention("image", "r2g").sel(branch=branch).mean("key").sum(("t", "layer", "head"))
        np.testing.assert_allclose(made.values.reshape(2, -1), expected.compute(), rtol=1e-5)
    with pytest.raises(UnknownNameError, match="unknown branch 'conds'"):
        trace.arrays("text/4x4", ["g2r"], "conds")


def test_no_run_at_all(tools):
    store, _ = tools.make_store((tools.leaf_of("text", (2, 2), encoding="dense"),), runs=0)
    trace = open_trace(store)
    assert len(trace.run_ids) == 0
    assert trace.attention("text").compute().shape == (0, 2, 3, 1, 2, 4, 6)
    assert "0 runs" in repr(trace)


def test_choosing_runs(path, computes):
    trace = open_trace(path)
    with computes(0):
        turned = trace.sel(["0001", "0000"])
    assert turned.run_ids == ("0001", "0000")
    np.testing.assert_array_equal(turned.attention("text").compute(), trace.attention("text").compute()[::-1])
    assert trace.sel("0001").runs["seed"].values.tolist() == [1]
    with pytest.raises(UnknownNameError, match="unknown run '0003'.*did you mean '000"):
        trace.sel("0003")
    with pytest.raises(InvalidValueError, match=r"\[5\] reach outside the 2 runs"):
        trace.isel([5])


def test_what_is_not_there(tmp_path, tools):
    with pytest.raises(StoreNotFoundError):
        open_trace(tmp_path / "none.zarr")
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(StoreExistsError):
        open_trace(tmp_path / "other.zarr")
    store, _ = tools.make_store((tools.leaf_of("text", (2, 2), encoding="dense"),), runs=1, reference=None)
    trace = open_trace(store)
    with pytest.raises(NotRecordedError, match="no reference image"):
        trace.reference  # noqa: B018
    with pytest.raises(UnknownNameError, match="unknown leaf 'text/2x3'.*did you mean 'text/2x2'"):
        trace.dataset("text/2x3")
    assert len(trace.annotations) == 0
    assert "annotations" not in trace.tree.children


def shard_of(store, array):
    """A file of the array's second run."""
    return sorted((store / array).glob("c.1.*"))[0]


@pytest.mark.parametrize("array", ["text/4x4/log_attention", "image/4x4/query_vectors", "text/4x4/g2r"])
def test_any_flipped_bit_is_an_error_that_names_array_and_run(copy, array):
    file = shard_of(copy, array)
    whole = file.read_bytes()
    kind, variable = array.split("/")[0], array.split("/")[-1]
    for place in np.linspace(0, len(whole) - 1, 9).astype(int):
        broken = bytearray(whole)
        broken[place] ^= 4
        file.write_bytes(bytes(broken))
        trace = open_trace(copy)
        lazy = trace.dataset(array.rpartition("/")[0])[variable] if variable == "g2r" else trace.attention(kind, "r2g")
        with pytest.raises(CorruptDataError, match=rf"{array} of run '0001' in .*copy.zarr cannot be read"):
            lazy.compute()
        assert not np.isnan(lazy.sel(run="0000").compute()).any()


@pytest.mark.parametrize("length", [0, 3, 100])
def test_a_truncated_shard_is_an_error(copy, length):
    file = shard_of(copy, "text/4x4/log_attention")
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(CorruptDataError, match="text/4x4/log_attention of run '0001'"):
        open_trace(copy).attention("text").compute()


def test_a_shard_that_a_complete_run_lacks_is_an_error(copy):
    shard_of(copy, "text/4x4/log_attention").unlink()
    with pytest.raises(CorruptDataError, match=r"log_attention of run '0001' in .*c\.1\..* is missing"):
        open_trace(copy).attention("text").compute()


def test_a_damaged_table_is_an_error_that_names_it(copy):
    file = copy / "prompt" / "c.0"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(CorruptDataError, match="prompt in .*copy.zarr cannot be read"):
        open_trace(copy).runs  # noqa: B018


def test_lazy_arrays_travel_to_other_processes(path):
    lazy = open_trace(path).attention("text", "r2g")
    xr.testing.assert_identical(pickle.loads(pickle.dumps(lazy)).compute(), lazy.compute())  # noqa: S301


def test_the_package_names_what_it_has():
    import attlas.analysis

    assert {"open_trace", "maps", "metrics", "heads", "scores"} <= set(dir(attlas.analysis))
    with pytest.raises(AttributeError, match="no attribute 'mapz'"):
        attlas.analysis.mapz  # noqa: B018


def test_weights_that_all_runs_share_are_in_the_dataset(tmp_path, computes):
    leaf = Leaf("text", (2, 2), 2, 3, ("a", "b"), 6, encoding="both", features=5)
    store = create_store(tmp_path / "s.zarr", Manifest("m", "d", "p"), (leaf,), ("cond",), 1, (8, 8))
    weights = np.random.default_rng(0).normal(size=(2, 5, 6)).astype("f2")
    store.write_projection("text/2x2", list(weights))
    for row in range(2):
        assert store.claim(f"run{row}", capacity=2) == row
        store.complete_run(row)
    with computes(0):
        made = open_trace(store).sel("run1").dataset("text/2x2")["key_projection"]
    assert made.dims == ("layer", "feature", "head_channel")
    assert made["layer"].values.tolist() == ["a", "b"]
    np.testing.assert_array_equal(made.compute(), weights)
    shard = sorted((tmp_path / "s.zarr/text/2x2/key_projection").glob("c.*"))[0]
    body = bytearray(shard.read_bytes())
    body[len(body) // 2] ^= 0xFF
    shard.write_bytes(body)
    with pytest.raises(CorruptDataError, match=r"text/2x2/key_projection in .* cannot be read"):
        open_trace(tmp_path / "s.zarr").dataset("text/2x2")["key_projection"].compute()

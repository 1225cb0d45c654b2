"""Several stores of one model as one trace: the same numbers as one store of all runs."""

import pickle
from dataclasses import replace
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from splitting import split

from attlas.analysis import maps, open_trace, survey
from attlas.analysis.reading import ShardReader
from attlas.schemas import create_store, open_store, simulate_store
from attlas.schemas.errors import InvalidValueError, StoreMismatchError, StoreNotFoundError

PARTS = ((0, 1, 2), (3,), (4, 5))
KINDS = ["a", "b", "a", "a", "b", "b"]


SEEN = SimpleNamespace(runs=[])
"""No plain value, so that it is no part of what a function's digest is made of."""


def score(trace):
    SEEN.runs.extend(trace.run_ids)
    return trace.annotations["quality"]


def noted(row):
    return {"quality": float(row) ** 2, "kind": KINDS[row], "mask": np.full((16, 16), row % 2, np.int8)}


@pytest.fixture(scope="module")
def stores(tools, tmp_path_factory):
    """One store of six runs, and the same runs in three."""
    folder = tmp_path_factory.mktemp("many")
    leaves = (
        tools.leaf_of("text", (4, 4), keys=10, layers=2, encoding="dense"),
        tools.leaf_of("image", (4, 4), key_grid=(4, 3), cls=True),
    )
    prompts = [f"a {word} disc" for word in ("red", "dark blue", "green", "red", "pink", "white")]
    tools.make_store(leaves, path=folder / "whole.zarr", runs=6, prompts=prompts, annotations=noted)
    whole = open_store(folder / "whole.zarr")
    paths = [str(folder / "runs" / f"{name}.zarr") for name in "abc"]
    for path, rows in zip(paths, PARTS, strict=True):
        split(whole, path, rows)
    return SimpleNamespace(whole=str(folder / "whole.zarr"), paths=paths, pattern=str(folder / "runs" / "*.zarr"))


@pytest.fixture
def whole(stores):
    return open_trace(stores.whole)


@pytest.fixture
def many(stores):
    return open_trace(stores.paths)


def assert_same(one, other):
    xr.testing.assert_equal(one.compute(), other.compute())
    assert one.attrs == other.attrs


def test_a_list_and_a_pattern_are_one_trace(stores, whole):
    for given_ in (stores.paths, stores.pattern, [stores.paths[0], stores.pattern.replace("*", "[bc]")]):
        trace = open_trace(given_)
        assert trace.run_ids == whole.run_ids
        assert [store.path for store in trace.stores] == stores.paths
        assert trace.rows == (0, 1, 2, 0, 0, 1)
        assert_same(trace.runs, whole.runs)


def test_the_tree_is_that_of_one_store(many, whole):
    assert many.tree.attrs == whole.tree.attrs
    for node in whole.tree.subtree:
        assert_same(many.tree[node.path].to_dataset(), node.to_dataset())
    for name in ("images", "reference"):
        assert_same(getattr(many, name), getattr(whole, name))


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(3)), places=st.lists(st.integers(0, 5), min_size=1, unique=True))
def test_maps_of_any_runs_in_any_order_of_stores(stores, order, places):
    whole = open_trace(stores.whole)
    many = open_trace([stores.paths[place] for place in order])
    chosen = [whole.run_ids[place] for place in places]
    one, other = whole.sel(chosen), many.sel(chosen)
    assert other.run_ids == tuple(chosen)
    made = {
        "ulam": lambda trace: maps.ulam(trace, "r2g", kind="image"),
        "daam": lambda trace: maps.daam(trace, "disc", source="full"),
        "attention": lambda trace: trace.attention("text", "r2g"),
    }
    for function in made.values():
        assert_same(function(other), function(one))
    assert_same(other.tokens("text/4x4"), one.tokens("text/4x4"))


def test_maps_together_read_each_store_once(many, whole):
    both = {name: maps.ulam(trace, "g2r", kind="image", source="full") for name, trace in (("m", many), ("w", whole))}
    made = dask.compute(*maps.together(both).values())
    xr.testing.assert_equal(*made)


@pytest.mark.parametrize("options", [{}, {"by": "kind"}, {"by": np.array(list("xyxyxx"))}, {"block": 2}])
def test_a_survey_gives_the_same_numbers(stores, whole, options):
    asked = ("annotation:quality", "coverage") if not options else "annotation:quality"
    wanted = survey(whole, asked, cache=False, progress=False, **options)
    for given_ in (open_trace(stores.paths), stores.pattern):
        made = survey(given_, asked, cache=False, progress=False, **options)
        xr.testing.assert_allclose(made.dataset, wanted.dataset, rtol=1e-12)
    assert made.scores["store"].values.tolist() == ["a"] * 3 + ["b"] + ["c"] * 2


def test_a_survey_of_runs_in_turn_groups_each_by_its_own_label(many):
    turned = many.sel(["run5", "run0", "run3", "run1"])
    made = survey(turned, "annotation:quality", by=np.array(list("xyxy")), cache=False, progress=False)["quality"]
    assert made["mean"].sel(group="x").item() == pytest.approx((25 + 9) / 2)
    assert made["mean"].sel(group="y").item() == pytest.approx((0 + 1) / 2)


def test_what_a_survey_finds_is_kept_in_each_store(stores, tmp_path):
    paths = [str(tmp_path / f"{place}.zarr") for place in range(2)]
    for path, rows in zip(paths, PARTS, strict=False):
        split(open_store(stores.whole), path, rows)
    SEEN.runs.clear()
    for _ in range(2):
        survey(open_trace(paths), score, progress=False)
        assert SEEN.runs == ["run0", "run1", "run2", "run3"]


def test_only_stores_of_computed_runs_are_read(stores, many, monkeypatch):
    read = []
    own = ShardReader._read

    def noting(self, places, rest):
        read.extend(self.runs.where[self.runs.stores[place]] for place in places)
        return own(self, places, rest)

    monkeypatch.setattr(ShardReader, "_read", noting)
    lazy = maps.ulam(many, "r2g", kind="image", source="full")
    assert read == []
    lazy.isel(run=3).compute()
    assert set(read) == {stores.paths[1]}
    read.clear()
    part = many.sel("run4")
    assert part.path == stores.paths[2]
    part.images.compute()
    assert set(read) == {stores.paths[2]}


def test_lazy_stays_lazy(stores, computes):
    with computes(0):
        trace = open_trace(stores.paths)
        repr(trace)
        trace.tree, trace.images, trace.sel("run5"), trace.attention("text")


def test_repr_names_the_stores(stores, many):
    assert repr(many).startswith(f"<attlas trace of {', '.join(stores.paths)}: 6 runs, 3 calls, branches uncond, cond>")


def test_a_trace_of_several_stores_travels(many):
    turned = many.sel(["run4", "run0"])
    there = pickle.loads(pickle.dumps(turned))  # noqa: S301 - what was just dumped
    assert there.run_ids == turned.run_ids
    assert_same(there.attention("text"), turned.attention("text"))
    lazy = turned.attention("text", "r2g")
    xr.testing.assert_equal(pickle.loads(pickle.dumps(lazy)).compute(), lazy.compute())  # noqa: S301


def test_the_one_store_of_a_trace_of_several_is_refused(stores, many):
    with pytest.raises(InvalidValueError, match="this trace is of 3 stores.*parts"):
        many.store  # noqa: B018
    assert many.path is None
    assert [(part.places, part.trace.path) for part in many.sel(["run4", "run0", "run5"]).parts] == [
        ((1,), stores.paths[0]),
        ((0, 2), stores.paths[2]),
    ]


def test_xarray_opens_lists_and_patterns(stores, many):
    for given_ in (stores.paths, stores.pattern):
        tree = xr.open_datatree(given_, engine="attlas", chunks={})
        assert tree["text/4x4"]["run"].values.tolist() == list(many.run_ids)
        np.testing.assert_array_equal(tree["text/4x4/attention"], many.attention("text"))
        opened = xr.open_dataset(given_, engine="attlas", group="image/4x4")
        np.testing.assert_array_equal(opened["g2r"], many.dataset("image/4x4")["g2r"])


def test_two_runs_of_one_label_are_refused_unless_they_are_prefixed(stores, tmp_path):
    paths = [str(tmp_path / f"{name}.zarr") for name in "ab"]
    for path, rows in zip(paths, ((0, 1), (2, 3)), strict=True):
        split(open_store(stores.whole), path, rows, rename=lambda run: f"000{int(run[-1]) % 2}")
    with pytest.raises(InvalidValueError, match=r"run '0000' is in .*a.zarr and in .*b.zarr;.*prefix=True"):
        open_trace(paths)
    trace = open_trace(paths, prefix=True)
    assert trace.run_ids == ("a/0000", "a/0001", "b/0000", "b/0001")
    assert trace.runs["run"].values.tolist() == list(trace.run_ids)
    assert trace.sel("b/0001").images["run"].values.tolist() == ["b/0001"]
    assert pickle.loads(pickle.dumps(trace)).run_ids == trace.run_ids  # noqa: S301
    made = survey(trace, "annotation:quality", progress=False)
    assert made.scores["run"].values.tolist() == list(trace.run_ids)
    tree = xr.open_dataset(paths, engine="attlas", prefix=True)
    assert tree["run"].values.tolist() == list(trace.run_ids)
    with pytest.raises(InvalidValueError, match=r"a.zarr is given twice"):
        open_trace([*paths, paths[0]], prefix=True)
    with pytest.raises(InvalidValueError, match=r"a.zarr is given twice"):
        open_trace([open_store(paths[0]), tmp_path / "x" / ".." / "a.zarr"], prefix=True)


def test_stores_that_differ_are_refused_by_name(tools, tmp_path):
    leaf = tools.leaf_of("text", (2, 2), keys=6)
    first = tools.make_store((leaf,), path=tmp_path / "a.zarr", runs=1)[0]
    others = {
        "leaves": tools.make_store((leaf, tools.leaf_of("self", (2, 2))), path=tmp_path / "b.zarr", runs=1)[0],
        "text/2x2: heads: store has 2, got 3": tools.make_store(
            (replace(leaf, heads=3),), path=tmp_path / "c.zarr", runs=1
        )[0],
        "calls: store has 3, got 2": tools.make_store((leaf,), path=tmp_path / "d.zarr", runs=1, calls=2)[0],
        r"image_shape: store has \(16, 16\), got \(8, 16\)": tools.make_store(
            (leaf,), path=tmp_path / "e.zarr", runs=1, image=(8, 16)
        )[0],
        "branches": tools.make_store((leaf,), path=tmp_path / "f.zarr", runs=1, branches=("cond",))[0],
        r"reference_image: store has uint8 \(reference_y 16": tools.make_store(
            (leaf,), path=tmp_path / "g.zarr", runs=1, reference=(8, 8)
        )[0],
    }
    manifest = replace(first.manifest, model_digest="other")
    others["model_digest: store has '0', got 'other'"] = create_store(
        tmp_path / "h.zarr", manifest, (leaf,), ("uncond", "cond"), 3, (16, 16), (16, 16)
    )
    for told, other in others.items():
        with pytest.raises(StoreMismatchError, match=rf"(?s)a\.zarr \(store\) and .*{other.path} \(got\).*{told}"):
            open_trace([first, other])


def test_annotations_of_other_shapes_are_refused(tools):
    leaf = tools.leaf_of("text", (2, 2), keys=6)
    one, _ = tools.make_store((leaf,), runs=1, annotations=lambda _: {"many": np.arange(3.0)})
    two, _ = tools.make_store((leaf,), runs=1, annotations=lambda _: {"many": np.arange(4.0)})
    with pytest.raises(StoreMismatchError, match="annotations/many: store has float32"):
        open_trace([one, two])


def test_what_only_some_stores_have_is_fill_for_the_others(stores, tmp_path):
    paths = [str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")]
    split(open_store(stores.whole), paths[0], (0, 1), annotated=("kind",))
    split(open_store(stores.whole), paths[1], (2, 3))
    for order in (paths, paths[::-1]):
        trace = open_trace(order)
        assert set(trace.annotations) == {"kind", "mask", "quality"}
        by_run = trace.annotations.compute().sel(run=["run0", "run1", "run2", "run3"])
        assert by_run["kind"].values.tolist() == KINDS[:4]
        np.testing.assert_array_equal(by_run["quality"], [np.nan, np.nan, 4, 9])
        assert by_run["mask"].dtype.kind == "i"
        assert (by_run["mask"].sel(run=["run0", "run1"]) == -1).all()
        alone = trace.sel("run0")
        assert set(alone.annotations) == {"kind", "mask", "quality"}
        assert np.isnan(alone.annotations["quality"].compute()).all()
        assert set(pickle.loads(pickle.dumps(alone)).annotations) == {"kind", "mask", "quality"}  # noqa: S301
        made = survey(trace, "annotation:quality", by="kind", cache=False, progress=False)["quality"]
        assert made["n"].sel(kind="a").item() == 2


def test_stores_in_memory_and_on_disk_mix(stores, whole):
    source = open_store(stores.whole)
    trace = open_trace([split(source, None, (0,)), stores.paths[1], split(source, None, (5, 1))])
    assert trace.run_ids == ("run0", "run3", "run5", "run1")
    assert_same(maps.daam(trace, "disc"), maps.daam(whole.sel(list(trace.run_ids)), "disc"))
    with pytest.raises(InvalidValueError, match="store in memory cannot go to another process"):
        pickle.dumps(trace)


def test_incomplete_runs_of_several_stores(tools):
    leaf = tools.leaf_of("text", (2, 2), keys=6, encoding="dense")
    one, _ = tools.make_store((leaf,), runs=2, complete=(1,))
    two = split(tools.make_store((leaf,), runs=1)[0], None, (0,), rename=lambda _: "late")
    assert open_trace([one, two]).run_ids == ("run1", "late")
    shown = open_trace([one, two], incomplete=True)
    assert shown.runs["complete"].values.tolist() == [False, True, True]
    made = survey(shown, "coverage", cache=False, progress=False)
    assert made.scores["run"].values.tolist() == ["run1", "late"]
    assert made.partial.left_out == {"memory 0": 1, "memory 1": 0}


def test_a_pattern_takes_stores_only(stores, tmp_path):
    simulate_store(tmp_path / "a.zarr", runs=1, kinds=("text",))
    xr.Dataset({"a": ("x", [1, 2])}).to_zarr(tmp_path / "b.zarr", zarr_format=3, consolidated=False)
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "a.zarr.recording").mkdir()
    assert open_trace(tmp_path / "*").path == str(tmp_path / "a.zarr")
    with pytest.raises(StoreNotFoundError, match=r"no store matches .*none-\*\.zarr"):
        open_trace(tmp_path / "none-*.zarr")
    with pytest.raises(InvalidValueError, match="no store is given"):
        open_trace([])


def test_a_path_with_brackets_is_itself_where_it_is_there(tmp_path):
    simulate_store(tmp_path / "a[1].zarr", runs=1, kinds=("text",))
    assert open_trace(tmp_path / "a[1].zarr").path == str(tmp_path / "a[1].zarr")


def test_a_broken_store_is_not_passed_over(stores, tmp_path):
    simulate_store(tmp_path / "a.zarr", runs=1, kinds=("text",))
    (tmp_path / "b.zarr").mkdir()
    (tmp_path / "b.zarr" / "zarr.json").write_text("{")
    with pytest.raises(Exception, match=r"b\.zarr"):
        open_trace(tmp_path / "*.zarr")

"""What a survey keeps in the store: resumed, and computed anew when code, options or runs change."""

import shutil
from datetime import date
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore

from attlas.analysis import open_trace, survey
from attlas.schemas import open_store, validate_store
from attlas.schemas.errors import CorruptDataError

SEEN = SimpleNamespace(calls=[], fixed=True)
"""No plain value, so that it is no part of what a function's digest is made of."""


def score(trace, factor=1.0):
    SEEN.calls.append(len(trace.rows))
    return trace.annotations["quality"] * factor


@pytest.fixture(scope="module")
def recorded(tools, tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded") / "a.zarr"
    leaf = tools.leaf_of("text", (2, 2), keys=8)
    tools.make_store((leaf,), path=path, runs=5, annotations=lambda row: {"quality": float(row)})
    return path


@pytest.fixture
def path(recorded, tmp_path):
    """A copy of the store, of the test's own."""
    SEEN.calls.clear()
    return shutil.copytree(recorded, tmp_path / "a.zarr")


def computed(path, function=score, **options):
    """Mean, and how many runs the function was called for."""
    SEEN.calls.clear()
    asked = (function, options.pop("asked", {}))
    made = survey(path, asked, progress=False, **options)
    return made[function.__name__]["mean"].item(), sum(SEEN.calls), made


def test_runs_are_computed_once_and_the_store_stays_a_store(path):
    before = xr.open_datatree(path, engine="zarr").load()
    assert computed(path)[:2] == (2.0, 5)
    assert computed(path)[:2] == (2.0, 0)
    assert validate_store(path, deep=True) == []
    after = xr.open_datatree(path, engine="zarr").load()
    for tree in (before, after):
        del tree.attrs["attlas"]["checksum"]
    for name, node in before.subtree_with_keys:
        xr.testing.assert_identical(node.to_dataset(inherit=False), after[name].to_dataset(inherit=False))
    (kept,) = after["statistics"].children.values()
    told = kept.attrs["attlas"]
    assert (told["statistic"], told["options"], told["version"]) == ("score", {}, "1")
    assert kept["value"].sel(run=["run0", "run3"]).values.tolist() == [0.0, 3.0]
    assert sorted(own.name for own in path.parent.iterdir()) == ["a.zarr"], "no locks are left behind"


def unsteady(trace):
    SEEN.calls.append(len(trace.rows))
    if "run3" in trace.run_ids and not SEEN.fixed:
        raise KeyError("no such thing")
    return trace.annotations["quality"]


def test_an_interrupted_survey_goes_on_where_it_was(path):
    SEEN.fixed = False
    with pytest.raises(KeyError):
        survey(path, unsteady, block=2, progress=False)
    SEEN.fixed = True
    assert computed(path, unsteady, block=2)[:2] == (2.0, 3)
    survey(open_trace(path).isel([0, 1, 2]), score, progress=False)
    assert computed(path, block=2)[:2] == (2.0, 2)


def test_other_options_are_another_statistic(path):
    computed(path)
    assert computed(path, asked={"factor": 2.0})[:2] == (4.0, 5)
    assert computed(path, asked={"factor": 2.0})[:2] == (4.0, 0)
    assert computed(path)[:2] == (2.0, 0)


def test_a_changed_function_is_computed_anew(path, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = "def helper(trace):\n    return trace.annotations['quality'] * {}\n"
    text += "def own(trace):\n    return helper(trace)\n"
    means = []
    for place, factor in enumerate((1, 3)):
        (tmp_path / f"mine{place}.py").write_text(text.format(factor))
        module = __import__(f"mine{place}")
        means.append(survey(path, module.own, progress=False)["own"]["mean"].item())
    assert means == [2.0, 6.0]
    assert len(list((path / "statistics").glob("own-*"))) == 2


def test_a_run_that_is_recorded_anew_is_computed_anew(path, tools):
    computed(path)
    store = open_store(path)
    store.give_back([3])
    assert store.claim("run3", seed=3, prompt="a red disc and a blue cross") == 3
    for name, leaf in store.leaves.items():
        q = np.ones((2, 3, 1, 2, leaf.queries, leaf.channels))
        tools.write_leaf(store, name, 3, q, np.ones((2, 3, 1, 2, leaf.keys, leaf.channels)))
    store.write_annotations(3, {"quality": 100.0})
    store.complete_run(3)
    store.finish()
    assert computed(path)[:2] == ((0 + 1 + 2 + 100 + 4) / 5, 1)


def test_runs_that_are_added_are_all_that_is_computed(path, tools):
    computed(path)
    store = open_store(path)
    row = store.claim("run5", seed=5)
    tools.write_leaf(store, "text/2x2", row, np.ones((2, 3, 1, 2, 4, 4)), np.ones((2, 3, 1, 2, 8, 4)))
    store.write_image(row, np.zeros((16, 16, 3), np.uint8))
    store.write_annotations(row, {"quality": 5.0})
    store.complete_run(row)
    store.finish()
    assert computed(path)[:2] == (2.5, 1)
    assert validate_store(path, deep=True) == []


def test_a_store_that_cannot_be_written_is_surveyed_without(path):
    trace = open_trace(LocalStore(path, read_only=True))
    mean, calls, made = computed(trace)
    assert (mean, calls) == (2.0, 5)
    assert list(made.attrs["cache"].values()) == ["not kept: the store is read-only"]
    (path / "statistics").write_text("in the way")
    mean, calls, made = computed(path)
    assert (mean, calls) == (2.0, 5)
    assert "not kept: the store cannot be written" in made.attrs["cache"]["a"]
    (path / "statistics").unlink()
    assert computed(path, cache=False)[2].attrs["cache"] == {"a": "not kept: switched off"}
    assert not (path / "statistics").exists()


def tall(trace):
    """Numbers of words: another number of them in each run, and of labels that a store cannot hold."""
    SEEN.calls.append(len(trace.rows))
    own = [int(value) + 1 for value in trace.annotations["quality"].values]
    longest = max(own)
    values = np.array([[*range(count), *[np.nan] * (longest - count)] for count in own])
    texts = np.array([[*"abcdefgh"[:count], *[""] * (longest - count)] for count in own], dtype=object)
    return xr.DataArray(values, dims=("run", "word"), coords={"text": (("run", "word"), texts)})


def test_words_of_each_run_are_kept_whatever_the_blocks(path):
    SEEN.calls.clear()
    first = survey(path, tall, by="text", block=2, progress=False)
    assert sum(SEEN.calls) == 5
    again = survey(path, tall, by="text", block=3, progress=False)
    assert sum(SEEN.calls) == 5
    xr.testing.assert_identical(first.dataset, again.dataset)
    assert first.dataset["tall_n"].sel(text=["a", "e"]).values.tolist() == [5, 1]
    node = xr.open_datatree(path, engine="zarr")["statistics"].children.values()
    (value,) = (own["value"].load() for own in node)
    assert value.where(value["text"] == "b").sum("word").values.tolist() == [0, 1, 1, 1, 1]
    assert validate_store(path, deep=True) == []


def daily(trace):
    SEEN.calls.append(len(trace.rows))
    days = np.array([date(2024, 1, 1), date(2024, 1, 2)], dtype=object)
    return xr.DataArray(np.ones((len(trace.rows), 2)), dims=("run", "day"), coords={"day": days})


def test_labels_that_a_store_cannot_hold_are_surveyed_without(path):
    for _ in range(2):
        SEEN.calls.clear()
        made = survey(path, daily, block=2, progress=False)
        assert made["daily"]["mean"].values.tolist() == [1.0, 1.0]
        assert sum(SEEN.calls) == 5
        assert "is date; numbers, texts" in made.attrs["not_kept"]["daily"]
    assert list(made.attrs["cache"].values()) == ["kept"]


def test_what_cannot_be_told_apart_is_not_kept(path):
    weights = np.arange(5.0)

    def closed(trace):
        SEEN.calls.append(len(trace.rows))
        return trace.annotations["quality"] * float(weights[1])

    for _ in range(2):
        mean, calls, made = computed(path, closed)
        assert (mean, calls) == (2.0, 5)
    assert "closes over 'weights', a ndarray" in made.attrs["not_kept"]["closed"]


def test_damage_of_what_is_kept_is_named(path):
    computed(path)
    (chunk,) = (path / "statistics").glob("score-*/value/c.0")
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(bytes(data))
    with pytest.raises(CorruptDataError, match="remove that folder, it is computed anew"):
        computed(path)
    assert any("statistics/score-" in problem for problem in validate_store(path, deep=True))


@pytest.mark.slow
def test_workers_give_what_one_process_gives(path):
    from distributed import Client, LocalCluster

    def local(trace):
        return trace.annotations["quality"] * 2

    asked = {"maps": ("ulam", {"direction": "r2g"}), "cache": False, "progress": False}
    one = survey(path, [score, local], **asked)
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        two = survey(path, [score, local], block=2, client=client, **asked)
    xr.testing.assert_allclose(two.dataset.drop_attrs(), one.dataset.drop_attrs(), rtol=1e-12)

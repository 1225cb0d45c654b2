"""Memory and scale: blocks and trees that do not grow with a store, and the same numbers from two processes."""

import math
import pickle

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from dask.array.core import Array

from attlas.analysis import maps, open_trace
from attlas.analysis.aggregation.together import Mean, Pass, means_of
from attlas.analysis.blockwise import fused, kernels
from attlas.analysis.blockwise.blocks import DIMS
from attlas.analysis.blockwise.folding import SPLIT_EVERY, folded
from attlas.analysis.blockwise.fused import Ask, several_means
from attlas.analysis.blockwise.matrices import Factors
from attlas.analysis.blockwise.room import Room
from attlas.schemas import simulate_store
from attlas.schemas.errors import InvalidValueError

FULL = {"source": "full"}


def questions(trace):
    """Maps of every sort, from summaries and from full arrays."""
    apart = {
        "r2g": maps.ulam(trace, "r2g", kind="image", **FULL),
        "g2r": maps.ulam(trace, "g2r", kind="image", **FULL),
        "summary": maps.llam(trace, "r2g", kind="image"),
        "steps": maps.tlam(trace, "r2g", groups=2, kind="image"),
        "word": maps.daam(trace, "disc"),
    }
    return {**apart, **{f"joined {name}": made for name, made in maps.together(apart).items()}}


def widest(made):
    """Most inputs of a task: how many blocks must be there at a time."""
    graph = dask.utils.ensure_dict(made.__dask_graph__())
    return max(len(getattr(task, "dependencies", ())) for task in graph.values())


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """One store of few calls, layers and runs, and one of many."""
    made = {}
    for name, size in {"few": {"runs": 2, "calls": 4}, "many": {"runs": 12, "calls": 24}}.items():
        path = tmp_path_factory.mktemp("scale") / f"{name}.zarr"
        simulate_store(path, kinds=("text", "image"), **size)
        made[name] = open_trace(path)
    return made


def test_no_task_waits_for_more_blocks_in_a_larger_store(sizes, monkeypatch):
    width = {size: {name: widest(made) for name, made in questions(trace).items()} for size, trace in sizes.items()}
    assert width["many"] == width["few"]


def test_sums_over_many_shards_are_narrow_trees(sizes, monkeypatch):
    trace = sizes["many"]
    made = maps.ulam(trace, "r2g", kind="image", **FULL)
    leaf = next(name for name in trace.leaves if name.startswith("image"))
    (mean,) = means_of(Pass(trace, leaf, ("cond",), None, {}), [Mean("r2g", "query")])
    term = xr.Variable((*DIMS[:5], "query"), mean)
    shards = term.chunk(t=1)
    summed = folded(shards, ["t", "layer", "head"], None, None, (), ())
    assert shards.sizes["t"] * shards.sizes["layer"] > SPLIT_EVERY**2
    assert widest(summed) <= SPLIT_EVERY
    xr.testing.assert_allclose(summed.compute(), term.compute().sum(("t", "layer", "head")), rtol=1e-6)
    assert widest(made) <= 8


def test_chunks_do_not_grow_with_runs_or_calls(sizes):
    largest = {}
    for size, trace in sizes.items():
        arrays = [own.variable.data for node in trace.tree.subtree for own in node.data_vars.values()]
        lazy = [own for own in arrays if isinstance(own, Array)]
        for array in lazy:
            assert array.chunks[0] == (1,) * array.shape[0] or array.shape[0] != len(trace.rows)
        largest[size] = max(np.prod(made.data.chunksize) for made in questions(trace).values())
    # A chunk is of one run; what differs between the stores along t lies in one shard here.
    assert largest["many"] <= largest["few"] * 24 / 4


@pytest.mark.parametrize("kinds", [[("g2r", "key")], [("r2g", "query")], [("g2r", "key"), ("r2g", "query")]])
def test_work_space_is_a_block_or_one_matrix(kinds, monkeypatch):
    """The bound of docs/performance.md: a block of logits, or one matrix where both directions share it."""
    monkeypatch.setattr(kernels, "BLOCK_ELEMENTS", 200)
    monkeypatch.setattr(fused, "HELD_ELEMENTS", 2000)
    asked = []
    of = Room.of
    monkeypatch.setattr(
        Room, "of", lambda self, name, *shape: (asked.append(math.prod(shape)), of(self, name, *shape))[1]
    )
    rng = np.random.default_rng(0)
    for queries, keys in ((40, 50), (40, 51)):
        asked.clear()
        q, k = (dask.array.asarray(rng.normal(size=(1, n, 2))).compute() for n in (queries, keys))
        several_means(Factors(torch.tensor(q), torch.tensor(k), Room("cpu")), [Ask(*kind) for kind in kinds])
        held = ("r2g", "query") in kinds and queries * keys <= fused.HELD_ELEMENTS
        assert max(asked, default=0) <= (queries * keys if held else kernels.BLOCK_ELEMENTS)


def test_a_trace_of_a_store_on_disk_travels(sizes):
    trace = sizes["few"].isel([1])
    again = pickle.loads(pickle.dumps(trace))  # noqa: S301 - its own bytes
    assert again.run_ids == trace.run_ids
    for name, made in questions(again).items():
        xr.testing.assert_allclose(made.compute(), questions(trace)[name].compute(), rtol=1e-6)


def test_a_trace_of_a_store_in_memory_stays():
    with pytest.raises(InvalidValueError, match="store in memory cannot go to another process; .* in a folder"):
        pickle.dumps(open_trace(simulate_store(runs=1)))


def test_two_processes_give_the_numbers_of_one(sizes):
    distributed = pytest.importorskip("distributed")
    asked = questions(sizes["few"])
    (alone,) = dask.compute(asked, scheduler="synchronous")
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", memory_limit=None
        ) as cluster,
        distributed.Client(cluster),
    ):
        (spread,) = dask.compute(asked)
    for name in asked:
        xr.testing.assert_identical(spread[name], alone[name])

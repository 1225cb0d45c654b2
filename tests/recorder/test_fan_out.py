"""Requests over the workers of a Dask cluster: one store, the same as one worker makes it."""

import threading
from pathlib import Path

import dask
import numpy as np
import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster
from distributed.utils import get_mp_context
from tiny_pipelines import make_pipe

from attlas.recorder import Capture, record
from attlas.recorder.commands import record as command
from attlas.schemas import open_store, validate_store
from attlas.schemas.errors import InvalidValueError, StoreMismatchError, UnknownNameError

CAPTURE = Capture(kinds=("text", "self"))
REQUESTS = [
    {"prompt": text, "seed": seed, "num_inference_steps": 2}
    for seed, text in enumerate(["a cat", "a red dog", "blue", "dog"])
]


@pytest.fixture
def client():
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def runs(store):
    """Everything that a store holds of each run, by label."""
    held = {}
    for row, label in enumerate(store.run_ids):
        arrays = {
            name: array[row] for name, array in store.group.arrays() if array.metadata.dimension_names[0] == "run"
        }
        for leaf in store.leaves:
            node = store.group[leaf]
            arrays |= {
                f"{leaf}/{name}": array[row]
                for name, array in node.arrays()
                if array.metadata.dimension_names[0] == "run"
            }
        held[label] = arrays
    return held


def assert_same(one, other):
    one, other = runs(one), runs(other)
    assert one.keys() == other.keys()
    for label, arrays in one.items():
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, other[label][name], err_msg=f"{label} {name}")


def test_two_workers_fill_one_store_as_one_would(client, tmp_path):
    made = []

    def make():
        made.append(threading.get_ident())
        return make_pipe()

    alone = record(make_pipe(), tmp_path / "alone.zarr", REQUESTS, CAPTURE, progress=False)
    store = record(make, tmp_path / "shared.zarr", REQUESTS, CAPTURE, client=client, progress=False)
    assert store.complete.all()
    assert_same(store, alone)
    assert validate_store(store, deep=True) == []
    assert not Path(f"{tmp_path / 'shared.zarr'}.locks").exists()


def test_what_is_complete_is_not_drawn_again(client, tmp_path):
    path = tmp_path / "s.zarr"
    record(make_pipe(), path, REQUESTS[:2], CAPTURE, progress=False)
    # Tokens are columns, whose blocks hold many runs.
    files = [file for file in path.glob("*/*/*/c.[01].*") if not file.parent.name.startswith("token")]
    before = {file: file.stat().st_mtime_ns for file in files}
    assert before
    store = record(make_pipe, path, REQUESTS, CAPTURE, client=client, progress=False)
    assert store.complete.tolist() == [True] * 4
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_bad_requests_are_found_before_any_is_drawn(client, tmp_path):
    path = tmp_path / "s.zarr"
    with pytest.raises(UnknownNameError, match="unknown request key 'promt'.*'prompt'"):
        record(make_pipe, path, [*REQUESTS, {"promt": "a cat"}], CAPTURE, client=client, progress=False)
    assert not path.exists()
    with pytest.raises(InvalidValueError, match="two requests have the id 'x'"):
        record(make_pipe, path, [{**REQUESTS[0], "id": "x"}] * 2, CAPTURE, client=client, progress=False)
    with pytest.raises(InvalidValueError, match="there are no requests"):
        record(make_pipe, path, [], CAPTURE, client=client, progress=False)


def test_what_cannot_be_shared_is_said(client, tmp_path):
    with pytest.raises(InvalidValueError, match="a store in memory cannot be shared between workers"):
        record(make_pipe, None, REQUESTS, CAPTURE, client=client)
    with pytest.raises(InvalidValueError, match="the pipeline is made on each worker.*got StableDiffusionPipeline"):
        record(make_pipe(), tmp_path / "s.zarr", REQUESTS, CAPTURE, client=client)


def test_a_run_that_fails_leaves_the_others(client, tmp_path):
    path = tmp_path / "s.zarr"
    wrong = {**REQUESTS[0], "num_inference_steps": 3, "id": "long"}
    with pytest.raises(StoreMismatchError, match="calls: store has"):
        record(make_pipe, path, [*REQUESTS[:3], wrong], CAPTURE, client=client, progress=False)
    store = open_store(path)
    held = {label for label, done in zip(store.run_ids, store.complete, strict=True) if done}
    assert held <= {"0000", "0001", "0002"}
    record(make_pipe, path, REQUESTS, CAPTURE, client=client, progress=False)
    assert open_store(path).complete.sum() == 4


@pytest.fixture
def _forked():
    """Worker processes are forked from one that has imported what takes longest."""
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(["distributed", "attlas.recorder.demo.shapes.loading"])
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_forked")
def test_workers_in_processes_of_their_own(tmp_path):
    requests = [{"prompt": "a red disc", "seed": seed, "num_inference_steps": 2} for seed in range(3)]
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        store = record(
            "demo:shapes", tmp_path / "s.zarr", requests, Capture(kinds="text"), client=client, progress=False
        )
    assert store.complete.tolist() == [True] * 3
    assert validate_store(store, deep=True) == []


def test_the_command_draws_on_a_cluster(tmp_path):
    path = tmp_path / "s.zarr"
    flags = ["demo:shapes", str(path), "--prompt", "a red disc", "--steps", "2", "--kinds", "text", "--quiet"]
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as cluster:
        done = CliRunner().invoke(command, [*flags, "--cluster", cluster.scheduler_address])
    assert done.exit_code == 0, done.output
    assert open_store(path).complete.tolist() == [True]


def test_a_cluster_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("attlas.recorder.commands.CLUSTER_SECONDS", 0.5)
    flags = ["demo:shapes", str(tmp_path / "s.zarr"), "--prompt", "a red disc", "--quiet"]
    done = CliRunner().invoke(command, [*flags, "--cluster", "tcp://127.0.0.1:9"])
    assert isinstance(done.exception, InvalidValueError)
    assert "no Dask scheduler answers there" in str(done.exception)
    assert not (tmp_path / "s.zarr").exists()

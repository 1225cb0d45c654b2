"""Requests over the workers of a Dask cluster: one store, the same as one worker makes it."""

import gc
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import dask
import numpy as np
import pytest
from click.testing import CliRunner
from cluster_pipelines import CALLS, MADE, Dying, make_pipe, make_watched
from distributed import Client, LocalCluster
from distributed.utils import get_mp_context

from attlas.recorder import Capture, record, worker
from attlas.recorder.commands import record as command
from attlas.schemas import open_store, validate_store
from attlas.schemas.errors import InvalidValueError, ObservationError, StoreMismatchError, UnknownNameError

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
    alone = record(make_pipe(), tmp_path / "alone.zarr", REQUESTS, CAPTURE, progress=False)
    store = record(make_pipe, tmp_path / "shared.zarr", REQUESTS, CAPTURE, client=client, progress=False)
    assert store.complete.all()
    assert_same(store, alone)
    assert validate_store(store, deep=True) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["alone.zarr", "shared.zarr"]


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


def test_an_iterator_is_checked_as_it_goes(client, tmp_path):
    store = record(make_pipe, tmp_path / "s.zarr", iter(REQUESTS), CAPTURE, client=client, progress=False)
    assert store.complete.tolist() == [True] * 4
    twice = ({**REQUESTS[0], "id": "x"} for _ in range(2))
    with pytest.raises(InvalidValueError, match="two requests have the id 'x'"):
        record(make_pipe, tmp_path / "t.zarr", twice, CAPTURE, client=client, progress=False)


def test_workers_let_go_of_their_pipelines(client, tmp_path):
    for asked in (REQUESTS, [*REQUESTS, {"promt": "a cat"}]):
        MADE.clear()
        with suppress(UnknownNameError):
            record(make_watched, tmp_path / "s.zarr", asked, CAPTURE, client=client, progress=False)
        gc.collect()
        assert MADE
        assert [pipe() for pipe in MADE if pipe() is not None] == []
    assert worker._benches == {}


def test_a_pipeline_is_given_up_where_its_client_went_without_a_word(client, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "IDLE", 0)
    with monkeypatch.context() as patch:
        patch.setattr("attlas.recorder.fan_out._Workers.end", lambda self: None)
        record(make_pipe, tmp_path / "s.zarr", REQUESTS[:2], CAPTURE, client=client, progress=False)
    assert worker._benches
    record(make_pipe, tmp_path / "s.zarr", REQUESTS, CAPTURE, client=client, progress=False)
    assert worker._benches == {}


def test_few_tasks_are_with_the_scheduler(client, tmp_path):
    most = []
    with suppress(InvalidValueError):
        record(make_pipe, tmp_path / "s.zarr", look(client, most), CAPTURE, client=client, progress=False)
    assert max(most) <= 2 * 2 + 2


def look(client, most):
    """Requests, with a look at the scheduler as each is asked for."""
    for seed in range(12):
        most.append(len(client.cluster.scheduler.tasks))
        yield {"prompt": "a cat", "seed": seed, "num_inference_steps": 2}


def test_a_cluster_and_a_process_share_a_list(client, tmp_path):
    path = tmp_path / "s.zarr"
    CALLS.clear()
    requests = [{"prompt": "a cat", "seed": seed, "num_inference_steps": 2} for seed in range(8)]
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(record, make_watched(), path, requests, CAPTURE, progress=False)
        store = record(make_watched, path, requests, CAPTURE, client=client, progress=False)
        assert other.result().complete.sum() == 8
    assert store.complete.sum() == 8
    assert len(CALLS) == 8 * 2


def test_a_cluster_without_workers_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("attlas.recorder.fan_out.ALONE", 0.2)
    monkeypatch.setattr("attlas.recorder.fan_out.LOOK", 0.1)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
        pytest.raises(ObservationError, match=r"has had no worker for .*: start workers and record again"),
    ):
        record(make_pipe, tmp_path / "s.zarr", REQUESTS, CAPTURE, client=client, progress=False)


# Workers in processes of their own


@pytest.fixture
def processes():
    """A cluster of three processes, forked from one that has imported what takes longest."""
    preload = ["distributed", "cluster_pipelines", "attlas.recorder.jobs", "attlas.recorder.demo.shapes.loading"]
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(preload)
        with (
            LocalCluster(
                n_workers=3, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


MANY = [{"prompt": "a red cat", "seed": seed, "num_inference_steps": 2} for seed in range(12)]


@pytest.mark.slow
def test_workers_in_processes_of_their_own(processes, tmp_path):
    """And one command after the other, of other pipelines, by other clients."""
    alone = record(make_pipe(), tmp_path / "alone.zarr", MANY, CAPTURE, progress=False)
    for name, asked in (("s", MANY[:6]), ("s", MANY), ("t", MANY)):
        with Client(processes.cluster) as client:
            store = record(make_pipe, tmp_path / f"{name}.zarr", asked, CAPTURE, client=client, progress=False)
            assert store.complete.sum() == len(asked)
    requests = [{"prompt": "a red disc", "seed": seed, "num_inference_steps": 2} for seed in range(3)]
    path = tmp_path / "demo.zarr"
    demo = record("demo:shapes", path, requests, Capture(kinds="text"), client=processes, progress=False)
    assert demo.complete.tolist() == [True] * 3
    for name in ("s", "t"):
        assert_same(open_store(tmp_path / f"{name}.zarr"), alone)
        assert validate_store(tmp_path / f"{name}.zarr", deep=True) == []
    names = ["alone.zarr", "demo.zarr", "s.zarr", "t.zarr"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == names, "nothing is left beside them"


@pytest.mark.slow
def test_workers_that_die_are_replaced(processes, tmp_path):
    path = tmp_path / "s.zarr"
    store = record(Dying(tmp_path, 2), path, MANY, CAPTURE, client=processes, progress=False)
    assert (tmp_path / "death1").exists()
    assert store.complete.tolist() == [True] * 12
    assert_same(store, record(make_pipe(), tmp_path / "alone.zarr", MANY, CAPTURE, progress=False))
    assert validate_store(path, deep=True) == []
    assert not Path(f"{path}.recording").exists()


@pytest.mark.slow
def test_when_all_workers_die_it_is_said_and_the_same_command_goes_on(processes, tmp_path):
    path = tmp_path / "s.zarr"
    words = r"workers died one after the other over request '000[01]'.*record again"
    with pytest.raises(ObservationError, match=words):
        record(Dying(tmp_path, 20), path, MANY[:2], CAPTURE, client=processes, progress=False)
    processes.wait_for_workers(3, timeout=60)
    store = record(make_pipe, path, MANY[:2], CAPTURE, client=processes, progress=False)
    assert store.complete.tolist() == [True] * 2
    assert not Path(f"{path}.recording").exists()


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

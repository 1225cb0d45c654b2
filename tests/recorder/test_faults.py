"""What goes wrong around a recording: disks, kills, other stores. Complete runs stay, and resuming makes the rest."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import zarr
from tiny_pipelines import make_pipe

from attlas.recorder import Capture, Recorder, record
from attlas.recorder.sink import Sink
from attlas.schemas import Store, open_store, repair_store, validate_store
from attlas.schemas.errors import (
    InvalidValueError,
    ObservationError,
    SchemaVersionError,
    StoreExistsError,
    StoreMismatchError,
)

CAPTURE = Capture(kinds=("text", "self"))
REQUESTS = [{"prompt": "a red cat", "seed": seed, "num_inference_steps": 2} for seed in range(4)]


def everything(path):
    """Every array of a store by name, except when it was made."""
    group = zarr.open_group(path, mode="r")
    return {name: node[...] for name, node in group.members(max_depth=None) if isinstance(node, zarr.Array)}


def assert_equal_stores(path, other):
    one, two = everything(path), everything(other)
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name], err_msg=name)


def finished(path):
    """Runs that are never made again: in the run table, or noted as finished."""
    complete = set(np.flatnonzero(open_store(path).complete).tolist())
    return len(complete | {int(note.stem) for note in Path(f"{path}.recording/done").glob("*.json")})


CHILD = """
import os, resource, signal, sys, time
sys.path.insert(0, {folder!r})
from test_faults import finished
from tiny_pipelines import make_pipe
from attlas.recorder import Capture, record
from attlas.schemas.errors import ObservationError

capture = Capture(kinds=("text", "self"))
record(make_pipe(), {full!r}, {requests!r}[:1], capture, progress=False)
# No file may grow beyond 4 kB for a while, as on a disk that is full.
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, before[1]))
try:
    record(make_pipe(), {full!r}, {requests!r}, capture, progress=False)
except ObservationError as err:
    print(err, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, before)

def kill(pipe, step, timestep, tensors):
    if pipe.count == {after}:
        while finished({killed!r}) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    pipe.count += 1
    return tensors

class Killed(type(make_pipe())):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs, callback_on_step_end=kill)

pipe = make_pipe()
name = type(pipe).__name__
pipe.__class__ = Killed
Killed.__name__ = name
pipe.count = 0
record(pipe, {killed!r}, {requests!r}, capture, progress=False)
"""
"""A disk that is full, then a kill: one process for both, since it takes longest to start."""


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    """The process when it is dead, with the folder of what it left: ``full`` and ``killed``."""
    folder = tmp_path_factory.mktemp("child")
    # At the sixth of eight denoiser calls: two runs are complete, the third is at work.
    code = CHILD.format(
        folder=str(Path(__file__).parent),
        full=str(folder / "full"),
        killed=str(folder / "killed"),
        requests=REQUESTS,
        after=5,
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False), folder


def test_a_killed_recording_goes_on_where_it_stopped(child):
    done, tmp_path = child
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert finished(tmp_path / "killed") == 2
    kept = {name: values[:2] for name, values in everything(tmp_path / "killed").items() if name.endswith("attention")}
    pipe, drawn = make_pipe(), []
    pipe.unet.register_forward_hook(lambda *_: drawn.append(1))
    store = record(pipe, tmp_path / "killed", REQUESTS, CAPTURE, progress=False)
    assert store.complete.tolist() == [True] * 4
    assert len(drawn) == 2 * 2, "two runs of two calls"
    assert validate_store(tmp_path / "killed", deep=True) == []
    record(make_pipe(), tmp_path / "whole", REQUESTS, CAPTURE, progress=False)
    assert_equal_stores(tmp_path / "killed", tmp_path / "whole")
    after = everything(tmp_path / "killed")
    for name, values in kept.items():
        np.testing.assert_array_equal(after[name][: len(values)], values)
    assert not Path(f"{tmp_path / 'killed'}.recording").exists()


def test_the_same_command_again_does_nothing(pipe, tmp_path):
    record(pipe, tmp_path / "s", REQUESTS[:1], CAPTURE, progress=False)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("c/*") if path.is_file()}

    def fail(*args, **kwargs):
        raise AssertionError("the pipeline ran")

    pipe.unet.forward = fail
    store = record(pipe, tmp_path / "s", REQUESTS[:1], CAPTURE, progress=False)
    assert store.run_ids == ["0000"]
    assert {path: path.stat().st_mtime_ns for path in times} == times
    with pytest.raises(StoreExistsError, match="leave out resume=False"):
        record(pipe, tmp_path / "s", REQUESTS, CAPTURE, resume=False, progress=False)


def test_part_of_a_batch_is_resumed(pipe, tmp_path):
    request = {"prompt": ["a red cat", "a blue dog"], "seed": [1, 2], "num_inference_steps": 2}
    whole = record(pipe, tmp_path / "whole", [request], CAPTURE, progress=False)
    store = record(pipe, tmp_path / "s", [request], CAPTURE, progress=False)
    store.group["complete"][1] = False
    again = record(pipe, tmp_path / "s", [request], CAPTURE, progress=False)
    assert again.run_ids == whole.run_ids == ["0000-0", "0000-1"]
    assert_equal_stores(tmp_path / "s", tmp_path / "whole")


def test_the_same_id_with_another_request_is_refused_before_anything_runs(pipe, tmp_path):
    record(pipe, tmp_path / "s", REQUESTS[:1], CAPTURE, progress=False)
    with pytest.raises(StoreMismatchError, match="run '0000' of .* was recorded from another request"):
        record(pipe, tmp_path / "s", [{**REQUESTS[0], "prompt": "a dog"}], CAPTURE, progress=False)
    with pytest.raises(InvalidValueError, match="two requests have the id 'x'"):
        record(pipe, tmp_path / "t", [{**REQUESTS[0], "id": "x"}] * 2, CAPTURE, progress=False)
    with pytest.raises(InvalidValueError, match="there are no requests"):
        record(pipe, tmp_path / "t", [], CAPTURE, progress=False)
    assert not (tmp_path / "t").exists()


def test_two_recorders_add_to_one_store(tmp_path):
    pipes = [make_pipe(), make_pipe()]
    path = tmp_path / "s"

    def work(pipe, start):
        requests = [{**REQUESTS[0], "seed": seed, "id": f"r{seed}"} for seed in (start, start + 1)]
        record(pipe, path, requests, CAPTURE, progress=False)

    threads = [threading.Thread(target=work, args=(pipe, 2 * place)) for place, pipe in enumerate(pipes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = open_store(path)
    assert sorted(run for run in store.run_ids if run) == ["r0", "r1", "r2", "r3"]
    assert store.complete.sum() == 4
    assert validate_store(path, deep=True) == []


# A disk that fails


def test_a_disk_that_fails_in_a_run(pipe, tmp_path):
    path = tmp_path / "s"
    record(pipe, path, REQUESTS[:1], CAPTURE, progress=False)
    before = {name: values[0] for name, values in everything(path).items() if name.endswith("log_attention")}

    def break_the_disk(pipe, step, timestep, tensors):
        if step == 0:
            rec._sink.settle()
            (path / "text" / "8x8" / "g2r").rename(tmp_path / "aside")
            (path / "text" / "8x8" / "g2r").write_text("a file where a folder was")
        return tensors

    broken = {**REQUESTS[1], "id": "0001", "num_inference_steps": 2, "callback_on_step_end": break_the_disk}
    with Recorder(pipe, path, CAPTURE) as rec:
        with pytest.raises(ObservationError, match=r"writing run '0001' to .* failed: .*runs there are intact"):
            rec(**broken)
        (path / "text" / "8x8" / "g2r").unlink()
        (tmp_path / "aside").rename(path / "text" / "8x8" / "g2r")
    assert open_store(path).complete.tolist() == [True]
    after = everything(path)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name][0], values)


def test_a_store_that_vanishes(pipe, tmp_path):
    def vanish(pipe, step, timestep, tensors):
        if step == 1:
            rec._sink.settle()
            (tmp_path / "s").rename(tmp_path / "elsewhere")
        return tensors

    with (
        pytest.raises(ObservationError, match="vanished while run '0000' was recorded"),
        Recorder(pipe, tmp_path / "s", Capture(kinds="text", detail="summary")) as rec,
    ):
        rec(prompt="a cat", seed=0, num_inference_steps=3, callback_on_step_end=vanish)


def test_a_full_disk(child):
    done, tmp_path = child
    assert "writing a row for run '0001' to" in done.stdout, done.stderr
    assert "File too large" in done.stdout
    store = record(make_pipe(), tmp_path / "full", REQUESTS, CAPTURE, progress=False)
    assert store.complete.tolist() == [True] * 4
    assert validate_store(tmp_path / "full", deep=True) == []
    assert not Path(f"{tmp_path / 'full'}.recording").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; run the tests as another user")
def test_a_read_only_folder(pipe, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidValueError, match="cannot be written to"), Recorder(pipe, tmp_path / "s", CAPTURE):
        pytest.fail("entered")
    tmp_path.chmod(0o700)


# What is at the path already


def test_a_path_below_a_file(pipe, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InvalidValueError, match="file is no folder"), Recorder(pipe, tmp_path / "file" / "s"):
        pytest.fail("entered")


def test_what_can_only_be_read(pipe, tmp_path):
    words = r"can only be read; a recording needs a folder or an object store \(s3://"
    with pytest.raises(InvalidValueError, match=words), Recorder(pipe, "http://127.0.0.1:9/s.zarr"):
        pytest.fail("entered")


@pytest.mark.parametrize("what", ["file", "folder", "zarr"])
def test_something_else_at_the_path_is_left_alone(pipe, tmp_path, what):
    path = tmp_path / "s"
    if what == "file":
        path.write_text("mine")
    elif what == "folder":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    else:
        zarr.create_group(path, attributes={"mine": True})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreExistsError, match="not an attlas store"), Recorder(pipe, path):
        pytest.fail("entered")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_store_of_a_newer_attlas(pipe, tmp_path):
    record(pipe, tmp_path / "s", REQUESTS[:1], CAPTURE, progress=False)
    group = zarr.open_group(tmp_path / "s")
    group.attrs["attlas"] = {**group.attrs["attlas"], "schema": 99}
    with pytest.raises(SchemaVersionError, match="schema 99"), Recorder(pipe, tmp_path / "s", CAPTURE):
        pytest.fail("entered")


def test_a_store_of_another_model_or_capture(pipe, tmp_path):
    record(pipe, tmp_path / "s", REQUESTS[:1], CAPTURE, progress=False)
    with pytest.raises(StoreMismatchError, match="model_digest: store has"):
        record(make_pipe(1), tmp_path / "s", REQUESTS, CAPTURE, progress=False)
    with pytest.raises(StoreMismatchError, match="capture.kinds: store has") as caught:
        record(pipe, tmp_path / "s", REQUESTS, Capture(kinds="text", precision="small"), progress=False)
    assert "capture.precision: store has 'exact', got 'small'" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_inference_steps": 3}, r"calls: store has \(0, 1\), got \(0, 1, 2\)"),
        ({"guidance_scale": 1.0}, r"branches: store has \('uncond', 'cond'\), got \('cond',\)"),
        ({"height": 16, "width": 32}, r"picture size: store has \(16, 16\), got \(16, 32\)"),
    ],
)
def test_a_run_of_another_geometry(pipe, tmp_path, change, words):
    with Recorder(pipe, tmp_path / "s", CAPTURE) as rec:
        rec(**REQUESTS[0])
        with pytest.raises(StoreMismatchError, match=words):
            rec(**{**REQUESTS[1], **change})
        rec(**REQUESTS[1])
    assert rec.store.complete.tolist() == [True, True]
    assert not pipe.unet._forward_hooks


def test_a_mask_of_another_size_releases_the_run(pipe, tmp_path):
    with Recorder(pipe, tmp_path / "s", CAPTURE) as rec:
        with pytest.raises(InvalidValueError, match="annotation 'cat' is a mask of 4x4; its picture is 16x16"):
            rec(**REQUESTS[0], annotations={"cat": np.ones((4, 4), bool)})
        with pytest.raises(InvalidValueError, match="its picture is 16x32"):
            rec(**REQUESTS[0], height=16, width=32, annotations={"cat": np.ones((4, 4), bool)})
        rec(**REQUESTS[0], annotations={"cat": np.ones((16, 16), bool)})
    assert rec.store.complete.tolist()[-1]


# The queue


def test_a_full_queue_waits_and_nothing_is_lost():
    gate, seen = threading.Event(), []

    def work(number):
        gate.wait(5)
        seen.append(number)

    sink = Sink(limit=100)
    feeder = threading.Thread(target=lambda: [sink.put(partial(work, number), 40) for number in range(10)])
    feeder.start()
    feeder.join(0.2)
    assert feeder.is_alive(), "the third item does not fit until the first is done"
    assert sink._bytes <= 100
    gate.set()
    feeder.join(5)
    sink.drain()
    assert seen == list(range(10))
    sink.close()
    assert sink.stopped


def test_an_error_of_the_writer_reaches_who_waits_for_it():
    gate = threading.Event()

    def work():
        gate.wait(5)
        raise OSError("disk full")

    sink = Sink(limit=10)
    sink.put(work, 10)
    threading.Timer(0.1, gate.set).start()
    with pytest.raises(OSError, match="disk full"):
        sink.put(lambda: pytest.fail("done"), 10)  # waits for room, and is woken by the error
    for method in (sink.drain, sink.close):
        with pytest.raises(OSError, match="disk full"):
            method()
    sink.abort()


def test_an_item_larger_than_the_limit_passes_alone():
    seen = []
    sink = Sink(limit=10)
    for number in range(3):
        sink.put(partial(seen.append, number), 1000)
    sink.close()
    assert seen == [0, 1, 2]


def test_an_error_of_the_user_leaves_earlier_runs_to_be_written(pipe, tmp_path):
    def fail(*_):
        raise ValueError("mine")

    requests = [REQUESTS[0], {**REQUESTS[1], "callback_on_step_end": fail}]
    with pytest.raises(ValueError, match="mine"):
        record(pipe, tmp_path / "s", requests, CAPTURE, progress=False)
    assert open_store(tmp_path / "s").complete.tolist()[0]
    assert validate_store(tmp_path / "s", deep=True) == []


# Nothing unsaid


class Watched(Sink):
    """A writer that others can see."""

    made: ClassVar[list[Sink]] = []

    def __init__(self, limit):
        super().__init__(limit)
        self.made.append(self)


def wait_for_the_end():
    """Wait until the newest writer is dead."""
    deadline = time.monotonic() + 20
    while not Watched.made[-1].stopped:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def _broken_end(monkeypatch):
    """The first run cannot be completed: the writer dies after all that the pipeline's thread puts to it."""
    commit, calls = Store.complete_runs, []

    def fail(self, rows, *, settle=True):
        calls.append(rows)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        commit(self, rows, settle=settle)

    monkeypatch.setattr(Store, "complete_runs", fail)
    monkeypatch.setattr("attlas.recorder.recording.Sink", Watched)
    Watched.made.clear()


@pytest.mark.usefixtures("_broken_end")
def test_an_error_of_the_writer_between_two_runs_is_raised(pipe, tmp_path):
    def asked():
        yield REQUESTS[0]
        wait_for_the_end()
        yield REQUESTS[1]

    with pytest.raises(ObservationError, match="writing run '0000' to .* failed: .*No space left"):
        record(pipe, tmp_path / "s", asked(), CAPTURE, progress=False)
    assert not (tmp_path / "s").exists(), "it had no run"
    store = record(pipe, tmp_path / "s", REQUESTS[:2], CAPTURE, progress=False)
    assert store.complete.tolist() == [True] * 2


@pytest.mark.usefixtures("_broken_end")
def test_an_error_of_the_writer_at_the_end_is_raised(pipe, tmp_path):
    with pytest.raises(ObservationError, match="writing run '0000' to .* failed"):
        record(pipe, tmp_path / "s", REQUESTS[:1], CAPTURE, progress=False)


@pytest.mark.usefixtures("_broken_end")
def test_an_error_of_the_writer_is_raised_after_one_of_the_user(pipe, tmp_path):
    """The second run fails by itself, when the first one's writer is dead: whoever goes on hears of that, too."""

    def fail(*_):
        wait_for_the_end()
        raise ValueError("mine")

    with Recorder(pipe, tmp_path / "s", CAPTURE) as rec:
        first, second = (rec.prepare(request, f"{place:04d}") for place, request in enumerate(REQUESTS[:2]))
        rec.run(first, first.ids, wait=False)
        broken = rec.prepare({**REQUESTS[1], "callback_on_step_end": fail}, "0001")
        with pytest.raises(ValueError, match="mine"):
            rec.run(broken, broken.ids)
        with pytest.raises(ObservationError, match="writing run '0000' to .* failed"):
            rec.run(second, second.ids)
        rec.run(second, second.ids)
    assert [run for run in open_store(tmp_path / "s").run_ids if run] == ["0001"]


@pytest.mark.usefixtures("_broken_end")
def test_an_error_of_the_writer_is_told_beside_one_of_the_user(pipe, tmp_path):
    def leave():
        with Recorder(pipe, tmp_path / "s", CAPTURE) as rec:
            first = rec.prepare(REQUESTS[0], "0000")
            rec.run(first, first.ids, wait=False)
            wait_for_the_end()
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        leave()
    (note,) = caught.value.__notes__
    assert "an earlier run was not stored, either: writing run '0000' to" in note


def test_success_is_not_said_with_less_than_was_asked(pipe, tmp_path, monkeypatch):
    """Whatever the cause: here nobody tells that a run is not completed."""
    commit = Store.complete_runs

    def forget(self, rows, *, settle=True):
        if rows == [0]:
            self.release(0)
        else:
            commit(self, rows, settle=settle)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "complete_runs", forget)
        with pytest.raises(ObservationError, match=r"1 of 2 runs are not complete in .* \(0000\), though no recorder"):
            record(pipe, tmp_path / "s", REQUESTS[:2], CAPTURE, progress=False)
    assert record(pipe, tmp_path / "s", REQUESTS[:2], CAPTURE, progress=False).complete.all()


@pytest.mark.parametrize("before", [True, False])
def test_a_file_that_goes_is_missed_at_the_end(pipe, tmp_path, before):
    def asked():
        yield REQUESTS[0]
        while not finished(tmp_path / "s"):
            time.sleep(0.01)
        (tmp_path / "s/text/8x8/r2g/c.0.0.0.0.0.0").unlink()
        yield REQUESTS[1]

    if before:
        record(pipe, tmp_path / "s", REQUESTS[:1], CAPTURE, progress=False)
    words = "1 files of complete runs are missing in .*text/8x8/r2g/c.0.0.0.0.0.0.*`attlas repair`"
    with pytest.raises(ObservationError, match=words):
        record(pipe, tmp_path / "s", asked(), CAPTURE, progress=False)
    repair_store(tmp_path / "s")
    assert record(pipe, tmp_path / "s", REQUESTS[:2], CAPTURE, progress=False).complete.all()
    assert validate_store(tmp_path / "s", deep=True) == []


def test_a_slow_disk_changes_nothing(pipe, monkeypatch, tmp_path):
    record(pipe, tmp_path / "fast", REQUESTS[:1], CAPTURE, progress=False)
    monkeypatch.setattr("attlas.recorder.recording.QUEUE_BYTES", 1)
    record(pipe, tmp_path / "slow", REQUESTS[:1], CAPTURE, progress=False)
    assert_equal_stores(tmp_path / "fast", tmp_path / "slow")

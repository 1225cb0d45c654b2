"""One list of requests, many recorders: each run is drawn once, the dead are replaced, and all return in the end."""

import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sharers import CAPTURE, Counting, requests, share

from attlas.recorder import Recorder, record
from attlas.recorder.first_run import FirstRun
from attlas.schemas import open_store, validate_store
from attlas.schemas.errors import RunTakenError, StoreMismatchError
from attlas.schemas.storage import open_storage

STEPS = 2


def by_label(store):
    """Means and pictures of each run."""
    names = ("text/8x8/g2r", "text/4x4/r2g", "generated_image", "timestep", "seed")
    return {run: [store.group[name][row] for name in names] for row, run in enumerate(store.run_ids)}


def assert_same_runs(store, other):
    one, two = by_label(store), by_label(other)
    assert one.keys() == two.keys()
    for run, arrays in one.items():
        for mine, theirs in zip(arrays, two[run], strict=True):
            np.testing.assert_array_equal(mine, theirs, err_msg=run)


def in_threads(*works):
    """Call each in a thread; return what they return, or raise what one raised."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [task.result() for task in [pool.submit(work) for work in works]]


def nothing_left(path):
    return [entry.name for entry in path.parent.iterdir() if entry.name.startswith(path.name)] == [path.name]


@pytest.mark.parametrize("listed", [True, False])
def test_threads_share_a_list_for_a_new_store(tmp_path, listed):
    path = tmp_path / "s.zarr"
    drawers = [Counting() for _ in range(3)]

    def work(drawer):
        asked = requests(7) if listed else (request for request in requests(7))
        return record(drawer.pipe, path, asked, CAPTURE, progress=False)

    stores = in_threads(*(lambda drawer=drawer: work(drawer) for drawer in drawers))
    assert sum(drawer.calls for drawer in drawers) == 7 * STEPS
    for store in stores:
        assert store.complete.sum() == 7
    alone = record(Counting().pipe, tmp_path / "alone.zarr", requests(7), CAPTURE, progress=False)
    assert_same_runs(open_store(path), alone)
    assert validate_store(path, deep=True) == []
    assert nothing_left(path)


@pytest.fixture(scope="module")
def processes():
    """Processes that are forked from one which has imported what takes long."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sharers", "attlas.recorder.jobs"])
    return context


@pytest.mark.slow
def test_four_processes_share_a_list_and_one_dies(processes, tmp_path):
    path = tmp_path / "s.zarr"
    told = processes.Queue()
    # The third is killed in the middle of the first run that it gets.
    started = [
        processes.Process(target=share, args=(str(path), 12, told, 1 if place == 2 else None)) for place in range(4)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(200)
    assert [process.exitcode for process in started] == [0, 0, -9, 0]
    ended = [told.get(timeout=10) for _ in range(3)]
    assert [complete for _, complete in ended] == [12] * 3
    # What the dead one began is drawn once more, and nothing else.
    assert sum(calls for calls, _ in ended) == 12 * STEPS
    alone = record(Counting().pipe, tmp_path / "alone.zarr", requests(12), CAPTURE, progress=False)
    assert_same_runs(open_store(path), alone)
    assert validate_store(path, deep=True) == []
    assert nothing_left(path)


def test_lists_that_differ_meet_in_one_store(tmp_path):
    path = tmp_path / "s.zarr"
    one, two = Counting(), Counting()
    asked = [{**request, "id": f"r{place}"} for place, request in enumerate(requests(6))]
    in_threads(
        lambda: record(one.pipe, path, asked[:4], CAPTURE, progress=False),
        lambda: record(two.pipe, path, asked[2:], CAPTURE, progress=False),
    )
    assert one.calls + two.calls == 6 * STEPS
    store = open_store(path)
    assert sorted(store.run_ids) == [f"r{place}" for place in range(6)]
    assert store.complete.all()


def test_waits_for_a_run_that_another_is_at_work_on(tmp_path, capsys):
    path = tmp_path / "s.zarr"
    record(Counting().pipe, path, requests(1), CAPTURE, progress=False)
    text = Recorder(Counting().pipe, path, CAPTURE)
    with text:
        claimed = text.prepare(requests(2)[1], "0001")
        assert text.claim([claimed]) == {}
        drawer = Counting()
        waiting = threading.Thread(target=record, args=(drawer.pipe, path, requests(2), CAPTURE))
        waiting.start()
        while "waiting for other recorders (1 request)" not in capsys.readouterr().err:
            assert waiting.is_alive()
            time.sleep(0.05)
        text.run(claimed, claimed.ids)
        waiting.join(60)
        assert not waiting.is_alive()
    assert drawer.calls == 0
    assert open_store(path).complete.tolist() == [True] * 2
    assert nothing_left(path)


def test_takes_over_what_another_gives_up(tmp_path):
    path = tmp_path / "s.zarr"
    record(Counting().pipe, path, requests(1), CAPTURE, progress=False)
    drawer = Counting()
    quiet = {"progress": False}
    waiting = threading.Thread(target=record, args=(drawer.pipe, path, requests(2), CAPTURE), kwargs=quiet)
    with Recorder(Counting().pipe, path, CAPTURE) as other:
        other.claim([other.prepare(requests(2)[1], "0001")])
        waiting.start()
        time.sleep(0.5)
        assert waiting.is_alive()
    waiting.join(60)
    assert drawer.calls == STEPS
    assert open_store(path).complete.tolist() == [True] * 2


def test_another_request_of_the_same_id_is_an_error_even_while_it_is_drawn(tmp_path):
    path = tmp_path / "s.zarr"
    record(Counting().pipe, path, requests(1), CAPTURE, progress=False)
    with Recorder(Counting().pipe, path, CAPTURE) as other:
        other.claim([other.prepare({**requests(1)[0], "prompt": "a blue dog"}, "0001")])
        drawer = Counting()
        with pytest.raises(RunTakenError, match="being recorded by another recorder, from another request") as caught:
            record(drawer.pipe, path, requests(2), CAPTURE, progress=False)
        assert caught.value.why == "another request"
        assert drawer.calls == 0


def test_by_hand_a_taken_id_is_an_error_and_a_number_the_next_that_is_free(tmp_path):
    path = tmp_path / "s.zarr"
    mine, other = Counting(), Counting()
    with Recorder(mine.pipe, path, CAPTURE) as rec:
        rec(**requests(1)[0])
        with Recorder(other.pipe, path, CAPTURE) as second:
            claimed = second.prepare(requests(1)[0], "0001")
            second.claim([claimed])
            before = mine.calls
            with pytest.raises(RunTakenError, match="run '0001' of .* is being recorded by another recorder"):
                rec(**requests(1)[0], id="0001")
            with pytest.raises(RunTakenError, match="run '0000' of .* is complete; choose another id"):
                rec(**requests(1)[0], id="0000")
            with pytest.raises(StoreMismatchError, match="run '0000' of .* was recorded from another request"):
                rec(**requests(2)[1], id="0000")
            assert mine.calls == before
            rec(**requests(1)[0])
            rec(**requests(1)[0])
            second.run(claimed, claimed.ids)
    store = open_store(path)
    assert sorted(store.run_ids) == ["0000", "0001", "0002", "0003"]
    assert store.complete.all()


# The first run of a new store


def test_one_draws_the_first_run_and_the_others_wait(tmp_path):
    storage = open_storage(tmp_path / "s.zarr")
    first = FirstRun.get(storage, lambda: pytest.fail("nobody is there to wait for"))
    looks, other = [], []
    thread = threading.Thread(target=lambda: other.append(FirstRun.get(storage, lambda: looks.append(1))))
    thread.start()
    while len(looks) < 2:
        time.sleep(0.01)
    assert thread.is_alive()
    # Nothing came of it.
    first.end()
    thread.join(10)
    assert other[0] is not None
    other[0].end()
    assert list(tmp_path.iterdir()) == []


def test_who_waits_for_a_first_run_that_fails_draws_it(tmp_path):
    path = tmp_path / "s.zarr"
    begun, drawer = threading.Event(), Counting()

    def stop(*_):
        begun.set()
        time.sleep(0.5)
        raise ValueError("mine")

    broken = Counting()
    broken.pipe.unet.register_forward_pre_hook(stop)

    def first():
        with pytest.raises(ValueError, match="mine"):
            record(broken.pipe, path, requests(2), CAPTURE, progress=False)

    def second():
        assert begun.wait(20)
        record(drawer.pipe, path, requests(2), CAPTURE, progress=False)

    in_threads(first, second)
    assert drawer.calls == 2 * STEPS
    assert open_store(path).complete.tolist() == [True] * 2
    assert nothing_left(path)


def test_a_recorder_that_is_too_late_for_the_first_run_draws_the_next(tmp_path, monkeypatch):
    """The store may come to be just when another looks for it, which then claims what the first is drawing."""
    path = tmp_path / "s.zarr"
    drawers = [Counting(), Counting()]
    monkeypatch.setattr(FirstRun, "get", classmethod(lambda cls, storage, waiting: cls(storage)))
    in_threads(*(lambda d=d: record(d.pipe, path, requests(4), CAPTURE, progress=False) for d in drawers))
    assert open_store(path).complete.tolist() == [True] * 4
    # One call of a run that another has is the price.
    assert sum(drawer.calls for drawer in drawers) <= 4 * STEPS + 1
    assert nothing_left(path)

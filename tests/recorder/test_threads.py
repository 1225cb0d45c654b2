"""Threads, errors and two recorders: whose record is whose, and that nothing is left behind."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from fidelity import assert_as_found, processors
from test_attachment import REQUEST, TEXT, assert_recorded, in_callback, middle, observe
from tiny_pipelines import make_pipe

from attlas.recorder import Recorder
from attlas.schemas.errors import ObservationError


def writers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("attlas-writer")]


@pytest.mark.parametrize("pool", [False, True])
def test_a_recording_in_another_thread(pipe, pool):
    images, kernels = observe(pipe)
    made = []

    def work():
        with Recorder(pipe, None, TEXT) as rec:
            made.append(rec(**REQUEST).images)
        made.append(rec.store)

    if pool:
        with ThreadPoolExecutor(1) as workers:
            workers.submit(work).result()
    else:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    np.testing.assert_array_equal(made[0], images)
    assert_recorded(made[1], 0, kernels)
    assert writers() == []


def test_a_recorder_entered_in_one_thread_and_called_in_another(pipe):
    _, kernels = observe(pipe)
    with Recorder(pipe, None, TEXT) as rec, ThreadPoolExecutor(1) as workers:
        workers.submit(lambda: rec(**REQUEST)).result()
    assert_recorded(rec.store, 0, kernels)


def test_two_pipelines_in_two_threads(pipe):
    other = make_pipe(seed=1)
    plain = [observe(each) for each in (pipe, other)]
    start = threading.Barrier(2)

    def work(each):
        with Recorder(each, None, TEXT) as rec:
            start.wait()
            for _ in range(3):
                images = rec(**REQUEST).images
        return images, rec.store

    with ThreadPoolExecutor(2) as workers:
        found = list(workers.map(work, (pipe, other)))
    for (images, kernels), (recorded, store) in zip(plain, found, strict=True):
        np.testing.assert_array_equal(recorded, images)
        for run in range(3):
            assert_recorded(store, run, kernels)
    assert writers() == []


def test_a_stranger_in_another_thread_is_turned_away(pipe):
    """The recorded run goes on as if nothing had been; the other call is told why it cannot be made now."""
    images, kernels = observe(pipe)
    caught = []

    def stranger(pipe):
        def call():
            with pytest.raises(ObservationError, match="was called in another thread than the one that records it"):
                pipe.unet(torch.zeros(2, 4, 8, 8), 1, encoder_hidden_states=torch.zeros(2, 12, 16))
            caught.append(True)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    with Recorder(pipe, None, TEXT) as rec:
        recorded = rec(**REQUEST, **in_callback(stranger)).images
    assert caught == [True]
    np.testing.assert_array_equal(recorded, images)
    assert_recorded(rec.store, 0, kernels)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["callback", "module"])
def test_nothing_is_left_behind_after_an_error(error, where):
    pipe = make_pipe()
    before = {name: id(part) for name, part in processors(pipe.unet).items()}

    def fail(*_):
        raise error("mine")

    handle = middle(pipe).to_k.register_forward_hook(fail) if where == "module" else None
    given = in_callback(fail) if where == "callback" else {}
    tensors = []
    seen = middle(pipe).to_q.register_forward_hook(lambda _m, _a, output: tensors.append(weakref.ref(output)))
    with pytest.raises(error, match="mine"), Recorder(pipe, None, TEXT) as rec:
        rec(**REQUEST, **given)
    if handle is not None:
        handle.remove()
    seen.remove()
    assert_as_found(pipe.unet, before)
    assert writers() == []
    with Recorder(pipe, None, TEXT) as again:
        again(**REQUEST)
    model, whole = weakref.ref(pipe.unet), weakref.ref(pipe)
    del pipe, handle, fail, given, seen
    gc.collect()
    assert (model(), whole()) == (None, None)
    assert tensors
    assert all(tensor() is None for tensor in tensors)
    assert again.store.complete.all()
    assert rec is not None


def test_recorders_of_two_pipelines_that_share_a_denoiser_are_refused(pipe):
    other = make_pipe(unet=pipe.unet)
    with (
        Recorder(pipe, None, TEXT) as rec,
        pytest.raises(ObservationError, match="is being recorded already"),
        Recorder(other, None, TEXT),
    ):
        pytest.fail("entered")
    third = make_pipe(seed=1)
    with Recorder(pipe, None, TEXT) as rec, Recorder(third, None, TEXT) as busy:
        third.unet = pipe.unet
        with pytest.raises(ObservationError, match="that StableDiffusionPipeline now has is being recorded already"):
            busy(**REQUEST)
        rec(**REQUEST)
    assert rec.store.complete.all()

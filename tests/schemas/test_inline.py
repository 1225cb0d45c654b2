"""Arrays written in the thread that asks, with zarr's own result."""

import asyncio
import gc
import threading
import weakref

import numpy as np
import pytest
import zarr

from attlas.schemas import inline
from attlas.schemas.inline import write_inline

VALUES = np.arange(24.0).reshape(1, 4, 6)
REGION = (slice(1, 2), slice(0, 4), slice(0, 6))


def array(path):
    return zarr.create_array(path, shape=(3, 4, 6), chunks=(1, 2, 6), shards=(1, 4, 6), dtype="f8", fill_value=np.nan)


def files(path):
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_the_files_are_those_that_zarr_writes(tmp_path):
    write_inline(array(tmp_path / "inline"), REGION, VALUES)
    array(tmp_path / "plain")[REGION] = VALUES
    assert files(tmp_path / "inline") == files(tmp_path / "plain")


def test_no_thread_is_started(tmp_path):
    made = array(tmp_path / "s")
    before = set(threading.enumerate())
    write_inline(made, REGION, VALUES)
    assert set(threading.enumerate()) <= before


def test_inside_a_running_event_loop_it_is_written_too(tmp_path):
    made = array(tmp_path / "s")

    async def write():
        write_inline(made, REGION, VALUES)

    asyncio.run(write())
    np.testing.assert_array_equal(made[1:2], VALUES)


def test_an_error_of_the_disk_is_raised(tmp_path):
    made = array(tmp_path / "s")
    (tmp_path / "s" / "c").write_text("a file where a folder is needed")
    with pytest.raises(OSError, match="c/1"):
        write_inline(made, REGION, VALUES)


def test_after_an_error_nothing_is_written_later(tmp_path):
    made = zarr.create_array(tmp_path / "s", shape=(40, 2), chunks=(1, 2), dtype="f8", fill_value=np.nan)
    (tmp_path / "s" / "c").mkdir()
    (tmp_path / "s" / "c" / "0").write_text("a file where a folder is needed")
    with pytest.raises(OSError, match="c/0"):
        write_inline(made, (slice(0, 40), slice(0, 2)), np.ones((40, 2)))
    left = set(files(tmp_path / "s"))
    write_inline(array(tmp_path / "other"), REGION, VALUES)
    assert set(files(tmp_path / "s")) == left


def test_a_thread_that_ends_leaves_nothing_open(tmp_path):
    made = array(tmp_path / "s")
    loops = []

    def write():
        write_inline(made, REGION, VALUES)
        loops.append(weakref.ref(inline._own.here._loop))

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    del thread
    gc.collect()
    assert loops[0]() is None
    np.testing.assert_array_equal(made[1:2], VALUES)

"""Arrays written in the thread that asks, with zarr's own result."""

import asyncio
import threading

import numpy as np
import pytest
import zarr

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

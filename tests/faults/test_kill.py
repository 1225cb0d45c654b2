"""kill -9 while recording: finished runs are kept, the rest is made, the store equals an undisturbed one."""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from same_process import attlas

from attlas.schemas import open_store, validate_store
from attlas.schemas.errors import AttlasError
from attlas.schemas.variables import LEAF_VARIABLES

pytestmark = pytest.mark.slow

SAMPLES = 4


def arguments(path):
    asked = ["--samples", str(SAMPLES), "--steps", "10", "--kinds", "image,self", "--quiet"]
    return ["record", "demo:tryon", str(path), *asked]


def finished(path):
    """Number of complete runs, 0 before the store is there."""
    try:
        return int(open_store(path).complete.sum())
    except AttlasError:
        return 0


OWN = {"generated_image", *(name for name, variable in LEAF_VARIABLES.items() if variable.role == "data")}
"""Arrays that have each run in files of its own."""


def files_of_run(path, row):
    """Every file that belongs to one run alone, by what is in it."""
    files = [file for name in OWN for file in path.rglob(f"{name}/c.{row}.*")]
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_killed_recording_goes_on_where_it_stopped(tmp_path):
    whole, broken = tmp_path / "whole.zarr", tmp_path / "broken.zarr"
    with subprocess.Popen([Path(sys.executable).parent / "attlas", *arguments(broken)]) as process:
        try:
            deadline = time.monotonic() + 200
            while finished(broken) < 1:
                assert process.poll() is None, "the recording ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(0.1)
        finally:
            process.send_signal(signal.SIGKILL)
    done = finished(broken)
    assert 1 <= done < SAMPLES
    kept = files_of_run(broken, 0)
    assert kept
    stamps = {name: (broken / name).stat().st_mtime_ns for name in kept}

    attlas(arguments(broken), tmp_path)
    assert files_of_run(broken, 0) == kept
    assert {name: (broken / name).stat().st_mtime_ns for name in kept} == stamps
    assert sorted(file.name for file in tmp_path.iterdir()) == ["broken.zarr"]

    attlas(arguments(whole), tmp_path)
    assert validate_store(broken, deep=True) == []
    one, two = open_store(whole), open_store(broken)
    assert one.complete.tolist() == two.complete.tolist() == [True] * SAMPLES
    names = {name for name, node in one.group.members(max_depth=None) if isinstance(node, zarr.Array)}
    assert names == {name for name, node in two.group.members(max_depth=None) if isinstance(node, zarr.Array)}
    for name in names:
        np.testing.assert_array_equal(one.group[name][...], two.group[name][...], err_msg=name)

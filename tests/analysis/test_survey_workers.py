"""Workers of a survey: their memory, how many blocks they get, and what reaches the caller."""

import os
import subprocess
import sys

import pytest
import xarray as xr

from attlas.analysis import open_trace, survey
from attlas.analysis.surveys.job import Job
from attlas.analysis.surveys.labels import read_labels
from attlas.analysis.surveys.sources import read_sources
from attlas.analysis.surveys.specs import read_specs
from attlas.analysis.surveys.workers import local_workers
from attlas.schemas.errors import InvalidValueError

FAULTS = """
import contextlib, resource, threading
import numpy as np
from attlas.analysis.surveys.memory import kept_at_hand

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

found = [faults(50)]
with kept_at_hand():
    with kept_at_hand():
        faults(5)
    found.append(faults(50))
    held = [np.ones(2**20, np.uint8) for _ in range(64)]
    full = resident()
    del held
    found.append(full - resident())
found += [full - resident(), faults(50)]
print(*found)
"""


@pytest.fixture
def path(tools, tmp_path):
    leaf = tools.leaf_of("image", (2, 2), key_grid=(2, 2))
    tools.make_store((leaf,), path=tmp_path / "a.zarr", runs=7, annotations=lambda row: {"quality": float(row)})
    return tmp_path / "a.zarr"


def measured(environment):
    command = [sys.executable, "-c", FAULTS]
    made = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return [int(number) for number in made.split()]


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="the C library is not glibc")
def test_freed_memory_is_kept_within_a_block_and_given_back_after_it():
    # 1 MiB is 256 pages of 4 KiB; numpy asks for huge pages from 4 MiB on.
    outside, inside, kept, given_back, after = measured({**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"})
    assert inside < outside / 10
    assert after > outside / 2
    assert kept < 8 * 2**20  # of 64 MiB that were freed
    assert given_back > 56 * 2**20


@pytest.mark.parametrize(
    ("runs", "size", "threads", "expected"),
    [
        (7, 3, 0, [3, 3, 1]),
        (7, 3, 1, [3, 3, 1]),
        (7, 3, 2, [1, 1, 1, 1, 1, 1, 1]),
        (21, 3, 2, [3, 3, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1]),
        (40, 16, 2, [10, 7, 5, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_the_last_blocks_of_several_workers_are_smaller(tools, runs, size, threads, expected):
    store, _ = tools.make_store((tools.leaf_of("text", (2, 2), keys=8),), runs=1)
    sources = read_sources(open_trace(store).isel([0] * runs), None, allow_models=False)
    specs = read_specs(["annotation:quality"])
    job = Job(sources, read_labels(None, sources), specs, (), (), (), None, cache=False)
    places = [own for _, own in job._places(size, threads)]
    assert [len(own) for own in places] == expected
    assert sum(places, ()) == tuple(range(runs))


@pytest.mark.slow
def test_workers_give_what_one_process_gives_and_tell_what_fails(path):
    def broken(trace):
        raise InvalidValueError(f"no number for {trace.run_ids[0]}")

    asked = {"statistics": "annotation:quality", "maps": ("ulam", {"direction": "r2g"})}
    options = {"cache": False, "progress": False}
    one = survey(path, **asked, **options)
    with local_workers(2) as client:
        two = survey(path, **asked, block=3, client=client, **options)
        with pytest.raises(InvalidValueError, match="no number for run"):
            survey(path, broken, client=client, **options)
        again = survey(path, **asked, client=client, **options)
    for own in (two, again):
        xr.testing.assert_allclose(own.dataset.drop_attrs(), one.dataset.drop_attrs(), rtol=1e-12)
        assert own.partial.rows == one.partial.rows


def test_a_survey_needs_a_worker():
    with pytest.raises(InvalidValueError, match="0 workers; at least 1 is needed"), local_workers(0):
        pass

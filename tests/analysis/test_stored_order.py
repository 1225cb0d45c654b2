"""Arrays in the order in which they are compressed give the numbers that zarr gives."""

import itertools
import pickle

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec
from zarr.storage import MemoryStore

from attlas.analysis.stored_order import StoredOrder


def array(shape, chunk, shards, order, separator="."):
    made = zarr.create_array(
        MemoryStore(), shape=shape, chunks=chunk, shards=shards, dtype="f2", fill_value=np.nan,
        filters=[TransposeCodec(order=order)] if order else [], compressors=[BloscCodec(), Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": separator},
    )  # fmt: skip
    made[...] = np.random.default_rng(0).normal(size=shape)
    return made


@st.composite
def arrays(draw):
    dims = draw(st.integers(2, 5))
    chunk = draw(st.tuples(*[st.integers(1, 3)] * dims))
    per_shard = draw(st.tuples(*[st.integers(1, 3)] * dims))
    shape = tuple(draw(st.integers(1, 2 * a * b)) for a, b in zip(chunk, per_shard, strict=True))
    shards = tuple(a * b for a, b in zip(chunk, per_shard, strict=True))
    order = draw(st.permutations(range(dims)))
    made = array(shape, chunk, shards if draw(st.booleans()) else None, tuple(order), draw(st.sampled_from("./")))
    cuts = [draw(st.slices(length).filter(lambda cut: cut.step in (None, 1))) for length in shape]
    return made, tuple(cuts[: draw(st.integers(0, dims))])


@settings(max_examples=60, deadline=None)
@given(arrays())
def test_any_layout_and_selection(case):
    made, cuts = case
    np.testing.assert_array_equal(StoredOrder(made)[cuts], made[cuts])


def in_memory(values):
    """Axes longer than 1, from the farthest neighbours to the nearest."""
    axes = [axis for axis in range(values.ndim) if values.shape[axis] > 1]
    return sorted(axes, key=lambda axis: -values.strides[axis])


def test_neighbours_in_memory_are_those_of_the_file():
    made = array((2, 4, 3, 5), (1, 4, 3, 5), None, (0, 3, 2, 1))
    values = StoredOrder(made)[(slice(0, 1),)]
    assert in_memory(values) == [3, 2, 1]
    assert values[0].transpose(2, 1, 0).flags.c_contiguous


def test_an_axis_of_single_numbers_stands_in_front():
    """Chunks of a shard are found by their number, which counts along t before layers."""
    made = array((1, 4, 2, 6, 5), (1, 1, 1, 6, 5), (1, 2, 2, 6, 5), (0, 2, 4, 3, 1))
    values = StoredOrder(made)[(slice(0, 1),)]
    assert in_memory(values) == [1, 2, 4, 3]
    np.testing.assert_array_equal(values, made[...])


def test_a_shard_that_counts_its_chunks_otherwise_is_read_as_zarr_does():
    made = array((1, 4, 2, 6), (1, 2, 1, 6), (1, 4, 2, 6), (0, 2, 3, 1))
    values = StoredOrder(made)[()]
    assert in_memory(values) == [1, 2, 3]
    np.testing.assert_array_equal(values, made[...])


def test_nothing_is_turned_without_the_codec():
    made = array((3, 4), (3, 2), None, ())
    np.testing.assert_array_equal(StoredOrder(made)[(slice(1, 3),)], made[1:3])


def test_damage_and_absent_chunks_are_seen_as_zarr_sees_them():
    made = array((2, 3, 4), (1, 3, 4), None, (0, 2, 1))
    files = made.store_path.store._store_dict
    name = next(key for key in files if key.endswith("c.1.0.0"))
    body = bytearray(files[name].to_bytes())
    body[len(body) // 2] ^= 1
    files[name] = type(files[name]).from_bytes(bytes(body))
    stored = StoredOrder(made)
    np.testing.assert_array_equal(stored[(slice(0, 1),)], made[0:1])
    with pytest.raises(ValueError, match="checksum"):
        stored[(slice(1, 2),)]
    del files[name]
    assert np.isnan(stored[(slice(1, 2),)]).all()


def test_files_are_found_whatever_the_number_of_chunks():
    made = array((4, 6, 4), (1, 2, 4), (1, 2, 4), (0, 2, 1))
    stored = StoredOrder(made)
    for run, part in itertools.product(range(4), range(3)):
        cut = (slice(run, run + 1), slice(2 * part, 2 * part + 2))
        np.testing.assert_array_equal(stored[cut], made[cut])


def test_it_travels_to_another_process(tmp_path):
    made = array((2, 3, 4), (1, 3, 4), (1, 3, 4), (0, 2, 1))
    zarr.create_array(tmp_path / "a", data=made[...], chunks=(1, 3, 4), filters=[TransposeCodec(order=(0, 2, 1))])
    there = pickle.loads(pickle.dumps(StoredOrder(zarr.open_array(tmp_path / "a", mode="r"))))  # noqa: S301 - its own bytes
    np.testing.assert_array_equal(there[(slice(1, 2),)], made[1:2])
    assert in_memory(there[(slice(1, 2),)]) == [2, 1]

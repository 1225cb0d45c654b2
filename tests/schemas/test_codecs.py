"""Rounding keeps what it promises, and every chunk carries a checksum."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attlas.schemas import round_mantissa, simulate_store
from attlas.schemas.codecs import KEEP_BITS
from attlas.schemas.errors import CorruptDataError, UnknownNameError


@given(
    arrays(np.float16, 20, elements=st.floats(-100, 0, width=16)),
    st.sampled_from(["exact", "balanced", "small"]),
)
def test_relative_error_is_half_a_unit_of_the_last_kept_bit(values, precision):
    rounded = round_mantissa(values, "log_attention", precision)
    bits = KEEP_BITS[precision]["log_attention"]
    normal = np.abs(values) > 1e-4  # below lie float16's subnormals, whose step is fixed
    error = np.abs(rounded.astype(float) - values.astype(float))[normal]
    assert (error <= np.abs(values.astype(float))[normal] * 2.0 ** -(bits + 1)).all()
    assert (round_mantissa(rounded, "log_attention", precision) == rounded).all()


def test_nan_infinity_and_the_largest_value_survive():
    values = np.array([np.nan, -np.inf, np.inf, 65504, 0], "f2")
    rounded = round_mantissa(values, "log_attention", "small")
    np.testing.assert_array_equal(rounded, values)


def test_exact_changes_no_float16_and_others_are_left_alone():
    values = np.linspace(-9, 0, 100).astype("f2")
    assert round_mantissa(values, "log_attention", "exact") is values
    assert round_mantissa(values, "attention_mean", "small") is values
    with pytest.raises(UnknownNameError, match="unknown precision 'exakt'; did you mean 'exact'"):
        round_mantissa(values, "log_attention", "exakt")


@pytest.mark.parametrize("variable", ["log_attention", "logsumexp", "g2r", "r2g", "attention_mean"])
def test_a_flipped_bit_never_yields_a_number(tmp_path, variable):
    store = simulate_store(tmp_path / "s.zarr", kinds=("text",), runs=1)
    (shard, *_) = sorted(p for p in (tmp_path / "s.zarr/text/4x4" / variable / "c").rglob("*") if p.is_file())
    clean = shard.read_bytes()
    for position in np.linspace(0, len(clean) - 1, 25).astype(int):
        dirty = bytearray(clean)
        dirty[position] ^= 1 << int(position % 8)
        shard.write_bytes(bytes(dirty))
        with pytest.raises((ValueError, RuntimeError, CorruptDataError)):
            store.group[f"text/4x4/{variable}"][...]
    shard.write_bytes(clean[: len(clean) // 2])
    with pytest.raises((ValueError, RuntimeError)):
        store.group[f"text/4x4/{variable}"][...]

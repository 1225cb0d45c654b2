"""Partial results: any cut and order gives what the whole gives; against plain numpy."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from attlas.analysis.scoring.label_means import means_by_label
from attlas.analysis.statistics.grouping import grouped
from attlas.analysis.statistics.partials import Comoments, Histogram, Moments
from attlas.analysis.statistics.sketch import Sketch
from attlas.schemas.errors import InvalidValueError

EDGES = (-2.0, 0.0, 0.5, 3.0)


@st.composite
def cut_tables(draw):
    """Numbers (run, word) with gaps, a label a run, a label a word and run, and a cut and order of the runs."""
    runs, words = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    number = st.one_of(st.just(float("nan")), st.floats(-1e3, 1e3, width=32), st.just(0.0))
    values = np.array(draw(st.lists(number, min_size=runs * words, max_size=runs * words))).reshape(runs, words)
    labels = draw(st.lists(st.sampled_from(["a", "b", ""]), min_size=runs, max_size=runs))
    pos = draw(st.lists(st.sampled_from(["noun", "verb", ""]), min_size=runs * words, max_size=runs * words))
    order = draw(st.permutations(range(runs)))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, runs - 1)), max_size=4)))
    table = xr.DataArray(values, dims=("run", "word"), coords={"word": [f"w{k}" for k in range(words)]})
    by = xr.DataArray(np.array(labels, dtype=object), dims="run", name="label")
    parts = xr.DataArray(np.array(pos, dtype=object).reshape(runs, words), dims=("run", "word"), name="pos")
    blocks = [list(block) for block in np.split(np.array(order), cuts) if len(block)]
    return table, draw(st.sampled_from([(), (by,), (parts,), (by, parts)])), blocks


@settings(max_examples=30, deadline=None)
@given(cut_tables())
def test_any_cut_and_order_gives_what_the_whole_gives(case):
    table, labels, blocks = case
    whole = grouped(table, labels)
    pieces = [grouped(table.isel(run=own), [label.isel(run=own) for label in labels]) for own in blocks]
    moments, sketch, counts = Moments.zero(), Sketch.zero(), Histogram.zero()
    for piece in pieces:
        moments, sketch, counts = (
            moments + Moments.of(piece),
            sketch + Sketch.of(piece),
            counts + Histogram.of(piece, EDGES),
        )
    assert sketch == Sketch.of(whole)
    expected = Histogram.of(whole, EDGES).finish()
    xr.testing.assert_equal(counts.finish().transpose(*expected.dims), expected)
    one, two = moments.finish(), Moments.of(whole).finish()
    np.testing.assert_array_equal(one["n"].transpose(*two["n"].dims), two["n"])
    scale = float(np.nanmax(np.abs(table.values), initial=1.0))
    for name, size in (("mean", scale), ("variance", scale**2)):
        found = one[name].transpose(*two[name].dims)
        np.testing.assert_allclose(found, two[name], rtol=1e-12, atol=1e-12 * size)
    np.testing.assert_array_equal(one["runs"].transpose(*two["runs"].dims), two["runs"])
    # Its square, as rounding is of the sum of squares.
    found = one["stderr"].transpose(*two["stderr"].dims)
    np.testing.assert_allclose(found**2, two["stderr"] ** 2, rtol=1e-10, atol=1e-11 * scale**2)


@settings(max_examples=30, deadline=None)
@given(cut_tables())
def test_groups_are_those_of_a_loop(case):
    table, labels, _ = case
    done = Moments.of(grouped(table, labels)).finish()
    if len(labels) != 1 or labels[0].ndim != 1:
        return
    for label in set(labels[0].values.tolist()) - {""}:
        for word in table["word"].values:
            own = table.sel(word=word).values[labels[0].values == label]
            own = own[~np.isnan(own)]
            cell = done.sel(label=label, word=word)
            assert int(cell["n"]) == len(own)
            if len(own) > 1:
                np.testing.assert_allclose(float(cell["mean"]), own.mean(), rtol=1e-9, atol=1e-9)
                np.testing.assert_allclose(float(cell["variance"]), own.var(ddof=1), rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(cut_tables())
def test_values_of_one_run_are_a_cluster(case):
    table, labels, _ = case
    if len(labels) != 1 or labels[0].ndim != 2:
        return
    done, expected = Moments.of(grouped(table, labels)).finish(), means_by_label(table, labels[0])
    for label in expected["label"].values:
        cell, known = done.sel(pos=label), expected.sel(label=label)
        assert (int(cell["n"]), int(cell["runs"])) == (int(known["n"]), int(known["runs"]))
        np.testing.assert_allclose(cell["mean"], known["mean"], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(1.96 * cell["stderr"], known["ci95"], rtol=1e-9, atol=1e-9)


def test_words_of_one_run_tell_no_more_than_one():
    """Each word twice, alike: the mean is as sure as of one word a run, and not more."""
    once = xr.DataArray([[1.0], [2.0], [6.0]], dims=("run", "word"))
    pos = xr.DataArray(np.full((3, 1), "noun", dtype=object), dims=("run", "word"), name="pos")
    one, two = (
        Moments.of(grouped(xr.concat([once] * count, "word"), [xr.concat([pos] * count, "word")])).finish().squeeze()
        for count in (1, 2)
    )
    assert (int(one["n"]), int(two["n"]), int(two["runs"])) == (3, 6, 3)
    np.testing.assert_allclose(two["stderr"], one["stderr"], rtol=1e-12)
    np.testing.assert_allclose(one["stderr"], np.std([1, 2, 6], ddof=1) / 3**0.5, rtol=1e-12)


def test_moments_by_hand():
    """1, 2, 6: mean 3, variance (4 + 1 + 9) / 2 = 7, standard error sqrt(7 / 3), interval 3 +- 1.96 of it."""
    done = Moments.of(grouped(xr.DataArray([1.0, 2.0, 6.0, np.nan], dims="run"))).finish()
    assert (int(done["n"]), float(done["mean"]), float(done["variance"])) == (3, 3.0, 7.0)
    assert float(done["high"] - done["mean"]) == pytest.approx(1.96 * (7 / 3) ** 0.5, rel=1e-14)
    alone = Moments.of(grouped(xr.DataArray([4.0], dims="run"))).finish()
    assert float(alone["mean"]) == 4.0
    assert np.isnan(alone["variance"])


def test_means_far_from_zero_keep_their_variance():
    values = 1e9 + np.array([4.0, 7.0, 13.0, 16.0])
    parts = [Moments.of(grouped(xr.DataArray(part, dims="run"))) for part in (values[:1], values[1:])]
    assert float((parts[0] + parts[1]).finish()["variance"]) == pytest.approx(30.0, rel=1e-6)


def test_quantiles_are_within_a_percent_of_their_value():
    values = np.random.default_rng(0).normal(size=4001) * 10
    sketch = Sketch.of(grouped(xr.DataArray(values, dims="run")))
    for q in (0.05, 0.25, 0.75, 0.95):
        exact = np.quantile(values, q, method="lower")
        assert sketch.quantile((), q) == pytest.approx(exact, rel=0.0101)
    assert Sketch.of(grouped(xr.DataArray([np.inf, 1.0], dims="run"))).quantile((), 1.0) == np.inf


def test_the_histogram_is_numpys_and_counts_what_is_outside():
    values = np.array([-5.0, -2.0, -0.1, 0.0, 0.5, 3.0, 3.1, np.nan])
    done = Histogram.of(grouped(xr.DataArray(values, dims="run")), EDGES).finish()
    np.testing.assert_array_equal(done["count"], np.histogram(values[:-1], EDGES)[0])
    assert (int(done["below"]), int(done["above"])) == (1, 1)
    with pytest.raises(InvalidValueError, match="histogram edges are"):
        Histogram.of(grouped(xr.DataArray(values, dims="run")), (1.0, 0.0))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 19))
def test_correlation_is_numpys_in_any_cut(seed, cut):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=20)
    y = 0.6 * x + rng.normal(size=20)
    y[3] = np.nan
    pairs = [(x[:cut], y[:cut]), (x[cut:], y[cut:])]
    made = [Comoments.of(*(grouped(xr.DataArray(own, dims="run")) for own in pair)) for pair in pairs]
    done = (made[0] + made[1]).finish()
    kept = ~np.isnan(y)
    assert int(done["n"]) == 19
    assert float(done["pearson"]) == pytest.approx(np.corrcoef(x[kept], y[kept])[0, 1], abs=1e-12)
    # Fisher: tanh(atanh(r) +- 1.96 / sqrt(16))
    assert float(done["high"]) == pytest.approx(np.tanh(np.arctanh(float(done["pearson"])) + 0.49), abs=1e-12)


def test_equal_numbers_have_no_correlation():
    one = grouped(xr.DataArray([0.1] * 5, dims="run"))
    two = grouped(xr.DataArray(np.arange(5.0), dims="run"))
    assert np.isnan(Comoments.of(one, two).finish()["pearson"])


def test_what_does_not_fit_is_not_added():
    one = Moments.of(grouped(xr.DataArray([[1.0]], dims=("run", "head"), coords={"head": [0]})))
    two = Moments.of(grouped(xr.DataArray([1.0], dims="run")))
    with pytest.raises(InvalidValueError, match="do not add up"):
        one + two
    samples = grouped(xr.DataArray([1.0], dims="run"))
    left, right = Histogram.of(samples, (0, 1)), Histogram.of(samples, (0, 2))
    with pytest.raises(InvalidValueError, match="different edges"):
        left + right

"""Chunking, order and splitting change no map; resampling keeps what each rule promises."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attlas.analysis import maps, metrics, open_trace
from attlas.analysis.aggregation.resample import matrix
from attlas.schemas import layout, simulate_store

SIZES = st.integers(1, 9)
RULES = st.sampled_from(["nearest", "bilinear", "bicubic", "area"])
SHARDS, CHUNKS = ("SHARD_BYTES", "SUMMARY_BYTES", "MEAN_BYTES"), ("CHUNK_BYTES", "MEAN_CHUNK_BYTES")
VALUES = st.floats(-100, 100, width=32, allow_subnormal=False)


@pytest.fixture(scope="module")
def trace():
    return open_trace(simulate_store(runs=3, kinds=("image",), calls=4, layers=3))


def close(made, expected):
    scale = max(1.0, float(np.abs(expected).max())) if np.size(expected) else 1.0
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=2e-5 * scale)


def grids():
    return hnp.arrays(np.float32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=VALUES)


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shard=st.integers(200, 20_000), chunk=st.integers(100, 20_000), kind=st.sampled_from(["text", "image", "self"]))
def test_the_shape_of_shards_changes_no_map(shard, chunk, kind):
    made = []
    with pytest.MonkeyPatch.context() as patch:
        for small in (False, True):
            for name in SHARDS if small else ():
                patch.setattr(layout, name, shard)
            for name in CHUNKS if small else ():
                patch.setattr(layout, name, chunk)
            store = simulate_sharded(kind)
            one = open_trace(store)
            full = [one.attention(kind, direction).compute() for direction in ("g2r", "r2g")]
            summed = [maps.ulam(one, d, source=s).compute() for d in ("g2r", "r2g") for s in ("summary", "full")]
            made.append([*full, *summed])
    for first, second in zip(*made, strict=True):
        np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-7)


def simulate_sharded(kind):
    """A simulated store whose shards may hold less than all calls: rewritten shard by shard."""
    whole = simulate_store(runs=1, kinds=(kind,), calls=4, layers=2, seed=1)
    from attlas.schemas import create_store

    store = create_store(
        None,
        whole.manifest,
        tuple(whole.leaves.values()),
        whole.branches,
        whole.calls,
        whole.image_shape,
        whole.reference_shape,
    )
    row = store.claim("0000", prompt="a red disc and a blue cross")
    store.write_clock(row, steps=range(4), timesteps=range(4), sigmas=range(4))
    for name, leaf in store.leaves.items():
        for variable in leaf.variables():
            if variable.role != "data":
                continue
            values = whole.group[f"{name}/{variable.name}"][0]
            own = store.layout(name, variable.name)
            axis = {dim: own.dims.index(dim) - 1 for dim in ("t", "layer") if dim in own.dims}
            for l0 in range(0, 2, own.layer_block):
                for t0 in range(0, 4, own.t_block) if "t" in axis else (0,):
                    place = [slice(None)] * values.ndim
                    place[axis["layer"]] = slice(l0, l0 + own.layer_block)
                    if "t" in axis:
                        place[axis["t"]] = slice(t0, t0 + own.t_block)
                    store.write(name, variable.name, row, values[tuple(place)], t0=t0, layer0=l0)
    store.complete_run(row)
    return store


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_chunking_of_the_attention_sums_to_the_same_map(trace, data):
    lazy = trace.attention("image", "r2g").sel(branch="cond")
    chunks = {dim: data.draw(st.integers(1, lazy.sizes[dim]), label=dim) for dim in ("run", "t", "layer", "head")}
    by_user = lazy.chunk(chunks).mean("key").sum(("t", "layer", "head"))
    expected = maps.ulam(trace, "r2g", source="full").compute()
    close(by_user.compute().values.reshape(expected.shape), expected)


@settings(max_examples=6)
@given(order=st.permutations(range(3)))
def test_the_order_of_runs_is_the_order_of_maps(trace, order):
    whole = maps.llam(trace, "g2r").compute()
    turned = maps.llam(trace.isel(order), "g2r").compute()
    xr.testing.assert_identical(turned, whole.isel(run=list(order)))


@settings(max_examples=4)
@given(cut=st.integers(1, 2), direction=st.sampled_from(["g2r", "r2g"]))
def test_runs_by_themselves_give_the_maps_of_all(trace, cut, direction):
    parts = [maps.ulam(trace.isel(places), direction).compute() for places in (range(cut), range(cut, 3))]
    whole = maps.ulam(trace, direction).compute()
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@settings(max_examples=8)
@given(layers=st.sets(st.integers(0, 2), min_size=1), direction=st.sampled_from(["g2r", "r2g"]))
def test_layers_add_up(trace, layers, direction):
    names = [f"blocks.{index}" for index in sorted(layers)]
    whole = maps.ulam(trace, direction, layers=names).compute()
    close(sum(maps.ulam(trace, direction, layers=name).compute() for name in names), whole)


@settings(max_examples=10)
@given(weights=hnp.arrays(np.float32, (4, 4), elements=st.floats(0, 1, width=32)), scale=st.floats(0.125, 8, width=32))
def test_the_scale_of_a_soft_mask_does_not_matter(trace, weights, scale):
    weights[1, 2] = 1
    one = maps.aggregate(trace, "g2r", queries=weights).compute()
    other = maps.aggregate(trace, "g2r", queries=weights * np.float32(scale)).compute()
    close(one, other)


@given(values=grids(), rule=RULES, target=st.tuples(SIZES, SIZES))
def test_resampling_keeps_a_constant_and_rows_of_weights_sum_to_one(values, rule, target):
    flat = xr.DataArray(np.full_like(values, 3), dims=("y", "x"))
    close(maps.resample(flat, target, rule), np.full(target, 3))
    np.testing.assert_allclose(matrix(rule, values.shape[0], target[0]).sum(1), 1, rtol=1e-5)


@given(
    values=grids(),
    factor=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    rule=st.sampled_from(["nearest", "bilinear", "area"]),
)
def test_upsampling_by_whole_factors_multiplies_mass_by_the_area(values, factor, rule):
    one = xr.DataArray(values, dims=("y", "x"))
    target = (values.shape[0] * factor[0], values.shape[1] * factor[1])
    total = float(values.astype("f8").sum())
    bound = 1e-4 * float(np.abs(values).sum()) + 1e-4
    assert abs(float(maps.resample(one, target, rule).astype("f8").sum()) / (factor[0] * factor[1]) - total) <= bound
    assert abs(float(maps.resample(one, target, rule, conserve="mass").astype("f8").sum()) - total) <= bound


@given(values=grids(), target=st.tuples(SIZES, SIZES))
def test_area_keeps_the_mean_whatever_the_factor(values, target):
    one = xr.DataArray(values, dims=("y", "x"))
    assert float(maps.resample(one, target, "area").mean()) == pytest.approx(
        float(values.astype("f8").mean()), rel=1e-3, abs=1e-2
    )


@given(
    pair=st.integers(1, 6).flatmap(lambda n: st.tuples(*[hnp.arrays(np.float32, (n, n), elements=VALUES)] * 2)),
    rule=RULES,
    target=st.tuples(SIZES, SIZES),
    scale=st.floats(-4, 4, width=32),
)
def test_resampling_is_linear(pair, rule, target, scale):
    one, other = (xr.DataArray(values, dims=("y", "x")) for values in pair)
    made = maps.resample(one + np.float32(scale) * other, target, rule)
    by_parts = maps.resample(one, target, rule) + np.float32(scale) * maps.resample(other, target, rule)
    np.testing.assert_allclose(made, by_parts, atol=0.02)


@given(values=grids(), a=st.floats(0.125, 16, width=32), b=st.floats(-50, 50, width=32))
def test_minmax_ignores_scale_and_shift_and_stays_in_range(values, a, b):
    one = xr.DataArray(values, dims=("y", "x"))
    made = maps.normalize(one)
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    if float(one.max() - one.min()) > 1:
        np.testing.assert_allclose(maps.normalize(np.float32(a) * one + np.float32(b)), made, atol=2e-3)


@given(values=grids(), low=st.floats(0, 1), high=st.floats(0, 1), rule=st.sampled_from(["minmax", "max"]))
def test_a_higher_threshold_keeps_less(values, low, high, rule):
    one = xr.DataArray(np.abs(values), dims=("y", "x"))
    low, high = sorted((low, high))
    assert bool((maps.threshold(one, high, rule=rule) <= maps.threshold(one, low, rule=rule)).all())


@given(
    values=hnp.arrays(np.float32, (4, 5), elements=st.floats(0, 1, width=32)),
    mask=hnp.arrays(bool, (4, 5)),
    penalty=st.floats(0, 10),
)
def test_imacs_lies_between_minus_penalty_and_one(values, mask, penalty):
    made = float(metrics.imacs(xr.DataArray(values, dims=("y", "x")), mask, penalty=penalty))
    if mask.all() or not mask.any():
        assert np.isnan(made)
    else:
        assert -penalty - 1e-4 <= made <= 1 + 1e-4


@given(one=hnp.arrays(bool, (4, 5)), other=hnp.arrays(bool, (4, 5)))
def test_iou_is_symmetric_and_one_only_for_equals(one, other):
    def iou(a, b):
        return float(metrics.iou(xr.DataArray(a.astype("f4"), dims=("y", "x")), b))

    np.testing.assert_equal(iou(one, other), iou(other, one))
    if one.any() or other.any():
        assert (iou(one, other) == 1) == bool((one == other).all())


@settings(max_examples=8)
@given(data=st.data())
def test_metrics_of_lazy_maps_are_those_of_loaded_ones(data):
    values = data.draw(hnp.arrays(np.float32, (3, 2, 4, 5), elements=st.floats(0, 1, width=32)))
    mask = data.draw(hnp.arrays(bool, (3, 4, 5)))
    loaded = xr.DataArray(values, dims=("run", "layer", "y", "x"))
    lazy = loaded.chunk({"run": data.draw(st.integers(1, 3)), "layer": data.draw(st.integers(1, 2))})
    masks = xr.DataArray(mask, dims=("run", "y", "x"))
    functions = (
        lambda m: metrics.imacs(m, masks),
        lambda m: metrics.iou(maps.threshold(m), masks),
        metrics.coverage,
        metrics.peak,
        lambda m: maps.threshold(m, 50, rule="percentile"),
        lambda m: maps.resample(m, (8, 3), "bicubic", clamp=True),
    )
    for function in functions:
        np.testing.assert_allclose(function(lazy).compute(), function(loaded), rtol=1e-5, atol=1e-6)

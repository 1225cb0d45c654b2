"""Every map against plain float64 loops from hand-made Q and K, to 1e-5: either encoding, summary and full."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from oracle import Oracle

from attlas.analysis import maps, open_trace
from attlas.schemas import layout

PATCH, REFERENCE = (2, 3), (1, 2)
LEVELS = {"ulam": (), "tlam": ("t",), "hlam": ("head",), "llam": ("layer",)}


def leaves(tools, **changes):
    """Factors and dense, uneven grids, keys beside the patches, heads that differ between kinds."""
    return (
        tools.leaf_of("image", (4, 6), layers=2, key_grid=(2, 3), cls=True, **changes),
        tools.leaf_of("image", (2, 3), key_grid=(2, 3), cls=True, **{"encoding": "dense", **changes}),
        tools.leaf_of("text", (4, 6), keys=10, layers=2, **{"encoding": "dense", **changes}),
        tools.leaf_of("text", (2, 3), keys=10, **changes),
    )


def made_of(tools, **options):
    store, vectors = tools.make_store(leaves(tools), spread=2.0, reference=(8, 12), **options)
    oracles = {of: Oracle(store, vectors, "image", of) for of in ("summary", "full")}
    return SimpleNamespace(trace=open_trace(store), text=Oracle(store, vectors, "text"), **oracles)


@pytest.fixture(scope="module")
def hand(tools):
    return made_of(tools)


def agree(made, expected, keep=(), run=0):
    """To 1e-5 of the largest value, every map of one run."""
    made = made.isel(run=run).compute()
    assert made.dtype == np.float32
    for labels, wanted in expected.items():
        one = made.sel(dict(zip(keep, labels, strict=True))).values
        np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    assert int(made.notnull().sum()) == sum(wanted.size for wanted in expected.values())


@pytest.mark.parametrize("source", ["summary", "full"])
@pytest.mark.parametrize("direction", ["g2r", "r2g"])
@pytest.mark.parametrize("name", LEVELS)
def test_levels(hand, name, direction, source):
    made = getattr(maps, name)(hand.trace, direction, kind="image", source=source)
    assert made.attrs["source"] == (direction if source == "summary" else "full")
    for run in (0, 1):
        agree(made, getattr(hand, source).level(run, direction, LEVELS[name]), LEVELS[name], run)


@pytest.mark.parametrize("direction", ["g2r", "r2g"])
@pytest.mark.parametrize(
    "keep", [("t", "layer"), ("t", "head"), ("layer", "head"), ("grid",), ("grid", "t"), ("grid", "head")]
)
def test_two_axes_at_once(hand, keep, direction):
    made = maps.aggregate(hand.trace, direction, keep, kind="image")
    agree(made, hand.summary.level(0, direction, keep), keep)


def test_levels_with_an_axis_more_are_the_same_maps(hand):
    # I2AM Fig. 20: TLAM and HLAM by resolution.
    for made, keep in (
        (maps.tlam(hand.trace, "r2g", keep="grid", kind="image"), ("grid", "t")),
        (maps.hlam(hand.trace, "r2g", keep="grid", kind="image"), ("grid", "head")),
        (maps.llam(hand.trace, "r2g", keep="head", kind="image"), ("layer", "head")),
    ):
        assert made.dims == ("run", *keep, "query_y", "query_x")
        agree(made, hand.summary.level(0, "r2g", keep), keep)
    grouped = maps.tlam(hand.trace, "r2g", 2, keep="grid", kind="image")
    assert grouped.dims == ("run", "grid", "t_group", "query_y", "query_x")
    np.testing.assert_allclose(grouped.sum("t_group"), maps.aggregate(hand.trace, "r2g", "grid", kind="image"), 1e-5)


@pytest.mark.parametrize("source", ["summary", "full"])
@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_difference_of_branches(hand, direction, source):
    oracle = getattr(hand, source)
    for one, other in (("cond", "uncond"), ("uncond", "cond")):
        made = maps.ulam(hand.trace, direction, kind="image", branch=f"{one}-{other}", source=source)
        wanted = {(): oracle.level(0, direction, branch=one)[()] - oracle.level(0, direction, branch=other)[()]}
        scale = np.abs(oracle.level(0, direction, branch=one)[()]).max()
        np.testing.assert_allclose(made[0], wanted[()], atol=1e-5 * scale)
        assert made.attrs["branch"] == f"{one}-{other}"


@pytest.mark.parametrize(("rule", "conserve"), [("nearest", "mass"), ("bilinear", "intensity"), ("bicubic", "mass")])
def test_rules_of_resampling(hand, rule, conserve):
    made = maps.ulam(hand.trace, "r2g", kind="image", resample=rule, conserve=conserve)
    agree(made, hand.summary.level(1, "r2g", rule=rule, mass=conserve == "mass"), run=1)


def test_sram_of_a_patch_from_the_full_arrays(hand):
    made = maps.sram(hand.trace, PATCH, kind="image", source="full")
    agree(made, {(path,): own for path, own in hand.full.sram(0, PATCH).items()}, ("layer",))


def test_sram_from_the_mean_over_t_is_as_exact_as_float16(hand):
    made = maps.sram(hand.trace, PATCH, kind="image", source="summary").isel(run=0).compute()
    assert made.attrs["source"] == "attention_mean"
    for path, wanted in hand.summary.sram(0, PATCH).items():
        # Each of the calls' and heads' shares is stored as a float16 of 11 bits.
        np.testing.assert_allclose(made.sel(layer=path), wanted, rtol=2.0**-11, atol=1e-6)


def test_reverse_sram(hand):
    made = maps.reverse_sram(hand.trace, REFERENCE, kind="image")
    agree(made, {(path,): own for path, own in hand.full.reverse_sram(0, REFERENCE).items()}, ("layer",))


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize(("word", "tokens"), [("disc", [3]), ("a", [1, 5]), ("red disc", [2, 3])])
def test_daam(hand, variant, word, tokens):
    made = maps.daam(hand.trace, word, variant=variant, source="full")
    agree(made, {(): hand.text.daam(0, tokens, variant == "released")})


@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_the_released_order(hand, direction):
    # Bicubic undershoots, so that clamping each token's map lifts the mean.
    oracle = hand.full
    made = maps.ulam(hand.trace, direction, kind="image", variant="released", source="full")
    agree(made, {(): oracle.released(0, direction)})
    plain = maps.ulam(hand.trace, direction, kind="image", reduce="mean").isel(run=0) * oracle.calls
    if direction == "r2g":
        assert float((made.isel(run=0) - plain).max()) > 1e-3 * float(plain.max())
    groups = maps.tlam(hand.trace, direction, 2, kind="image", variant="released", source="full")
    agree(groups, {(0,): oracle.released(0, direction, {0, 1}), (1,): oracle.released(0, direction, {2})}, ("t_group",))


@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_every_order_is_the_same_map_without_clamp(hand, direction):
    wanted = hand.full.level(0, direction)
    for order in ("last", "heads", "tokens"):
        agree(maps.ulam(hand.trace, direction, kind="image", order=order, source="full"), wanted)


@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_parts_add_up_to_the_whole(hand, direction):
    whole = maps.ulam(hand.trace, direction, kind="image").compute()
    for name in ("tlam", "hlam", "llam"):
        parts = getattr(maps, name)(hand.trace, direction, kind="image").compute()
        np.testing.assert_allclose(parts.sum(LEVELS[name]), whole, rtol=1e-5, atol=1e-6)


@settings(max_examples=4, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shard=st.integers(200, 4000),
    chunk=st.integers(100, 4000),
    encoding=st.sampled_from(["dense", "factors"]),
    split=st.fixed_dictionaries({"branch": st.integers(1, 2), "query": st.integers(9, 24), "key": st.integers(3, 7)}),
)
def test_no_layout_and_no_chunking_changes_a_map(tools, shard, chunk, encoding, split):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SHARD_BYTES", "SUMMARY_BYTES", "MEAN_BYTES"):
            patch.setattr(layout, name, shard)
        for name in ("CHUNK_BYTES", "MEAN_CHUNK_BYTES"):
            patch.setattr(layout, name, chunk)
        own = leaves(tools, encoding=encoding)[:1]
        store, vectors = tools.make_store(own, runs=1, spread=2.0, reference=(8, 12))
    oracle, trace = Oracle(store, vectors, "image"), open_trace(store)
    for direction in ("g2r", "r2g"):
        for source, own in (("summary", Oracle(store, vectors, "image", "summary")), ("full", oracle)):
            agree(maps.llam(trace, direction, source=source), own.level(0, direction, ("layer",)), ("layer",))
        attention = trace.attention("image", direction).chunk({"run": 1, **split}).compute()
        for _, t, path, head, wanted in oracle.terms(0, direction=direction):
            one = attention.sel(branch="cond", t=t, layer=path, head=head)[0]
            np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=1e-7)
    agree(maps.sram(trace, PATCH, source="full"), {(p,): m for p, m in oracle.sram(0, PATCH).items()}, ("layer",))

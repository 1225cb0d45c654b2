"""Maps and scores without sinks, against numpy on Q and K."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from attlas.analysis import maps, open_trace, scores
from attlas.analysis.sinks import Sinks
from attlas.schemas import simulate_store
from attlas.schemas.cli.group import attlas
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError

RULE = {"times": 2.0}
GARMENT = np.zeros((16, 16), bool)
GARMENT[4:12, 4:12] = True


@pytest.fixture(scope="module")
def planted(tools):
    """Image and text keys of which one draws attention in one head, another in another run."""
    leaves = (
        tools.leaf_of("image", (4, 4), layers=2, key_grid=(4, 3), cls=True),
        tools.leaf_of("text", (4, 4), keys=10, layers=2, encoding="dense"),
    )

    def alter(name, row, q, k):
        q[..., 1, :, 0], k[..., 1, 5 - row, 0] = 2, 3
        k[..., 0, 0, :] *= 0.2
        q[..., 0, :, 1], k[..., 0, 0, 1] = 2, 2
        return q, k

    store, vectors = tools.make_store(leaves, annotations=lambda row: {"garment": GARMENT}, alter=alter)
    return store, vectors, open_trace(store)


def attention(tools, vectors, name, row, direction, branch=1):
    """(t, layer, head, query, key)."""
    q, k = vectors[name, row]
    return tools.softmax(q @ np.swapaxes(k, -1, -2), -1 if direction == "g2r" else -2)[branch]


def kept(tools, vectors, name, row, rule, words=()):
    """1 for keys that stay, (layer, head, key)."""
    means = attention(tools, vectors, name, row, "g2r").mean((0, 3))
    if rule.by == "layer":
        means = np.repeat(means.mean(1, keepdims=True), means.shape[1], 1)
    typical = np.median(means, -1) if rule.over == "median" else means.mean(-1)
    stays = means <= rule.times * typical[..., None]
    stays[..., list(words)] = True
    return stays.astype("f8")[None, :, :, None]


def without(tools, vectors, name, row, direction, rule, words=()):
    """Attention that is left, and which keys stay."""
    whole = attention(tools, vectors, name, row, direction)
    stays = kept(tools, vectors, name, row, rule, words)
    assert 0 < (1 - stays).mean() < 0.5, "the rule must find something, and not all"
    left = whole * stays
    if rule.mass == "renormalise" and direction == "g2r":
        left = left / left.sum(-1, keepdims=True)
    return left, np.broadcast_to(stays, left.shape)


@pytest.mark.parametrize("by", ["head", "layer"])
@pytest.mark.parametrize("mass", ["zero", "renormalise"])
@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_maps_onto_keys(planted, tools, direction, mass, by):
    _, vectors, trace = planted
    rule = Sinks(**RULE, mass=mass, by=by)
    made = maps.aggregate(trace, direction, ("t", "layer"), onto="key", kind="image", sinks=rule)
    for row in range(2):
        left, _ = without(tools, vectors, "image/4x4", row, direction, rule)
        expected = left.mean(3).sum(2)[..., 1:].reshape(3, 2, 4, 3)  # CLS takes part and is not shown
        np.testing.assert_allclose(made.values[row], expected, rtol=2e-5, atol=1e-7)
    full = direction == "r2g" or mass == "renormalise"
    assert made.attrs["source"] == ("full" if full else "g2r")
    assert made.attrs["sinks"].startswith(f"left out: keys that get more than 2 x the mean over keys, by {by}; ")


@pytest.mark.parametrize("mass", ["zero", "renormalise"])
@pytest.mark.parametrize("direction", ["g2r", "r2g"])
def test_maps_onto_queries(planted, tools, direction, mass):
    """With mass 0 the number of keys that are averaged stays; else it is that of the keys that are left."""
    _, vectors, trace = planted
    rule = Sinks(**RULE, mass=mass, over="median")
    made = maps.aggregate(trace, direction, "layer", onto="query", kind="image", keys="reference", sinks=rule)
    for row in range(2):
        left, stays = without(tools, vectors, "image/4x4", row, direction, rule)
        count = stays[..., 1:].sum(-1) if mass == "renormalise" else 12
        expected = (left[..., 1:].sum(-1) / count).sum((0, 2)).reshape(2, 4, 4)
        np.testing.assert_allclose(made.values[row], expected, rtol=2e-3 if made.attrs["source"] != "full" else 2e-5)


@pytest.mark.parametrize("mass", ["zero", "renormalise"])
def test_chosen_queries(planted, tools, mass):
    _, vectors, trace = planted
    rule = Sinks(**RULE, mass=mass)
    made = maps.aggregate(trace, "g2r", kind="image", queries=trace.annotations["garment"], sinks=rule, source="full")
    inside = np.zeros((4, 4), bool)
    inside[1:3, 1:3] = True
    for row in range(2):
        left, _ = without(tools, vectors, "image/4x4", row, "g2r", rule)
        expected = left[..., inside.ravel(), :].mean(3).sum((0, 1, 2))[1:].reshape(4, 3)
        np.testing.assert_allclose(made.values[row], expected, rtol=2e-5, atol=1e-7)


def test_rescaled_mass_is_a_ratio_of_means(planted, tools):
    """From the summary; the mean over queries of ratios is another number."""
    _, vectors, trace = planted
    made = maps.ulam(trace, "g2r", kind="image", sinks=Sinks(**RULE, mass="rescale"))
    other = maps.ulam(trace, "g2r", kind="image", sinks=Sinks(**RULE, mass="renormalise"))
    for row in range(2):
        mean = attention(tools, vectors, "image/4x4", row, "g2r").mean(3)
        left = mean * kept(tools, vectors, "image/4x4", row, Sinks(**RULE))[..., 0, :]
        expected = (left / left.sum(-1, keepdims=True)).sum((0, 1, 2))[1:].reshape(4, 3)
        np.testing.assert_allclose(made.values[row], expected, rtol=2e-5, atol=1e-7)
    assert (made.attrs["source"], other.attrs["source"]) == ("g2r", "full")
    assert abs(made - other).max() > 1e-3


@pytest.mark.parametrize("mass", ["zero", "renormalise"])
def test_word_maps(planted, tools, mass):
    """Words are sinks only if asked; the others' mass goes, or comes back to the words."""
    _, vectors, trace = planted
    for words in (False, True):
        rule = Sinks(**RULE, mass=mass, words=words)
        made = maps.daam(trace, "red disc", sinks=rule)
        spared = () if words else range(1, 8)
        for row in range(2):
            left, stays = without(tools, vectors, "text/4x4", row, "g2r", rule, spared)
            count = stays[..., 2:4].sum(-1) if mass == "renormalise" else 2
            with np.errstate(invalid="ignore"):
                expected = (left[..., 2:4].sum(-1) / count).sum((0, 1, 2)).reshape(4, 4)
            np.testing.assert_allclose(made.values[row], expected, rtol=1e-2)  # ln of attention in float16
    assert made.attrs["source"] == ("full" if mass == "renormalise" else "attention_mean")


def test_summary_and_full_agree(planted):
    trace = planted[2]
    for keys in (None, "word"):
        options = {"kind": "text", "keys": keys, "onto": "query" if keys else "key", "sinks": Sinks(**RULE, words=True)}
        brief = maps.aggregate(trace, "g2r", source="summary", **options)
        whole = maps.aggregate(trace, "g2r", source="full", **options)
        np.testing.assert_allclose(brief, whole, rtol=1e-2, atol=1e-6)


def test_nothing_left_out_is_the_map_itself(planted):
    trace = planted[2]
    for direction, mass in (("g2r", "renormalise"), ("r2g", "zero"), ("r2g", "renormalise")):
        made = maps.ulam(trace, direction, kind="image", sinks=Sinks(times=100, mass=mass))
        np.testing.assert_allclose(made, maps.ulam(trace, direction, kind="image"), rtol=1e-5)
    assert maps.ulam(trace, "g2r", kind="image").attrs["sinks"] == "kept"


def test_special_keys_leave_words_to_share_the_attention(planted):
    """Rows over words sum to 1: what is averaged over all seven words and summed over queries is 1 / 7 each."""
    made = maps.aggregate(
        planted[2], "g2r", kind="text", onto="query", keys="word", sinks=Sinks(rule="special", mass="renormalise")
    )
    np.testing.assert_allclose(made, 3 * 2 * 2 / 7, rtol=1e-4)
    gone = maps.aggregate(planted[2], "g2r", kind="text", sinks="special").compute()
    assert (gone.isel(key=[0, 8, 9]) == 0).all()
    assert (gone.isel(key=slice(1, 8)) > 0).all()


def test_all_keys_left_out_is_zero_or_not_defined(planted):
    """The empty negative prompt has no word: nothing is left to look at."""
    options = {"kind": "text", "branch": "uncond"}
    assert (maps.ulam(planted[2], "g2r", **options, sinks="special").compute() == 0).all()
    rule = Sinks(rule="special", mass="rescale")
    assert maps.ulam(planted[2], "g2r", **options, sinks=rule).isnull().all()


def test_partial_keys_keep_the_mass_of_keys_that_are_not_kept():
    """A sink's mass is taken from what the softmax was over, not only from what is kept of it."""
    store = simulate_store(kinds=("text",), runs=1, partial=True)
    trace = open_trace(store)
    whole = trace.attention("text").sel(branch="cond").values[0]
    assert trace.leaves["text/4x4"].partial
    assert whole.sum(-1).mean() < 0.99
    means = whole.mean((0, 3))
    stays = (means <= 1.2 * means.mean(-1, keepdims=True))[None, :, :, None]
    assert 0 < stays.mean() < 1
    expected = whole * stays / (1 - (whole * ~stays).sum(-1, keepdims=True))
    made = maps.aggregate(trace, "g2r", sinks=Sinks(times=1.2, words=True, mass="renormalise"))
    np.testing.assert_allclose(made.values[0], expected.mean(3).sum((0, 1, 2)), rtol=1e-4)


def test_maps_stay_lazy(planted, computes):
    with computes(0):
        made = [
            maps.ulam(planted[2], direction, kind="image", sinks=Sinks(mass=mass))
            for direction in ("g2r", "r2g")
            for mass in ("zero", "renormalise")
        ]
    with computes(1):
        made[0].compute()


def test_errors(planted, tools):
    trace = planted[2]
    with pytest.raises(UnknownNameError, match="rule for sinks 'all'"):
        maps.ulam(trace, "g2r", kind="image", sinks="all")
    with pytest.raises(InvalidValueError, match=r"'rescale' is of g2r onto keys.*got g2r onto key of chosen queries"):
        maps.aggregate(trace, "g2r", kind="image", queries=GARMENT, sinks=Sinks(mass="rescale"))
    with pytest.raises(InvalidValueError, match="got r2g onto query"):
        maps.ulam(trace, "r2g", kind="image", sinks=Sinks(mass="rescale"))
    with pytest.raises(NotRecordedError, match=r"leaving sinks out here needs each query's attention.*\(as asked\)"):
        maps.ulam(trace, "r2g", kind="image", sinks="importance", source="summary")
    store, _ = tools.make_store((tools.leaf_of("image", (2, 2), encoding="none"),), detail="summary", runs=1)
    with pytest.raises(NotRecordedError, match="which is all that the store keeps"):
        maps.ulam(open_trace(store), "r2g", sinks="importance")
    assert maps.ulam(open_trace(store), "g2r", sinks="importance").notnull().all()


def test_scores_and_commands(tmp_path):
    path = str(tmp_path / "a.zarr")
    simulate_store(path, kinds=("text", "image"), runs=2)
    trace = open_trace(path)
    rule = Sinks(times=1.2)
    plain, left = (scores.score_reference(trace, sinks=sinks) for sinks in (None, rule))
    assert "sinks" not in plain.settings
    assert left.settings["sinks"] == f"left out: {rule}"
    assert left["sram_pck1"].value <= plain["sram_pck1"].value
    run = CliRunner().invoke(
        attlas, ["score", path, "--quiet", "--json", "--leave-out-sinks", "--sink-times", "1.2"], catch_exceptions=False
    )
    told = {table["title"].partition(" of ")[0]: table for table in json.loads(run.output)[path]}
    assert told["reference maps"] == left.to_json()
    assert told["word maps"]["settings"]["sinks"].startswith("left out: keys that get more than 1.2 x")
    made = CliRunner().invoke(
        attlas,
        ["map", path, "--map", "ulam", "--direction", "g2r", "--kind", "image", "--leave-out-sinks", "--sink-mass",
         "renormalise", "--sink-by", "layer", "--sink-times", "1.2", "--json"],
        catch_exceptions=False,
    )  # fmt: skip
    said = json.loads(made.output)["attributes"]["sinks"]
    assert said == f"left out: {Sinks(times=1.2, by='layer', mass='renormalise')}"
    wrong = CliRunner().invoke(attlas, ["map", path, "--map", "ulam", "--sink-times", "3"])
    assert isinstance(wrong.exception, InvalidValueError)
    assert "add --leave-out-sinks" in str(wrong.exception)

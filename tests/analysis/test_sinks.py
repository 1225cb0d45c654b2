"""Key importance, its peak and the report of sinks, against numpy on Q and K; the summary is all that is read."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from attlas.analysis import open_trace, sinks
from attlas.analysis.reading import ShardReader
from attlas.analysis.registry import statistic_of
from attlas.schemas import Annotation, simulate_store
from attlas.schemas.cli.group import attlas
from attlas.schemas.errors import InvalidValueError, UnknownNameError

GRID = (4, 4)


@pytest.fixture(scope="module")
def planted(tools):
    """Image keys with CLS, one corner of which draws attention in head 1; text; two branches, three runs."""
    leaves = (
        tools.leaf_of("image", GRID, layers=2, key_grid=(4, 3), cls=True),
        tools.leaf_of("image", (2, 2), layers=1, key_grid=(4, 3), cls=True, heads=3),
        tools.leaf_of("text", GRID, keys=10, layers=2, encoding="dense"),
        tools.leaf_of("self", (2, 2), layers=1),
    )
    reference = np.zeros((16, 16), bool)
    reference[4:12, 5:11] = True  # the middle column of the key grid, its second and third row

    def alter(name, row, q, k):
        if name in ("image/4x4", "text/4x4"):
            q[..., 1, :, 0], k[..., 1, 1, 0] = 3, 4 + row  # key 1 of head 1: the upper left corner, or the first word
        return q, k

    store, vectors = tools.make_store(
        leaves, runs=3, annotations=lambda row: {"shown": Annotation(reference, "reference_object")}, alter=alter
    )
    return store, vectors, open_trace(store)


def shares(tools, vectors, name, row, branch=1):
    """Softmax over keys, (t, layer, head, query, key)."""
    q, k = vectors[name, row]
    return tools.softmax(q @ np.swapaxes(k, -1, -2), -1)[branch]


def test_importance_is_the_mean_over_queries(planted, tools, computes):
    _, vectors, trace = planted
    with computes(0):
        made = sinks.key_importance(trace, layers="4x4", kind="image")
    assert made.dims == ("run", "t", "layer", "head", "key")
    expected = np.stack([shares(tools, vectors, "image/4x4", row).mean(-2) for row in range(3)])
    np.testing.assert_allclose(made.values, expected, rtol=1e-5)
    np.testing.assert_allclose(made.sum("key"), 1, rtol=1e-5)
    assert made["key_segment"].values[:2].tolist() == ["cls", "reference"]
    assert made["key_y"].values[:3].tolist() == [-1, 0, 0]
    assert made["step"].dims == ("run", "t")
    for keep in ("layer", "head", "t", ("t", "head"), ()):
        axes = (keep,) if isinstance(keep, str) else keep
        gone = tuple(1 + place for place, dim in enumerate(("t", "layer", "head")) if dim not in axes)
        made = sinks.key_importance(trace, layers="4x4", kind="image", keep=keep)
        np.testing.assert_allclose(made.values, expected.mean(gone), rtol=1e-5)
        assert made.dims == ("run", *axes, "key")


def test_layers_and_heads_count_alike_over_leaves(planted, tools):
    """Four heads of two layers and three of one: each of the seven weighs the same."""
    _, vectors, trace = planted
    made = sinks.key_importance(trace, kind="image", keep=()).values
    parts = [
        np.concatenate(
            [shares(tools, vectors, name, row).mean((0, 3)).reshape(-1, 13) for name in ("image/4x4", "image/2x2")]
        )
        for row in range(3)
    ]
    np.testing.assert_allclose(made, np.stack([own.mean(0) for own in parts]), rtol=1e-5)
    chosen = [("image4.0.attn", 1), ("image2.0.attn", 0)]
    made = sinks.key_importance(trace, kind="image", keep=(), heads=chosen).values
    np.testing.assert_allclose(made, np.stack([own[[1, 4]].mean(0) for own in parts]), rtol=1e-5)


def test_tokens_label_the_keys_of_a_text(planted):
    made = sinks.key_importance(planted[2], kind="text", keep="layer")
    assert made["token"].dims == ("run", "key")
    assert made["token"].values[0, :3].tolist() == ["<bos>", "a", "red"]
    assert made["token_segment"].values[0, [0, 1, 8, 9]].tolist() == ["bos", "word", "eos", "pad"]


@pytest.mark.parametrize("over", ["mean", "median"])
def test_peak_ratio(planted, tools, over):
    _, vectors, trace = planted
    made = sinks.peak_ratio(trace, kind="image", over=over)
    assert (made.dims, made.attrs["over"]) == (("run", "layer", "head"), over)
    for name, place in (("image/4x4", slice(0, 2)), ("image/2x2", slice(2, 3))):
        for row in range(3):
            own = shares(tools, vectors, name, row).mean((0, 3))
            expected = own.max(-1) / (np.median(own, -1) if over == "median" else 1 / own.shape[-1])
            np.testing.assert_allclose(made.values[row, place, : own.shape[1]], expected, rtol=1e-5)
    assert np.isnan(made.values[:, :2, 2]).all(), "a head that the layer lacks"


def test_statistics_are_registered(planted):
    trace = planted[2]
    ratio = statistic_of("sink_ratio").function(trace, kind="image")
    peak = statistic_of("key_importance").function(trace, kind="image")
    np.testing.assert_allclose(ratio, peak * 13, rtol=1e-5)
    share = statistic_of("sink_share").function(trace, kind="image", times=3.0)
    assert share.dims == ("run", "layer", "head")
    assert (share.values[:, :2, 1] > 0.2).all()


def test_uniform_attention_has_ratio_one(tools):
    store, _ = tools.make_store((tools.leaf_of("self", (2, 2)),), spread=0)
    np.testing.assert_allclose(sinks.peak_ratio(open_trace(store)).values, 1, rtol=1e-6)


def test_keys_that_take_no_part_are_not_drawn(tools):
    """A masked key gets exactly nothing; of the other five one gets half: 2.5 times the mean."""
    leaf = tools.leaf_of("text", (2, 2), heads=1, encoding="dense")
    store, _ = tools.make_store((leaf,), runs=1, prompts=["a b"], detail="summary")
    weights = np.array([0.5, 0.2, 0.1, 0.1, 0.1, 0.0], "f4")
    store.group["text/2x2/g2r"][0] = np.broadcast_to(weights, (2, 3, 1, 1, 6))
    trace = open_trace(store)
    np.testing.assert_allclose(sinks.peak_ratio(trace).values, 2.5, rtol=1e-6)
    np.testing.assert_allclose(sinks.peak_ratio(trace, over="median").values, 5, rtol=1e-6)
    np.testing.assert_allclose(sinks.peak(trace).values, 0.5, rtol=1e-6)


def test_only_the_summary_is_read(planted, monkeypatch):
    read = []
    own = ShardReader._read
    monkeypatch.setattr(
        ShardReader, "_read", lambda self, place, rest: (read.append(self.array.path), own(self, place, rest))[1]
    )
    trace = open_trace(planted[0])
    sinks.peak_ratio(trace, kind="image").compute()
    sinks.sink_share(trace, kind="image").compute()
    sinks.report(trace)
    arrays = {path.rpartition("/")[2] for path in read}
    assert arrays == {"g2r", "token_segment", "shown"}
    read.clear()
    sinks.peak_ratio(trace, kind="image").compute()
    assert sorted(read) == ["image/2x2/g2r"] * 3 + ["image/4x4/g2r"] * 3, "each run's summary once"


def test_a_summary_store_is_enough(tools):
    leaves = (tools.leaf_of("image", (4, 4)), tools.leaf_of("self", (4, 4)))
    store, _ = tools.make_store(leaves, detail="summary")
    assert np.isfinite(sinks.peak_ratio(open_trace(store), kind="self").values).all()
    assert len(sinks.report(open_trace(store)).rows) == 2


def test_report_finds_the_planted_sink(planted, tools):
    _, vectors, trace = planted
    made = sinks.report(trace, kinds="image", by="head")
    (row,) = [row for row in made.rows if (row.layer, row.head) == ("image4.0.attn", 1)]
    own = np.stack([shares(tools, vectors, "image/4x4", run)[:, 0, 1].mean((0, 1)) for run in range(3)])
    assert (own[:, 1] > 5 / 13).all()
    assert (own[:, 2:] < 5 / 13).all()
    assert (row.runs, row.sinks, row.chance) == (3, 1, pytest.approx(1 / 13))
    assert row.share == pytest.approx(own[:, 1].mean(), rel=1e-5)
    assert row.share_ci95 == pytest.approx(1.96 * own[:, 1].std(ddof=1) / 3**0.5, rel=1e-4)
    assert row.ratio == pytest.approx((13 * own.max(-1)).mean(), rel=1e-5)
    assert row.what == {"corner patch": 1.0}
    layer = next(row for row in sinks.report(trace, kinds="image").rows if row.layer == "image4.0.attn")
    assert (layer.head, layer.sinks) == (None, 0.5)
    assert layer.share == pytest.approx(own[:, 1].mean() / 2, rel=1e-5)
    calls = [row for row in sinks.report(trace, kinds="image", by="t").rows if row.layer == "image4.0.attn"]
    assert [row.t for row in calls] == [0, 1, 2]
    assert np.mean([row.share for row in calls]) == pytest.approx(layer.share, rel=1e-5)
    assert "corner patch 100%" in str(made)
    assert made.to_json()["rows"][0]["kind"] == "image"
    assert list(made.to_frame()["layer"].unique()) == ["image4.0.attn", "image4.1.attn", "image2.0.attn"]


def test_batches_of_runs_change_nothing(planted, monkeypatch):
    whole = sinks.report(planted[2], sinks.Sinks(times=1.5, across_runs=True), kinds="image")
    monkeypatch.setattr("attlas.analysis.sink_report.BATCH", 1)
    assert sinks.report(planted[2], sinks.Sinks(times=1.5, across_runs=True), kinds="image") == whole


def test_words_are_sinks_only_if_asked(planted):
    trace = planted[2]
    assert sum(row.sinks for row in sinks.report(trace, sinks.Sinks(times=4), kinds="text").rows) == 0
    rows = sinks.report(trace, sinks.Sinks(times=4, words=True), kinds="text", by="head").rows
    assert {row.head: set(row.what) for row in rows if row.sinks} == {1: {"word"}}


def test_special_keys(planted):
    rows = sinks.report(planted[2], "special").rows
    assert {row.kind: set(row.what) for row in rows} == {"image": {"cls"}, "text": {"bos", "eos", "pad"}, "self": set()}
    share = sinks.sink_share(planted[2], "special", kind="image")
    expected = sinks.key_importance(planted[2], kind="image", keep=("layer", "head")).isel(key=0)
    np.testing.assert_allclose(share, expected, rtol=1e-6)


def test_sinks_across_runs_are_the_same_in_every_run(tools):
    """A key that stands out in one run of four by far is none; one that stands out in all is."""
    store, _ = tools.make_store((tools.leaf_of("self", (4, 4), heads=1),), runs=4, detail="summary")
    for row in range(4):
        weights = np.full(16, 0.5 / 14)
        weights[0], weights[1 + row] = 0.3, 0.2
        weights /= weights.sum()
        store.group["self/4x4/g2r"][row] = np.broadcast_to(weights, (2, 3, 1, 1, 16))
    trace = open_trace(store)
    each = sinks.report(trace, sinks.Sinks(times=3)).rows[0]
    across = sinks.report(trace, sinks.Sinks(times=3, across_runs=True)).rows[0]
    assert (each.sinks, across.sinks) == (2, 1)
    assert across.what == {"corner patch": 1.0}


def test_classes_of_patches(planted, tools):
    from attlas.analysis.aggregation.selection import pick_parts
    from attlas.analysis.sink_report import key_classes

    _, _, trace = planted
    (part, _) = pick_parts(trace, "image", None, None)
    made = key_classes(trace, part, "cond")[0][1:].reshape(4, 3).tolist()
    corner, border, thing = "corner patch", "border patch", "object patch"
    rows = [[corner, border, corner], [border, thing, border]]
    assert made == [*rows, *rows[::-1]]
    outside = key_classes(trace, part, "cond", np.eye(4, 3, dtype=bool))[0][1:].reshape(4, 3)
    assert outside[1:3, 1].tolist() == [thing, "background patch"]


def test_the_first_frame_of_a_video():
    from attlas.analysis.aggregation.selection import pick_parts
    from attlas.analysis.sink_report import key_classes

    trace = open_trace(simulate_store(runs=1, kinds=("self",), frames=2))
    (part,) = pick_parts(trace, "self", None, None)
    made = key_classes(trace, part, "cond")[0]
    frames = np.asarray(part.leaf.key_frame)
    assert all(name.startswith("first-frame") for name in made[frames == 0])
    assert all(name.startswith("later-frame") for name in made[frames == 1])
    assert made[0] == "first-frame corner patch"


def test_incomplete_runs_do_not_count(tools):
    store, _ = tools.make_store((tools.leaf_of("self", (2, 2)),), runs=3, complete=(0, 2))
    assert sinks.report(open_trace(store)).rows[0].runs == 2
    shown = sinks.peak_ratio(open_trace(store, incomplete=True))
    assert shown.sizes["run"] == 3


def test_errors(planted):
    trace = planted[2]
    with pytest.raises(InvalidValueError, match=r"layers differ in their heads|heads"):
        sinks.key_importance(trace, kind="image", keep="head")
    with pytest.raises(UnknownNameError, match="axis to keep 'branch'"):
        sinks.key_importance(trace, kind="image", keep="branch")
    with pytest.raises(UnknownNameError, match="rows of the report"):
        sinks.report(trace, by="key")
    with pytest.raises(UnknownNameError, match="rule for sinks 'big'"):
        sinks.report(trace, "big")
    with pytest.raises(UnknownNameError, match="typical key 'mode'"):
        sinks.peak_ratio(trace, kind="image", over="mode")
    with pytest.raises(UnknownNameError, match="branch 'left'"):
        sinks.report(trace, branch="left")
    with pytest.raises(InvalidValueError, match=r"times = 1; more than 1"):
        sinks.Sinks(times=1)


def test_layers_of_other_keys_do_not_mix(mixed):
    with pytest.raises(InvalidValueError, match=r"layers differ in their keys: self/4x4 \(16 keys\), self/2x2"):
        sinks.key_importance(mixed.trace, kind="self", keep=())
    with pytest.raises(InvalidValueError, match="choose layers="):
        sinks.peak_ratio(mixed.trace, kind="self", keep="head")
    assert sinks.peak_ratio(mixed.trace, kind="self").sizes["layer"] == 2


def test_the_command(tmp_path):
    path, out = str(tmp_path / "a.zarr"), tmp_path / "sinks.parquet"
    simulate_store(path, kinds=("text",), runs=2)
    asked = ["sinks", path, "--rule", "special", "--out", str(out)]
    run = CliRunner().invoke(attlas, asked, catch_exceptions=False)
    made = sinks.report(open_trace(path), "special")
    assert run.output == f"{made}\n"
    pd.testing.assert_frame_equal(pd.read_parquet(out), made.to_frame())
    told = CliRunner().invoke(attlas, [*asked[:4], "--json"], catch_exceptions=False)
    assert json.loads(told.output) == made.to_json()
    wrong = CliRunner().invoke(attlas, ["sinks", path, "--out", "a.png"])
    assert "FILE.parquet or FILE.csv is accepted" in str(wrong.exception)

"""Surveys: numbers against plain numpy, groups, blocks, partial surveys, and what is refused."""

import json

import numpy as np
import pytest
import xarray as xr
from splitting import split

from attlas.analysis import maps, open_trace, survey
from attlas.analysis.surveys.partial import Partial
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError

SCORES = np.array([0.5, -1.0, 2.0, np.nan, 3.5, 0.25, 1.0])
KINDS = ["a", "b", "a", "a", "b", "b", ""]


@pytest.fixture(scope="module")
def store(tools):
    """Seven runs with a number, a text and three numbers each."""
    leaves = (tools.leaf_of("image", (4, 4), key_grid=(4, 3)), tools.leaf_of("text", (4, 4), keys=8))

    def noted(row):
        return {"quality": float(SCORES[row]), "kind": KINDS[row], "many": np.arange(3.0) + row}

    prompts = ["a red disc" if row % 2 else "a blue cross" for row in range(7)]
    return tools.make_store(leaves, runs=7, prompts=prompts, annotations=noted)[0]


@pytest.fixture
def trace(store):
    return open_trace(store)


def quiet(trace, statistics=(), **options):
    return survey(trace, statistics, progress=False, **options)


def test_numbers_are_numpys_and_nan_does_not_count(trace):
    made = quiet(trace, "annotation:quality", histogram=[-2, 0, 4])["quality"]
    known = SCORES[~np.isnan(SCORES)]
    assert int(made["n"]) == 6
    assert float(made["mean"]) == pytest.approx(known.mean(), rel=1e-12)
    assert float(made["stderr"]) == pytest.approx(known.std(ddof=1) / 6**0.5, rel=1e-12)
    assert float(made["low"]) == pytest.approx(known.mean() - 1.96 * known.std(ddof=1) / 6**0.5, rel=1e-12)
    assert made["count"].values.tolist() == [1, 5]
    assert float(made["quantiles"].sel(quantile=0.5)) == pytest.approx(
        np.quantile(known, 0.5, method="lower"), rel=0.0101
    )


@pytest.mark.parametrize(
    ("by", "name", "labels"),
    [
        ("kind", "kind", KINDS),
        ("prompt", "prompt", ["a blue cross", "a red disc"] * 3 + ["a blue cross"]),
        ("seed", "seed", list(range(7))),
        (lambda trace: [seed % 2 for seed in trace.runs["seed"].values], "lambda", [0, 1, 0, 1, 0, 1, 0]),
        (xr.DataArray(list("xxyyxyx"), dims="run", name="half"), "half", list("xxyyxyx")),
    ],
)
def test_groups_are_those_of_the_label(trace, by, name, labels):
    made = quiet(trace, "annotation:quality", by=by, block=3)["quality"]
    for label in set(labels) - {""}:
        own = SCORES[[one == label for one in labels]]
        own = own[~np.isnan(own)]
        assert int(made["n"].sel({name: label})) == len(own)
        if len(own):
            assert float(made["mean"].sel({name: label})) == pytest.approx(own.mean(), rel=1e-12)
    assert set(made[name].values.tolist()) == set(labels) - {""}


def test_request_values_and_two_labels_group(tools):
    leaf = tools.leaf_of("text", (2, 2), keys=8)
    store, _ = tools.make_store(
        (leaf,), runs=4, annotations=lambda row: {"quality": float(row), "half": "lr"[row // 2]}
    )
    group = store.group["request"]
    for row in range(4):
        group[row] = json.dumps({"guidance_scale": 1.0 + row % 2, "latents": {"array": "x"}})
    made = quiet(open_trace(store), "annotation:quality", by=("guidance_scale", "half"))["quality"]
    assert made["mean"].dims == ("guidance_scale", "half")
    assert made["mean"].sel(guidance_scale=2.0, half="r").item() == 3.0


def test_a_label_of_the_statistic_groups_over_runs_and_its_own_dim(trace):
    def words(trace):
        values = np.stack([np.array([row, 10.0]) for row in trace.runs["seed"].values])
        pos = np.array([["noun", "verb"] if row % 2 else ["noun", "noun"] for row in trace.runs["seed"].values])
        return xr.DataArray(values, dims=("run", "word"), coords={"word": ["w0", "w1"], "pos": (("run", "word"), pos)})

    made = quiet(trace, words, by="pos", block=2)["words"]
    # Nouns: 0..6, and 10 of the even runs; verbs: 10 of the odd ones.
    assert made["n"].sel(pos="noun").item() == 7 + 4
    assert made["mean"].sel(pos="noun").item() == pytest.approx((21 + 40) / 11)
    assert made["n"].sel(pos="verb").item() == 3
    assert quiet(trace, words)["words"]["mean"].dims == ("word",)


@pytest.mark.parametrize("block", [1, 2, 7])
def test_blocks_do_not_change_the_result(trace, block):
    asked = {"annotation:quality": {}, "annotation:many": {}}
    whole = quiet(
        trace, asked, by="kind", correlate=[("quality", "quality")], histogram=[0, 1, 9], block=5, cache=False
    )
    made = quiet(
        trace, asked, by="kind", correlate=[("quality", "quality")], histogram=[0, 1, 9], block=block, cache=False
    )
    xr.testing.assert_allclose(made.dataset, whole.dataset, rtol=1e-12)
    xr.testing.assert_identical(made.scores.drop_attrs(), whole.scores.drop_attrs())


def test_maps_have_their_mean_and_spread(trace):
    made = quiet(trace, maps=("ulam", {"direction": "g2r"}), block=3)["ulam"]
    full = maps.ulam(trace, "g2r").values.astype(np.float64)
    np.testing.assert_allclose(made["mean"], full.mean(0), rtol=1e-12)
    np.testing.assert_allclose(made["std"], full.std(0, ddof=1), rtol=1e-9)
    words = quiet(trace, maps=("daam", {"word": "disc"}), block=1)["daam"]
    assert set(np.unique(words["n"]).tolist()) == {3}, "runs without the word do not count"


def test_correlation_is_of_pairs(trace):
    def half(trace):
        values = trace.annotations["quality"] / 2
        return values.where(trace.annotations["quality"] < 3)

    made = quiet(trace, ["annotation:quality", half], correlate=[("quality", "half")], block=2).correlations
    pair = made["quality", "half"]
    assert pair["n"].item() == 5
    assert pair["pearson"].item() == pytest.approx(1.0)
    assert pair["spearman"].item() == pytest.approx(1.0)


def test_partial_surveys_add_up_and_can_be_saved(trace, tmp_path):
    asked = {"by": "kind", "cache": False, "correlate": [("quality", "quality")], "histogram": [0.0, 2.0]}
    whole = quiet(trace, "annotation:quality", **asked)
    first = quiet(trace.isel([0, 1, 2]), "annotation:quality", **asked).partial
    first.save(tmp_path / "first.npz")
    second = quiet(trace.isel([3, 4, 5, 6]), "annotation:quality", **asked).partial
    both = (second + Partial.load(tmp_path / "first.npz")).finish()
    xr.testing.assert_allclose(both.dataset.drop_attrs(), whole.dataset.drop_attrs(), rtol=1e-12)
    xr.testing.assert_identical(both.scores, whole.scores)
    resumed = quiet(trace, "annotation:quality", partial=Partial.load(tmp_path / "first.npz"), **asked)
    xr.testing.assert_allclose(resumed.dataset.drop_attrs(), whole.dataset.drop_attrs(), rtol=1e-12)
    with pytest.raises(InvalidValueError, match="is in both surveys"):
        first + first
    with pytest.raises(InvalidValueError, match="different things do not add up: by is"):
        (
            first
            + quiet(
                trace.isel([5]), "annotation:quality", cache=False, correlate=asked["correlate"], histogram=[0.0, 2.0]
            ).partial
        )
    (tmp_path / "no.npz").write_bytes(b"nothing")
    with pytest.raises(InvalidValueError, match="is no saved survey"):
        Partial.load(tmp_path / "no.npz")


def test_models_are_kept_apart(trace, tools):
    leaf = tools.leaf_of("text", (2, 2), keys=8)
    source, _ = tools.make_store((leaf,), runs=2, annotations=lambda row: {"quality": 9.0})
    second = open_trace(split(source, None, (0, 1), model="another", model_digest="1"))
    with pytest.raises(InvalidValueError, match=r"of model by hand \(0\) and .* of another \(1\)"):
        quiet([trace, second], "annotation:quality")
    made = quiet([trace, second], "annotation:quality", by="model")["quality"]
    assert made["mean"].sel(model="another").item() == 9.0
    assert quiet([trace, second], "annotation:quality", allow_models=True)["quality"]["n"].item() == 8


def test_incomplete_runs_are_left_out_and_counted(tools):
    leaf = tools.leaf_of("text", (2, 2), keys=8)
    store, _ = tools.make_store((leaf,), runs=4, complete=[0, 2], annotations=lambda row: {"quality": float(row)})
    made = quiet(open_trace(store, incomplete=True), "annotation:quality")
    assert made["quality"]["mean"].item() == 1.0
    assert list(made.attrs["incomplete_runs"].values()) == [2]
    assert "left out: 2 incomplete runs" in str(made)
    empty, _ = tools.make_store((leaf,), runs=1, complete=[])
    with pytest.raises(NotRecordedError, match="no complete run"):
        quiet(open_trace(empty), "annotation:quality")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda trace: 1.0, "returned float; a DataArray with dim run is needed"),
        (lambda trace: xr.DataArray([1.0], dims="layer"), "returned layer 1; a dim run with one entry"),
        (lambda trace: xr.DataArray([1.0], dims="run"), "returned run 1 for 7 runs"),
        (lambda trace: xr.DataArray(["x"] * 7, dims="run"), "numbers are needed"),
        (lambda trace: xr.DataArray([1.0] * 7, dims="run", coords={"run": list("gfedcba")}), "another order"),
        (lambda trace: xr.DataArray([np.nan] * 7, dims="run"), "is NaN for all 7 runs"),
    ],
)
def test_a_function_that_gives_no_number_a_run_is_refused(trace, function, message):
    with pytest.raises(InvalidValueError, match=message):
        quiet(trace, function)


def test_names_and_labels_that_are_not_there(trace):
    with pytest.raises(UnknownNameError, match="unknown statistic 'imacs'; did you mean 'imacs_r' or 'imacs_g'"):
        quiet(trace, "imacs")
    with pytest.raises(UnknownNameError, match="unknown option 'radius' in statistic 'pck1'"):
        quiet(trace, ("pck1", {"radius": 2}))
    with pytest.raises(UnknownNameError, match="unknown label 'kin'"):
        quiet(trace, "annotation:quality", by="kin")
    with pytest.raises(InvalidValueError, match="needs the option 'name'"):
        quiet(trace, "annotation")
    with pytest.raises(InvalidValueError, match="2 values for 7 runs"):
        quiet(trace, "annotation:quality", by=np.array(["x", "y"]))
    with pytest.raises(InvalidValueError, match="no statistic is asked"):
        quiet(trace)


def test_nothing_computes_before_the_block_and_a_block_computes_once(trace, computes):
    def brightness(trace):
        return trace.images.mean(("image_y", "image_x", "rgb"))

    with computes(3):
        made = quiet(trace, {"annotation:quality": {}}, maps="ulam", block=3)
    assert made["quality"]["n"].item() == 6
    with computes(4):
        quiet(trace, [brightness], block=2)


def test_files_are_whole_and_read_back(trace, tmp_path):
    import pandas as pd

    made = quiet(trace, ["annotation:quality", "annotation:many"], by="kind", correlate=[("quality", "quality")])
    for name in ("a.nc", "a.parquet", "a.csv", "a.png", "a.runs.parquet", "a.runs.nc"):
        made.save(tmp_path / name)
    with xr.open_dataset(tmp_path / "a.nc", engine="scipy") as read:
        assert read["quality_n"].sel(kind="b").item() == 3
        assert json.loads(read.attrs["by"]) == ["kind"]
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert table[(table["statistic"] == "quality") & (table["kind"] == "b")]["mean"].item() == pytest.approx(2.75 / 3)
    assert len(pd.read_parquet(tmp_path / "a.runs.parquet")) == 21
    with pytest.raises(InvalidValueError, match="the suffix chooses the format"):
        made.save(tmp_path / "a.txt")
    with pytest.raises(InvalidValueError, match="does not exist"):
        made.save(tmp_path / "no" / "a.nc")
    assert not [path for path in tmp_path.iterdir() if ".part" in path.name]

"""The recipe of I2AM Table 2 on stores of known Q and K, and the diagnostics as registered statistics."""

import numpy as np
import pytest

from attlas.analysis import open_trace, recipes
from attlas.analysis.diagnostics import cwg, dcml, tv
from attlas.analysis.recipes.debugging import PAPER, table2
from attlas.analysis.registry import statistic_of
from attlas.analysis.scoring.picture_metrics import ssim
from attlas.analysis.scoring.reference_scores import sram_peaks, true_patches
from attlas.analysis.scoring.upright import upright_places
from attlas.schemas import Annotation
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError

RUNS = 4
FUNCTIONS = {"dcml": dcml, "tv": tv, "cwg": cwg}


def annotations(row):
    rng = np.random.default_rng(100 + row)
    dress = np.zeros((16, 16), bool)
    dress[2 : 12 + row % 2, 3:13] = True
    y, x = np.indices((16, 16)).astype("f4")
    lies = np.where(dress[..., None], np.stack([x, y], -1), np.nan).astype("f4")
    upright = np.where(dress[..., None], np.stack([y, x], -1), np.nan).astype("f4")
    return {
        "dress": Annotation(dress, "object"),
        "shown": Annotation(dress.T.copy(), "reference_object"),
        "lies": Annotation(lies, "correspondence"),
        "uv_lookup": upright,
        "true": Annotation(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), "target"),
    }


@pytest.fixture(scope="module")
def traces(tools):
    """Base, refined, and a control of fewer runs: random, so that nothing but the arithmetic is told."""
    leaves = (
        tools.leaf_of("image", (4, 4), layers=2, key_grid=(4, 4), cls=True),
        tools.leaf_of("image", (2, 2), layers=1, key_grid=(4, 4), cls=True),
    )
    made = [
        tools.make_store(leaves, runs=runs, seed=seed, annotations=annotations, spread=2.0)[0]
        for seed, runs in ((0, RUNS), (1, RUNS), (2, RUNS - 1))
    ]
    return [open_trace(store) for store in made]


@pytest.fixture(scope="module")
def made(traces):
    return table2(traces, progress=False, samples=2)


def row_of(table, name):
    (row,) = (row for row in table.rows if row[0] == name)
    return dict(zip(table.columns, row, strict=True))


def test_it_is_found_by_its_name():
    assert recipes.find("i2am-table2") is table2


def test_rows_of_the_paper_stand_below_ours(made):
    table = made.tables[0]
    assert [row[0] for row in table.rows[:3]] == ["ours: base", "ours: control", "ours: refined"]
    assert row_of(table, "paper: Refined custom")["IMACS_g"] == PAPER["Refined custom"][4] == 0.2215
    assert row_of(table, "ours: base")["FID"] is None
    assert "FID" in str(table)


def test_differences_are_pair_by_pair(made, traces):
    values = [ssim(trace.images, trace.annotations["true"]).values.astype("f8") for trace in traces]
    row = row_of(made.tables[1], "SSIM")
    for name, own in zip(("base", "refined", "control"), values, strict=True):
        assert row[name].value == pytest.approx(own.mean(), abs=2e-6)
        assert row[name].n == len(own)
    gain = values[1] - values[0]
    assert row["refined - base"].value == pytest.approx(gain.mean(), abs=2e-6)
    assert row["refined - base"].ci95 == pytest.approx(1.96 * gain.std(ddof=1) / 2, abs=2e-6)
    beside = (values[1][: RUNS - 1] - values[2]).mean()
    assert row["refined - control"].value == pytest.approx(beside, abs=2e-6)
    assert row["refined - control"].n == RUNS - 1


def test_pck_and_the_refined_layer(made, traces):
    best = {}
    for layer in traces[0].leaves["image/4x4"].layers:
        off = (sram_peaks(traces[0], layers=layer) - true_patches(traces[0], layers=layer)) ** 2
        off = np.sqrt(off.sum("coordinate", skipna=False)).values.reshape(RUNS, -1)
        best[layer] = np.mean([(own[~np.isnan(own)] <= 1).mean() for own in off])
    layer = max(best, key=best.get)
    assert made.settings["refined_layer"] == layer
    assert row_of(made.tables[1], "refined layer: PCK@1")["base"].value == pytest.approx(best[layer], abs=1e-5)


def test_what_the_intervals_allow_is_said(made, traces):
    text = str(made)
    assert "not computed: they need a trained feature network" in text
    assert "the control, which was trained as long without the losses" in text
    for what in ("IMACS_g", "IMACS_r", "PCK@1", "SSIM"):
        row = row_of(made.tables[1], what)["refined - base"]
        said = next(note for note in made.notes if note.startswith(f"{what}: ") and "the base" in note)
        word = "higher" if row.value > row.ci95 else "lower" if row.value < -row.ci95 else "not told"
        assert f"refined is {word}" in said
    alone = table2(traces[:2], progress=False, samples=1)
    assert "Without a control" in str(alone)
    assert "control" not in alone.tables[1].columns


def test_pictures(made, tmp_path):
    before, bars = made.figures.values()
    assert len(before.axes) == 2 * 2 * 6 + 1  # two runs, before and after, six panels each, and the colour bar
    (axes,) = bars.axes
    assert "95 %" in axes.get_xlabel()
    made.save(tmp_path, dpi=40)
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_stores_without_a_run_in_common(tools, traces):
    leaf = tools.leaf_of("image", (4, 4), key_grid=(4, 4))
    bare = open_trace(tools.make_store((leaf,), runs=1)[0])
    with pytest.raises(NotRecordedError, match="lacks"):
        table2([traces[0], bare])
    with pytest.raises(InvalidValueError, match="refined_layer 'image' names layers of several grids"):
        table2(traces[:2], progress=False, refined_layer="image")
    with pytest.raises(InvalidValueError, match="no run in common"):
        table2([traces[0].isel([0]), traces[1].isel([1])])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_statistics_are_the_diagnostics_of_the_object(name, traces, computes):
    trace = traces[0]
    function = statistic_of(name).function
    with computes(0):
        lazy = function(trace)
    assert lazy.dims == ("run", "layer")
    expected = FUNCTIONS[name](
        trace, trace.annotations["dress"], keep="layer", reduction="mean", coordinates=upright_places(trace, (4, 4))
    )
    np.testing.assert_allclose(lazy.compute(), expected.compute(), rtol=1e-5)
    flat = function(trace, layers="4x4", keep=(), places="patches").compute()
    assert flat.dims == ("run",)
    if name == "dcml":
        assert not np.allclose(flat, function(trace, layers="4x4", keep=()).compute())
    with pytest.raises(UnknownNameError, match="unknown places 'up'"):
        function(trace, places="up")

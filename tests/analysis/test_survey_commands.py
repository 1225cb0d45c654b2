"""`attlas survey`, and files of `attlas map` and `attlas score`: what they print, write and refuse."""

import json

import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner
from PIL import Image

from attlas.schemas import simulate_store
from attlas.schemas.cli.group import attlas
from attlas.schemas.errors import InvalidValueError, UnknownNameError


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("survey") / "a.zarr"
    simulate_store(path, runs=4, kinds=("image", "text"))
    return str(path)


def run(*words):
    result = CliRunner().invoke(attlas, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def assert_picture(path):
    with Image.open(path) as picture:
        assert min(picture.size) > 300


def test_a_survey_prints_intervals_and_writes_every_format(path, tmp_path):
    outs = [word for name in ("a.png", "a.nc", "a.parquet", "a.csv") for word in ("--out", tmp_path / name)]
    told = run(
        "survey", path, "--statistic", "annotation:quality", "--by", "prompt", "--map", "ulam", "--quiet", *outs
    )  # fmt: skip
    assert "quality: a number noted of each run" in told
    assert "+-" in told
    assert f"wrote {tmp_path / 'a.csv'}" in told
    assert pd.read_parquet(tmp_path / "a.parquet")["statistic"].unique().tolist() == ["quality"]
    assert pd.read_csv(tmp_path / "a.csv")["n"].sum() == 4
    with xr.open_dataset(tmp_path / "a.nc", engine="scipy") as read:
        assert read["ulam"].dims == ("prompt", "query_y", "query_x")
    assert_picture(tmp_path / "a.png")


def test_json_histograms_and_partial_files(path, tmp_path):
    part = tmp_path / "part.npz"
    asked = ("survey", path, "--statistic", "annotation:quality", "--histogram", "0,0.5,1", "--json", "--partial", part)
    first, again = json.loads(run(*asked)), json.loads(run(*asked))
    assert first["statistics"] == again["statistics"]
    assert first["statistics"][0]["n"] == 4
    assert again["attributes"]["runs"] == 4


def test_the_list_tells_names_and_labels(path):
    told = run("survey", "--list", path)
    assert "imacs_g" in told
    assert "psnr" in told
    assert "[dB]" in told
    assert "ulam" in told
    assert "prompt" in told.partition(f"labels of {path}")[2]


def test_bad_input_leaves_no_file(path, tmp_path):
    with pytest.raises(InvalidValueError, match="the suffix chooses the format"):
        run("survey", path, "--statistic", "annotation:quality", "--out", tmp_path / "a.txt")
    with pytest.raises(UnknownNameError, match="unknown statistic 'imacs_x'"):
        run("survey", path, "--statistic", "imacs_x", "--out", tmp_path / "a.png")
    with pytest.raises(InvalidValueError, match="two statistics joined by a comma"):
        run("survey", path, "--correlate", "pck1")
    with pytest.raises(InvalidValueError, match="numbers joined by commas"):
        run("survey", path, "--statistic", "pck1", "--quantiles", "half")
    assert "Missing argument" in CliRunner().invoke(attlas, ["survey"]).output
    assert list(tmp_path.iterdir()) == []


def test_a_map_as_a_table_has_a_row_a_number(path, tmp_path):
    run("map", path, "--map", "llam", "--all-runs", "--out", tmp_path / "m.parquet")
    table = pd.read_parquet(tmp_path / "m.parquet")
    assert {"run", "layer", "query_y", "query_x", "map"} <= set(table.columns)
    assert table["run"].nunique() == 4
    with pytest.raises(InvalidValueError, match=r"\.png, \.nc or \.parquet is accepted"):
        run("map", path, "--map", "llam", "--out", tmp_path / "m.gif")


def test_scores_as_table_netcdf_and_figure(path, tmp_path):
    for suffix in ("json", "parquet", "csv", "nc", "png"):
        run("score", path, "--quiet", "--out", tmp_path / f"s.{suffix}")
    table = pd.read_parquet(tmp_path / "s.parquet").set_index("score")
    told = json.loads((tmp_path / "s.json").read_text())
    known = {name: score["value"] for part in told[path] for name, score in part["scores"].items()}
    assert table["value"].dropna().to_dict() == {name: value for name, value in known.items() if value is not None}
    with xr.open_dataset(tmp_path / "s.nc", engine="scipy") as read:
        name = table["value"].dropna().index[0]
        assert read["value"].isel(store=0).sel(score=name).item() == known[name]
    assert_picture(tmp_path / "s.png")

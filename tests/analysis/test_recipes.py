"""What all recipes share: the list, the checks, the tables, and files that are complete or not there."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from attlas.analysis import open_trace, recipes
from attlas.analysis.commands.recipe import recipe as command
from attlas.analysis.recipes import Need, RecipeResult, Table
from attlas.analysis.recipes.figures import Line, Panel, axes_grid, curves, drawing, painted, sheet
from attlas.analysis.recipes.recipe import DEMO_STORES
from attlas.analysis.recipes.settings import settings_of
from attlas.analysis.scoring.score_table import Score
from attlas.schemas import simulate_store
from attlas.schemas.errors import AttlasError, InvalidValueError, NotRecordedError, UnknownNameError

PAPERS = ("I2AM", "DAAM", "Selective")


@recipes.recipe(
    "pair", title="A test", paper="no paper", stores=("tryon",), optional=("tryon-random",), comparable=False
)
def pair(traces, *, progress=True, rows=2):
    with drawing():
        figure, axes = axes_grid(1)
        curves(axes[0][0], {"a": Line([0, 1], [0, 1], [0, 0], [1, 1])}, x="x", y="y")
    cells = [("a", 1.5, Score("", 0.25, 4, 0.125, "")), ("b", None, None)][:rows]
    picture = np.zeros((4, 4, 3), np.uint8)
    return RecipeResult(
        [Table("first", ("name", "paper", "ours"), cells), Table("second", ("n",), [(1,), (2,)])],
        {"curve": figure, "sheet": sheet([[Panel(picture), None]], row_labels=["run"], column_labels=["picture"])},
        ["not comparable"],
        settings_of(traces, threshold="none"),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as `attlas demo` leaves it, of tiny stores; those of the later recipes are missing."""
    place = tmp_path_factory.mktemp("demo")
    simulate_store(place / "tryon.zarr", kinds=("image",))
    (place / "baselines").mkdir()
    simulate_store(place / "baselines/tryon-random.zarr", kinds=("image",), seed=1)
    return place


@pytest.fixture(scope="module")
def trace(folder):
    return open_trace(folder / "tryon.zarr")


@pytest.fixture(scope="module")
def made(trace):
    return pair([trace])


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_what_the_list_says(name):
    own = recipes.find(name)
    assert own.name == name
    assert own.title
    assert own.paper.startswith(PAPERS)
    assert own.stores
    assert {need.name for need in (*own.stores, *own.optional)} <= set(DEMO_STORES)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_says_what_a_store_lacks(name):
    other = open_trace(simulate_store(runs=1, kinds=("self",)))
    own = recipes.find(name)
    with pytest.raises(NotRecordedError, match=f"recipe {name} needs {own.stores[0].name}: attention of kind") as err:
        recipes.run(name, [other] * len(own.stores))
    assert "it holds self" in str(err.value)


def test_the_list_imports_neither_recipes_nor_matplotlib():
    code = (
        "import sys; from attlas.analysis import recipes; names = list(recipes.RECIPES)\n"
        "print([m for m in sys.modules if 'matplotlib' in m or 'i2am_' in m])\n"
        "list(recipes.every()); print([m for m in sys.modules if 'matplotlib' in m])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert out.stdout.split() == ["[]", "[]"]


def test_unknown_names(trace):
    with pytest.raises(UnknownNameError, match="unknown recipe 'i2am-fi20'; did you mean 'i2am-fig20'"):
        recipes.run("i2am-fi20", [trace])
    with pytest.raises(UnknownNameError, match="unknown option 'row' in recipe pair; did you mean 'rows'"):
        pair([trace], row=1)
    with pytest.raises(UnknownNameError, match="unknown demo store 'tryin'; did you mean 'tryon'"):
        Need("tryin")


def test_needs(trace):
    with pytest.raises(
        InvalidValueError, match="recipe pair takes 1 to 2 stores, got 3; in this order:\n  1. tryon: att"
    ):
        pair([trace] * 3)
    with pytest.raises(InvalidValueError, match="has no complete run; recipe pair needs tryon"):
        pair([trace.isel([])])
    summary = open_trace(simulate_store(runs=1, kinds=("image",), detail="summary"))
    need = Need("tryon", roles=("target", "correspondence"), full=True)
    assert str(need) == "tryon: attention of kind image or joint, full arrays, roles target, correspondence"
    assert need.lacking(summary) == [
        "an annotation with the role 'target'",
        "full arrays (it holds summaries only); record with --detail full",
    ]
    assert need.lacking(open_trace(simulate_store(runs=1, kinds=("text",))))[0].startswith("attention of kind image or")


def test_a_table_as_text_and_frame(made):
    first, second = made.tables
    assert str(first) == (
        "first\n  name  paper           ours\n  a       1.5  0.250 +-0.125\n  b         -              -"
    )
    frame = first.to_frame()
    assert list(frame.columns) == ["name", "paper", "ours", "ours ci95", "ours n"]
    assert frame.iloc[0].tolist() == ["a", 1.5, 0.25, 0.125, 4.0]
    assert frame.iloc[1, 1:].isna().all()
    assert second.to_frame()["n"].dtype == np.int64
    with pytest.raises(ValueError, match="table 'short': a row has 1 cells for 2 columns"):
        Table("short", ("a", "b"), [(1,)])


def test_the_result_tells_all(made, trace):
    text = str(made)
    for part in (
        "pair: no paper. A test",
        "first\n",
        "figures\n  1. curve\n  2. sheet",
        "* not comparable",
        "threshold: none",
    ):
        assert part in text
    source = made.settings["store tryon"]
    assert f"{trace.manifest.model} (weights" in source
    assert "3 calls; 2 runs, seeds 0, 1; branches uncond, cond" in source


def test_files_of_a_result(made, tmp_path):
    place = made.save(tmp_path, dpi=40)
    assert place == tmp_path / "pair"
    assert sorted(path.name for path in place.iterdir()) == [
        "pair-1.csv", "pair-1.parquet", "pair-1.png", "pair-2.csv", "pair-2.parquet", "pair-2.png", "pair.txt",
        "provenance.json",
    ]  # fmt: skip
    assert (place / "pair.txt").read_text() == f"{made}\n"
    with (place / "pair-1.csv").open() as file:
        assert list(csv.reader(file))[1] == ["a", "1.5", "0.25", "0.125", "4.0"]
    pd.testing.assert_frame_equal(
        pd.read_parquet(place / "pair-1.parquet"), made.tables[0].to_frame(), check_dtype=False
    )
    assert json.loads((place / "provenance.json").read_text())["settings"] == made.settings
    small, large = (size_of(made.save(tmp_path / "again", dpi=dpi) / "pair-2.png") for dpi in (40, 80))
    assert abs(large[0] - 2 * small[0]) <= 2


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def test_nothing_is_left_that_looks_complete(made, tmp_path, monkeypatch):
    place = made.save(tmp_path, dpi=20)
    before = {path.name: path.read_bytes() for path in place.iterdir()}

    def full(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError, match="disk full"):
        made.save(tmp_path, dpi=20)
    with pytest.raises(OSError, match="disk full"):
        made.save(tmp_path / "new", dpi=20)
    assert [path.name for path in tmp_path.iterdir() if path.name != "new"] == ["pair"]
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(made, tmp_path):
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair/mine.txt").write_text("kept")
    with pytest.raises(InvalidValueError, match="pair holds something that no recipe wrote; choose another --out"):
        made.save(tmp_path)
    assert [path.name for path in (tmp_path / "pair").iterdir()] == ["mine.txt"]


def test_panels_are_crisp_and_stronger_where_the_map_is_higher():
    picture = np.full((2, 2, 3), 100, np.uint8)
    values = np.array([[0.0, 1.0], [2.0, 4.0]])
    pixels = painted(Panel(picture, values)).astype(int)
    assert pixels.shape == (320, 320, 3)
    cells = pixels[[80, 80, 240, 240], [80, 240, 80, 240]]
    assert (pixels[:160, :160] == cells[0]).all()
    distance = abs(cells - 100).sum(1)
    assert distance[3] == distance.max()
    limited = painted(Panel(picture, values, limits=(0, 8))).astype(int)
    assert (limited[240, 240] == painted(Panel(picture, values / 2, limits=(0, 4)))[240, 240]).all()
    assert (limited[240, 240] != pixels[240, 240]).any()
    assert (painted(Panel(picture)) == 100).all()
    with pytest.raises(ValueError, match="a panel needs a picture or a map"):
        painted(Panel())


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_command_lists_and_runs(folder, tmp_path):
    listed = run("list").output
    assert all(name in listed for name in recipes.RECIPES)
    told = json.loads(run("list", "--json").output)
    assert [own["name"] for own in told] == list(recipes.RECIPES)
    ran = run("run", "i2am-fig16", folder / "tryon.zarr", "--out", tmp_path, "--dpi", 30, "-o", "samples=1", "--quiet")
    assert ran.exit_code == 0, ran.output
    assert f"wrote {tmp_path / 'i2am-fig16'}" in ran.output
    assert "1 runs, seeds 0" in ran.output
    assert (tmp_path / "i2am-fig16/i2am-fig16.png").is_file()
    # A folder as the demo leaves it gives the same store.
    again = run("run", "i2am-fig16", folder, "-o", "samples=1", "--quiet")
    assert again.output.strip() in ran.output


def test_the_command_refuses(folder):
    assert isinstance(run("run", "all", folder / "tryon.zarr").exception, InvalidValueError)
    assert isinstance(run("run", "all", folder, "-o", "samples=1").exception, InvalidValueError)
    assert "KEY=VALUE" in str(run("run", "i2am-fig16", folder, "-o", "samples").exception)
    lacking = run("run", "i2am-fig11", folder)
    assert "needs " + str(folder / "tryon-guided.zarr") in str(lacking.exception)


def test_all_runs_what_it_can_and_says_what_it_cannot(folder, tmp_path, monkeypatch):
    known = {name: recipes.RECIPES[name] for name in ("i2am-fig8", "i2am-fig11", "i2am-fig16")}
    monkeypatch.setattr(recipes, "RECIPES", known)
    ran = run("run", "all", folder, "--out", tmp_path, "--dpi", 20, "--quiet")
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["i2am-fig16", "i2am-fig8"]
    assert isinstance(ran.exception, AttlasError)
    assert str(ran.exception).startswith("1 recipes not run\ni2am-fig11: recipe i2am-fig11 needs")
    # The second store of the folder is the one that fig8 can use beside the first.
    assert {
        row[0] for row in recipes.find("i2am-fig8")([open_trace(folder / "tryon.zarr")], progress=False).tables[0].rows
    } == {"tryon"}
    assert "tryon-random" in (tmp_path / "i2am-fig8/i2am-fig8.txt").read_text()

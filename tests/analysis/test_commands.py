import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from PIL import Image

from attlas.analysis import maps, open_trace
from attlas.analysis.commands.contents import info
from attlas.analysis.commands.maps import map_
from attlas.analysis.commands.scores import score
from attlas.schemas import simulate_store
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    target = tmp_path_factory.mktemp("commands") / "store.zarr"
    simulate_store(target, runs=2)
    return str(target)


def run(command, *arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("arguments", "tiles"),
    [
        (["--map", "ulam"], (1, 1)),
        (["--map", "ulam", "--direction", "g2r", "--all-runs"], (2, 1)),
        (["--map", "tlam"], (1, 3)),
        (["--map", "tlam", "--groups", "2"], (1, 2)),
        (["--map", "hlam", "--kind", "self"], (1, 2)),
        (["--map", "llam", "--run", "0001", "--run", "0000"], (2, 2)),
        (["--map", "sram", "--patch", "1,2"], (1, 2)),
        (["--map", "reverse-sram", "--patch", "0,0,2,2", "--layers", "blocks.1"], (1, 1)),
        (["--map", "daam", "--word", "disc", "--variant", "released", "--threshold", "0.4"], (1, 1)),
    ],
)
def test_every_map_as_a_picture(store, tmp_path, arguments, tiles):
    target = tmp_path / "map.png"
    output = run(map_, store, *arguments, "--out", target)
    assert f"wrote {target}" in output
    rows, columns = tiles
    # Pictures of 32 pixels are enlarged eightfold, with 2 pixels between them.
    with Image.open(target) as picture:
        assert picture.size == (columns * 256 + 2 * (columns - 1), rows * 256 + 2 * (rows - 1))


def test_numbers_as_netcdf(store, tmp_path):
    target = tmp_path / "map.nc"
    run(
        map_,
        store,
        "--map",
        "tlam",
        "--direction",
        "g2r",
        "--all-runs",
        "--steps",
        "0:2",
        "--heads",
        "1",
        "--out",
        target,
    )
    expected = maps.tlam(open_trace(store), "g2r", steps=[0, 1], heads=[1]).compute()
    with xr.open_dataarray(target) as made:
        assert made.dims == expected.dims
        np.testing.assert_array_equal(made, expected)
        assert made["run"].values.tolist() == ["0000", "0001"]
        assert made.attrs["direction"] == "g2r"
        assert made.attrs["inert"] == 0


def test_tokens_and_large_seeds_fit_netcdf(tools, tmp_path):
    trace = open_trace(simulate_store(runs=1, kinds=("text",)))
    from attlas.analysis.output.pictures import save_map

    values = maps.ulam(trace, "g2r").assign_coords(seed=("run", [2**40]))
    save_map(trace, values, tmp_path / "tokens.nc")
    with xr.open_dataarray(tmp_path / "tokens.nc") as made:
        assert made["token"].values.tolist()[0][1:4] == ["a", "red", "disc"]
        assert made["seed"].values.tolist() == [str(2**40)]


def test_numbers_as_json(store):
    told = json.loads(
        run(map_, store, "--map", "sram", "--patch", "1,0", "--heads", "blocks.0.attn2:0,blocks.1.attn2:1", "--json")
    )
    assert told["sizes"] == {"run": 1, "layer": 2, "key_y": 4, "key_x": 4}
    assert told["attributes"]["heads"] == "blocks.0.attn2:0, blocks.1.attn2:1"
    assert [one["layer"] for one in told["maps"]] == ["blocks.0.attn2", "blocks.1.attn2"]
    trace = open_trace(store).sel("0000")
    expected = maps.sram(trace, (1, 0), heads=[("blocks.0.attn2", 0)], layers="blocks.0").compute()[0, 0]
    assert told["maps"][0]["max"] == pytest.approx(float(expected.max()))
    assert told["maps"][0]["peak"] == list(np.unravel_index(int(expected.values.argmax()), (4, 4)))
    tokens = json.loads(run(map_, store, "--map", "ulam", "--direction", "g2r", "--kind", "text", "--json"))
    assert tokens["maps"][0]["tokens"][1:4] == ["a", "red", "disc"]
    assert len(tokens["maps"][0]["values"]) == 10


def test_scores(store):
    assert "noun_iou" in run(score, store)
    told = json.loads(run(score, store, "--json"))[store]
    assert [table["title"].split()[0] for table in told] == ["word", "reference", "numbers"]
    assert told[1]["scores"]["sram_pck1"]["n"] == 2


def test_scores_of_two_stores_stand_side_by_side(store, tmp_path):
    other = str(tmp_path / "other.zarr")
    simulate_store(other, runs=3, kinds=("image",), seed=5)
    text = run(score, store, other, "--out", tmp_path / "scores.json", "--quiet")
    (line,) = (line for line in text.splitlines() if line.startswith("sram_pck1"))
    assert "n=2" in line
    assert "n=3" in line
    assert [line.split()[:2] for line in text.splitlines() if line.startswith(" ")][1] == ["store", "other"]
    assert set(json.loads((tmp_path / "scores.json").read_text())) == {store, other}


def test_info(store):
    text = run(info, store)
    assert "2 runs, 3 calls, branches uncond, cond" in text
    assert "0 runs incomplete" in text
    told = json.loads(run(info, store, "--json"))
    assert told["runs"] == {"complete": 2, "incomplete": 0}
    assert told["leaves"]["text/4x4"]["encoding"] == "dense"
    assert told["bytes"] == sum(file.stat().st_size for file in Path(store).rglob("*") if file.is_file())
    assert told["capture"]["detail"] == "full"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--map", "daam"], "daam needs --word"),
        (["--map", "sram"], "sram needs --patch"),
        (["--map", "sram", "--patch", "1;2"], "--patch '1;2'; whole numbers joined by commas"),
        (["--map", "ulam", "--word", "disc"], "--word belongs to daam, not to ulam"),
        (["--map", "ulam", "--heads", "top:2"], "--heads top: belongs to daam, not to ulam"),
        (["--map", "ulam", "--open-vocabulary"], "--open-vocabulary belongs to daam, not to ulam"),
        (["--map", "daam", "--word", "disc", "--heads", "top:x"], "--heads 'top:x'; a number of heads or a fraction"),
        (["--map", "daam", "--word", "disc", "--over", "alone"], "--text and --over go with --open-vocabulary"),
        (["--map", "hlam", "--groups", "3"], "--groups belongs to tlam, not to hlam"),
        (["--map", "ulam", "--run", "0007"], "unknown run '0007'"),
        (["--map", "ulam", "--out", "map.jpg"], "map.jpg: the suffix chooses the format; .png, .nc or .parquet"),
        (["--map", "ulam", "--direction", "g2r", "--kind", "text", "--out", "map.png"], "a map of tokens has no place"),
    ],
)
def test_wrong_arguments(store, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InvalidValueError, UnknownNameError), match=message):
        CliRunner().invoke(map_, [store, *arguments], catch_exceptions=False)
    assert not list(tmp_path.iterdir())


def test_the_heads_that_agree_best(store):
    options = ["--map", "daam", "--word", "disc", "--json"]
    every, half, one = (
        json.loads(run(map_, store, *options, *more))["attributes"]["heads"]
        for more in ([], ["--heads", "top:0.5"], ["--heads", "top:1"])
    )
    assert every == "all"
    assert (half.count(":"), one.count(":")) == (2, 1)
    assert one in half


def test_a_word_of_the_vocabulary(tools, tmp_path):
    leaf = replace(tools.leaf_of("text", (4, 4), keys=6), features=5)
    store, _ = tools.make_store((leaf,), runs=1, prompts=["a cat"], path=tmp_path / "words.zarr")
    tools.add_vocabulary(store, {"dog": ["dog"], "a red dog": ["a", "red", "dog"]})
    options = ["--map", "daam", "--word", "dog", "--open-vocabulary", "--json"]
    alone = json.loads(run(map_, str(store.path), *options))
    within = json.loads(run(map_, str(store.path), *options, "--text", "a red dog", "--over", "prompt"))
    assert (alone["attributes"]["vocabulary"], alone["attributes"]["softmax_over"]) == ("dog", "alone")
    assert (within["attributes"]["vocabulary"], within["attributes"]["softmax_over"]) == ("a red dog", "prompt")
    assert alone["maps"][0]["max"] != within["maps"][0]["max"]


def test_nothing_to_show(tools, tmp_path):
    tools.make_store((tools.leaf_of("self", (2, 2)),), runs=0, path=tmp_path / "empty.zarr")
    with pytest.raises(InvalidValueError, match="has no complete run"):
        CliRunner().invoke(map_, [str(tmp_path / "empty.zarr"), "--map", "ulam"], catch_exceptions=False)
    with pytest.raises(NotRecordedError):
        CliRunner().invoke(score, [str(tmp_path / "empty.zarr")], catch_exceptions=False)


def test_the_shell_sees_one_message_and_status_2(store):
    command = Path(sys.executable).with_name("attlas")
    done = subprocess.run(
        [command, "map", store, "--map", "daam", "--word", "dsic"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("attlas: unknown word 'dsic'")
    assert "Traceback" not in done.stderr

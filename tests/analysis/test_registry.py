"""Statistics and maps by name: registered, found in packages and files, and known everywhere."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from attlas.analysis import registry
from attlas.analysis.plugins import load_plugins
from attlas.analysis.registry import map_of, statistic, statistic_of
from attlas.schemas import simulate_store
from attlas.schemas.cli.group import attlas
from attlas.schemas.errors import InvalidValueError, UnknownNameError

EXAMPLE = Path(__file__).parents[2] / "examples" / "attention-entropy"


@pytest.fixture
def own_names(monkeypatch):
    """Names that a test registers are gone after it."""
    for known in (registry._STATISTICS, registry._MAPS):
        known.load()
        monkeypatch.setattr(known, "entries", dict(known.entries))


def test_names_are_looked_up_with_the_close_ones():
    assert statistic_of("pck1").units == "1"
    assert statistic_of("psnr").units == "dB"
    with pytest.raises(UnknownNameError, match="unknown statistic 'pck'; did you mean 'pck2' or 'pck1'"):
        statistic_of("pck")
    with pytest.raises(UnknownNameError, match="unknown map 'ulm'; did you mean 'ulam'"):
        map_of("ulm")


def test_a_decorator_registers_and_a_cell_may_be_run_again(own_names):
    def made():
        @statistic("mine", units="dB", meaning="a test")
        def mine(trace, factor=2.0):
            return trace

        return mine

    made(), made()
    assert (statistic_of("mine").units, dict(statistic_of("mine").options)) == ("dB", {"factor": 2.0})
    with pytest.raises(InvalidValueError, match="'pck1' of .* is registered already, by attlas.analysis"):
        statistic("pck1")(lambda trace: trace)
    with pytest.raises(InvalidValueError, match="cannot be named 'a b'"):
        statistic("a b")(lambda trace: trace)
    with pytest.raises(InvalidValueError, match="takes no argument"):
        statistic("none")(lambda: None)


def test_a_broken_entry_point_is_told_and_does_not_stop_others(monkeypatch):
    class Point:
        name, value, dist = "broken", "nowhere:nothing", None

        def load(self):
            raise ImportError("No module named 'nowhere'")

    fresh = registry._Registry("statistic", "attlas.statistics", dict(registry._STATISTICS.load()))
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()])
    with pytest.warns(registry.BrokenPluginWarning, match="'broken' of nowhere:nothing cannot be loaded"):
        known = fresh.load()
    assert "pck1" in known


def test_a_file_is_a_plugin_for_the_command_line(own_names, tmp_path):
    simulate_store(tmp_path / "a.zarr", runs=2)
    file = tmp_path / "mine.py"
    file.write_text(
        "from attlas.analysis import map_function, maps, statistic\n"
        "@statistic('redness', meaning='mean of red')\n"
        "def redness(trace):\n    return trace.images.isel(rgb=0).mean(('image_y', 'image_x'))\n"
        "@map_function('squared')\n"
        "def squared(trace, power=2, direction='r2g'):\n    return maps.ulam(trace, direction) ** power\n"
    )

    def run(*words):
        result = CliRunner().invoke(attlas, [*words, "--plugin", str(file)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    store = str(tmp_path / "a.zarr")
    assert "redness" in run("survey", "--list")
    assert "redness: mean of red" in run("survey", store, "--statistic", "redness", "--quiet")
    assert "query_y" in run("map", store, "--map", "squared:power=3", "--out", str(tmp_path / "m.parquet"))
    assert (tmp_path / "m.parquet").exists()
    with pytest.raises(InvalidValueError, match="--word: map 'squared' takes power"):
        run("map", store, "--map", "squared", "--word", "x")
    with pytest.raises(InvalidValueError, match="there is no such file"):
        load_plugins([tmp_path / "no.py"])
    with pytest.raises(InvalidValueError, match="there is no such module"):
        load_plugins(["no_such_module_at_all"])


def test_the_shipped_example_is_known_to_survey_command_line_and_dashboard(tmp_path):
    """Installed as any package, beside attlas, in a process of its own."""
    target = tmp_path / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "attention_entropy.py", "README.md"):
        (copy / name).write_text((EXAMPLE / name).read_text())
    subprocess.run([*pip, "--no-build-isolation", "--no-index", "--target", str(target), str(copy)], check=True)
    code = """
import sys, warnings
warnings.simplefilter("error")
sys.path.insert(0, sys.argv[1])
from click.testing import CliRunner
from attlas.analysis import open_trace, survey
from attlas.dashboards.offering import offer_of
from attlas.schemas import simulate_store
from attlas.schemas.cli.group import attlas
simulate_store(sys.argv[2], runs=2)
trace = open_trace(sys.argv[2])
print(survey(trace, "entropy", progress=False)["entropy"]["n"].item())
print("entropy-map" in offer_of(trace, trace.isel([0])).maps)
print(CliRunner().invoke(attlas, ["survey", "--list"]).output)
print(CliRunner().invoke(attlas, ["map", sys.argv[2], "--map", "entropy-map", "--out", sys.argv[3]]).output)
"""
    asked = [sys.executable, "-c", code, str(target), str(tmp_path / "a.zarr"), str(tmp_path / "m.png")]
    told = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    assert told.splitlines()[:2] == ["2", "True"]
    assert "entropy of attention, mean over the picture [bit] (from attention-entropy 0.1.0)" in told
    assert "entropy of each place's mean attention, run 1 x query_y" in told
    assert (tmp_path / "m.png").exists()

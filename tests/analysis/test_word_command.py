"""Words on the command line."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from attlas.analysis import maps, open_trace
from attlas.analysis.commands.maps import map_


@pytest.fixture(scope="module")
def path(tools, tmp_path_factory):
    folder = tmp_path_factory.mktemp("words") / "words.zarr"
    tools.make_store((tools.leaf_of("text", (4, 4), keys=8),), path=folder, runs=1, prompts=["a cat and a cat"])
    return folder


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ([], {}),
        (["--occurrence", "1"], {"occurrence": 1}),
        (["--merge", "max"], {"merge": "max"}),
        (["--chunk", "0", "--normalize"], {"chunk": 0, "normalize": True}),
    ],
)
def test_options_of_a_word(path, given, options):
    out = CliRunner().invoke(map_, [str(path), "--map", "daam", "--word", "cat", *given, "--json"])
    assert out.exit_code == 0, out.output
    told = json.loads(out.output)
    assert told["attributes"]["merge"] == options.get("merge", "mean")
    wanted = maps.daam(open_trace(path), "cat", **options).values
    assert told["maps"][0]["max"] == pytest.approx(float(wanted.max()), rel=1e-5)
    assert np.isfinite(wanted).all()


def test_they_belong_to_daam(path):
    out = CliRunner().invoke(map_, [str(path), "--map", "ulam", "--kind", "text", "--merge", "max"])
    assert "--merge belongs to daam, not to ulam" in str(out.exception) + out.output

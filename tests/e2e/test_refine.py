"""`attlas demo-refine`: the losses of the analysis drive a training of the recorder's demo."""

import math
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from attlas.analysis.diagnostics import cwg, dcml, tv
from attlas.recorder.demo.tryon.refining import ALIGNED
from attlas.schemas.cli.group import attlas
from attlas.schemas.cli.refine import attention_losses
from attlas.schemas.errors import InvalidValueError, StoreExistsError


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_terms_are_the_diagnostics_weighted():
    """Each term is its weight times the mean over layers and samples."""
    attention = torch.from_numpy(np.random.default_rng(0).random((2, 3, 4, 4, 5, 5))) * 0.05
    queries, places = torch.rand(3, 4, 4) < 0.7, torch.rand(3, 5, 5, 2, dtype=torch.float64)
    terms = attention_losses({"dcml": 2.0, "tv": 0.5, "cwg": 3.0})(attention, queries, places)
    for (name, weight), function in zip({"dcml": 2.0, "tv": 0.5, "cwg": 3.0}.items(), (dcml, tv, cwg), strict=True):
        each = [
            float(function(attention[layer, n], queries[n], coordinates=places[n]))
            for layer in range(2)
            for n in range(3)
        ]
        assert float(terms[name]) == pytest.approx(weight * np.mean(each), rel=1e-9)


def test_the_command_trains_and_says_where_the_weights_are(tmp_path):
    short = ["demo-refine", "--out", str(tmp_path), "--steps", "2", "--scenes", "4"]
    done = CliRunner().invoke(attlas, short, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert f"Weights    {tmp_path / 'refined.safetensors'}" in done.output
    log = (tmp_path / "training.log").read_text()
    for name in ("diffusion", "dcml", "tv", "cwg"):
        told = [float(number) for number in re.findall(rf'"{name}": (-?[0-9.e-]+)', log)]
        assert len(told) == 2
        assert all(math.isfinite(number) for number in told)
    assert all(name.startswith(ALIGNED) for name in load_file(tmp_path / "refined.safetensors"))
    done = CliRunner().invoke(attlas, [*short, "--control"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "control.safetensors").exists()
    with pytest.raises(StoreExistsError, match=r"holds a training with other settings \(weights; see .*refined.json"):
        CliRunner().invoke(attlas, [*short, "--cwg", "7"], catch_exceptions=False)


def test_a_negative_weight_is_refused_before_any_work(tmp_path):
    with pytest.raises(InvalidValueError, match="--tv must not be negative; got -1"):
        CliRunner().invoke(
            attlas, ["demo-refine", "--out", str(tmp_path / "new"), "--tv", "-1"], catch_exceptions=False
        )
    assert not (tmp_path / "new").exists()

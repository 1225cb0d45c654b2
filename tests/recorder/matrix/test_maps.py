"""Maps of real recordings of sequences, videos and some words' keys: the word is where the row says, parts add up."""

import numpy as np
import pytest
import torch
from matrix.rows import rows

from attlas.analysis import maps, open_trace
from attlas.analysis.words import text_kind
from attlas.recorder import Capture, Recorder

NAMES = ("Stable Diffusion 3", "FLUX.1, one word's keys kept", "FLUX.1 Kontext", "Qwen-Image", "CogVideoX", "Wan")
ROWS = [row for row in rows() if row.name in NAMES]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_maps_of_a_recording(row):
    pipe = row.build()
    request = dict(row.request(pipe) if callable(row.request) else row.request)
    with Recorder(pipe, None, Capture(**row.capture)) as recorder:
        recorder(**request, generator=torch.Generator().manual_seed(0))
    trace = open_trace(recorder.store).isel([0])
    kind = text_kind(trace)
    (leaf,) = (leaf for leaf in trace.leaves.values() if leaf.kind == kind)
    full = trace.attention(kind, "g2r").sel(branch="cond").sum(("t", "layer", "head")).compute()
    for word, places in row.words.items():
        made = maps.daam(trace, word, kind=kind).compute()
        assert made.dims[1:] == ("query_frame", "query_y", "query_x")[-len(leaf.query_grid) :]
        expected = full.isel(key=list(places)).mean("key").values.reshape(made.shape)
        # From the mean over t, which is kept in float16.
        np.testing.assert_allclose(made, expected, rtol=5e-3, atol=1e-5)
    if kind == "joint" and not leaf.partial:
        parts = [maps.ulam(trace, "g2r", kind=kind, keys=part, source="full") for part in ("text", *leaf.key_parts)]
        # Calls, layers and heads: each gives its queries a share of 1 over the whole sequence.
        total = len(leaf.layers) * leaf.heads * trace.calls
        assert float(sum(part.sum() for part in parts).compute()) == pytest.approx(total, rel=1e-4)

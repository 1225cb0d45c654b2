"""Maps of words that were in no prompt, against plain numpy from Q, W_k and embeddings."""

import numpy as np
import pytest

from attlas.analysis import maps, open_trace
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError

TOLERANCE = {"alone": 1e-4, "prompt": 1e-3}
"""Relative; the stored logsumexp is rounded, and a weight follows its error."""


def attention(worded, tools, leaf, row, text, places, over):
    """Mean attention (t, layer, head, query) to some tokens of a text of the vocabulary, cond branch."""
    q, k = worded.vectors[leaf, row]
    logits = np.einsum("tlhqc,lhkc->tlhqk", q[1], worded.keys(leaf, text))
    if over == "alone":
        return tools.softmax(logits, -1)[..., places].mean(-1)
    own = np.exp(logits[..., places])
    prompt = np.exp(q[1] @ np.swapaxes(k[1], -1, -2)).sum(-1)
    return (own / (prompt + own.sum(-1))[..., None]).mean(-1)


@pytest.mark.parametrize("over", ["alone", "prompt"])
@pytest.mark.parametrize(("word", "text", "places"), [("puppy", True, [1, 2]), ("red", "a red cat", [2])])
def test_words_from_queries_and_embeddings(worded, tools, computes, over, word, text, places):
    with computes(0):
        made = maps.daam(worded.trace, word, open_vocabulary=text, over=over, keep=("t", "layer", "head"))
    assert made.dims == ("run", "t", "layer", "head", "query_y", "query_x")
    assert (made.dtype, made.attrs["source"], made.attrs["softmax_over"]) == (np.float32, "vocabulary", over)
    with computes(1):
        made = made.compute()
    name = word if text is True else text
    for row in range(3):
        fine = attention(worded, tools, "text/4x4", row, name, places, over)
        coarse = attention(worded, tools, "text/2x2", row, name, places, over).reshape(3, 1, 3, 2, 2)
        own = made.isel(run=row)
        np.testing.assert_allclose(own.sel(layer=["text4.0.attn", "text4.1.attn"], head=[0, 1]).values.reshape(
            fine.shape), fine, rtol=TOLERANCE[over])  # fmt: skip
        # The paper's transposed convolution: each cell is repeated, at a quarter of its value.
        np.testing.assert_allclose(
            own.sel(layer=["text2.0.attn"]), coarse.repeat(2, -1).repeat(2, -2) / 4, rtol=TOLERANCE[over]
        )


def test_heads_layers_steps_and_variants(worded, tools):
    chosen = {"layers": "4x4", "heads": [("text4.1.attn", 0)], "steps": [0, 2]}
    made = maps.daam(worded.trace, "cat", open_vocabulary=True, variant="released", **chosen).compute()
    own = attention(worded, tools, "text/4x4", 0, "cat", [1], "alone")[[0, 2], 1, 0].sum(0)
    np.testing.assert_allclose(made.sel(run="run0").values.ravel(), own, rtol=1e-4)
    branches = maps.daam(worded.trace, "cat", open_vocabulary=True, branch=None, keep="branch", layers="4x4").compute()
    cond = maps.daam(worded.trace, "cat", open_vocabulary=True, layers="4x4").compute()
    np.testing.assert_allclose(branches.sel(branch="cond"), cond, rtol=1e-6)
    masked = maps.daam(worded.trace, "cat", open_vocabulary=True, layers="4x4", queries=np.eye(4)).compute()
    np.testing.assert_allclose(masked, cond * np.eye(4), rtol=1e-6)


def test_every_run_has_a_map_whatever_its_prompt(worded):
    assert np.isfinite(maps.daam(worded.trace, "puppy", open_vocabulary=True)).all()
    assert np.isnan(maps.daam(worded.trace, "cat").sel(run="run1")).all()


def test_what_cannot_be_asked(worded, tools, mixed):
    trace = worded.trace
    with pytest.raises(UnknownNameError, match=r"unknown word 'pupy' .*record with Capture\(vocabulary=.*'puppy'"):
        maps.daam(trace, "pupy", open_vocabulary=True)
    with pytest.raises(InvalidValueError, match="word 'dog' does not stand in 'a red cat' of the vocabulary"):
        maps.daam(trace, "dog", open_vocabulary="a red cat")
    with pytest.raises(UnknownNameError, match="unknown softmax over 'all'"):
        maps.daam(trace, "cat", open_vocabulary=True, over="all")
    with pytest.raises(InvalidValueError, match="merge and normalize are of words in the prompt"):
        maps.daam(trace, "cat", open_vocabulary=True, merge="max")
    with pytest.raises(InvalidValueError, match="order='tokens' is of the prompt's own keys"):
        maps.daam(trace, "cat", open_vocabulary=True, order="tokens")
    with pytest.raises(NotRecordedError, match="no summary holds words of the vocabulary"):
        maps.daam(trace, "cat", open_vocabulary=True, source="summary").compute()
    with pytest.raises(NotRecordedError, match="has no vocabulary; record with"):
        maps.daam(mixed.trace, "cat", open_vocabulary=True)
    picture, _ = tools.make_store((tools.leaf_of("image", (2, 2)),), runs=1)
    with pytest.raises(NotRecordedError, match="an open vocabulary needs attention of kind 'text'"):
        maps.daam(open_trace(picture), "cat", open_vocabulary=True)

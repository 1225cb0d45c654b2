"""The diagnostics of a trace: blockwise, from either encoding, equal to the losses of the dense attention."""

import numpy as np
import pytest
import torch
import xarray as xr

from attlas.analysis import open_trace
from attlas.analysis.diagnostics import cwg, dcml, tv
from attlas.analysis.papers.attention_losses import LOSSES
from attlas.analysis.scoring.upright import upright_places
from attlas.schemas import Annotation
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError

DIAGNOSTICS = {"dcml": dcml, "tv": tv, "cwg": cwg}
ROWS, COLUMNS = 4, 3


@pytest.fixture(scope="module")
def stores(tools):
    """The same Q and K, as factors and dense, with masks; keys are CLS and 4x3 patches."""
    made = {}
    rng = np.random.default_rng(11)
    masks = rng.random((2, 8, 8)) < 0.7
    for encoding in ("factors", "dense"):
        leaves = tuple(
            tools.leaf_of("image", grid, layers=layers, key_grid=(ROWS, COLUMNS), cls=True, encoding=encoding)
            for grid, layers in (((4, 4), 2), ((2, 2), 1))
        )
        store, vectors = tools.make_store(leaves, annotations=lambda row: {"garment": masks[row]}, image=(8, 8))
        made[encoding] = (open_trace(store), vectors)
    return made


def expected(tools, vectors, leaf, row, grid, name, mask=None, places=None, mean_first=False, **options):
    """(t, layer, head) in float64 from Q and K; with `mean_first`, of the attention averaged over t."""
    q, k = vectors[leaf, row]
    attention = tools.softmax(q[1] @ np.swapaxes(k[1], -1, -2), -1)[..., 1:]
    attention = attention.mean(0) if mean_first else attention
    attention = torch.from_numpy(attention.reshape(*attention.shape[:-2], *grid, ROWS, COLUMNS))
    given = [None if own is None else torch.from_numpy(own) for own in (mask, places)]
    return LOSSES[name](attention, *given, **options).numpy()


@pytest.mark.parametrize("name", DIAGNOSTICS)
@pytest.mark.parametrize("encoding", ["factors", "dense"])
def test_of_a_trace_equals_that_of_its_attention(tools, stores, encoding, name, computes):
    trace, vectors = stores[encoding]
    with computes(0):
        made = DIAGNOSTICS[name](trace, layers="4x4")
    assert made.dims == ("run", "t", "layer", "head")
    assert made.dtype == np.float32
    with computes(1):
        values = made.compute()
    tolerance = 1e-5 if encoding == "factors" else 2e-3  # dense is stored in half precision
    for row in range(2):
        truth = expected(tools, vectors, "image/4x4", row, (4, 4), name)
        np.testing.assert_allclose(values[row], truth, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_masks_places_and_what_is_kept(tools, stores, name):
    trace, vectors = stores["factors"]
    garment = trace.annotations["garment"]
    places = np.random.default_rng(4).normal(size=(2, ROWS, COLUMNS, 2))
    made = DIAGNOSTICS[name](trace, garment, coordinates=places, keep="layer", reduction="mean").compute()
    assert made.dims == ("run", "layer")
    assert made.sizes["layer"] == 3
    for row in range(2):
        picture = garment.values[row]
        for leaf, side, layers in (("image/4x4", 4, slice(0, 2)), ("image/2x2", 2, slice(2, 3))):
            share = picture.reshape(side, 8 // side, side, 8 // side).mean((1, 3))
            options = {"mask": (share > 0.5).astype(float), "places": places[row], "reduction": "mean"}
            truth = expected(tools, vectors, leaf, row, (side, side), name, **options).mean((0, 2))
            np.testing.assert_allclose(made.values[row, layers], truth, rtol=1e-5, atol=1e-5)
    whole = DIAGNOSTICS[name](trace, garment, coordinates=places, keep=(), reduction="mean").compute()
    assert whole.dims == ("run",)
    np.testing.assert_allclose(whole, made.mean("layer"), rtol=1e-5, atol=1e-6)


def test_steps_branches_and_heads(tools, stores):
    trace, vectors = stores["factors"]
    made = cwg(trace, layers="2x2", steps=1, keep="head", branch="cond").compute()
    truth = expected(tools, vectors, "image/2x2", 0, (2, 2), "cwg")[1, 0]
    np.testing.assert_allclose(made[0], truth, rtol=1e-5)
    other = cwg(trace, layers="2x2", steps=1, keep="head", branch="uncond").compute()
    assert not np.allclose(other, made)
    one = trace.sel("run1")
    np.testing.assert_array_equal(cwg(one, keep=()).values, cwg(trace, keep=()).values[1:])


def test_attention_mean_is_another_question(tools, stores):
    """The losses are not linear: of the mean over t they are smaller than their mean, as max(0, .) is convex."""
    trace, vectors = stores["factors"]
    made = dcml(trace, layers="4x4", keep=("layer", "head"), source="attention_mean").compute()
    truth = expected(tools, vectors, "image/4x4", 0, (4, 4), "dcml", mean_first=True)
    np.testing.assert_allclose(made[0], truth, rtol=2e-3, atol=2e-3)
    apart = dcml(trace, layers="4x4", keep=("layer", "head")).compute()
    assert (made.values[0] < apart.values[0]).all()
    with pytest.raises(InvalidValueError, match="the mean over t: leave t out of keep"):
        dcml(trace, source="attention_mean")


def test_a_run_without_its_mask_or_its_data_is_nan(tools):
    leaf = tools.leaf_of("image", (2, 2), key_grid=(2, 2))
    given = {0: {"garment": np.ones((16, 16), bool)}, 1: {}}
    store, _ = tools.make_store((leaf,), annotations=lambda row: given[row])
    trace = open_trace(store)
    made = tv(trace, trace.annotations["garment"], keep=()).compute()
    assert np.isnan(made.values).tolist() == [False, True]


def test_tensors_may_be_flat():
    attention = torch.rand(3, 6, 12, dtype=torch.float64).softmax(-1)
    shaped = attention.reshape(3, 2, 3, 4, 3)
    for name, function in DIAGNOSTICS.items():
        flat = function(attention, grids=((2, 3), (4, 3)))
        torch.testing.assert_close(flat, LOSSES[name](shaped))
    with pytest.raises(InvalidValueError, match="does not fit the grids"):
        dcml(attention, grids=((2, 2), (4, 3)))


def test_what_is_refused(stores, mixed):
    trace, _ = stores["factors"]
    with pytest.raises(InvalidValueError, match="dcml takes a torch tensor or a trace; got ndarray"):
        dcml(np.ones(3))
    with pytest.raises(UnknownNameError, match="unknown axis to keep 'heads'; did you mean 'head'"):
        dcml(trace, keep="heads")
    with pytest.raises(UnknownNameError, match="unknown source 'summary'"):
        dcml(trace, source="summary")
    with pytest.raises(UnknownNameError, match="unknown branch 'condi'"):
        dcml(trace, branch="condi")
    with pytest.raises(UnknownNameError, match="unknown variant"):
        dcml(trace, variant="x")
    with pytest.raises(InvalidValueError, match="sigma must be above 0"):
        cwg(trace, sigma=-1)
    with pytest.raises(InvalidValueError, match=r"coordinates must be \(\[run,\] 4, 3, 2\)"):
        dcml(trace, coordinates=np.zeros((3, 4, 2)))
    with pytest.raises(InvalidValueError, match="coordinates of 3 runs for a trace of 2"):
        dcml(trace, coordinates=np.zeros((3, 4, 3, 2)))
    with pytest.raises(InvalidValueError, match="a mask of 5x5"):
        dcml(trace, np.ones((5, 5), bool))
    with pytest.raises(NotRecordedError, match="not both patches of a picture"):
        tv(mixed.trace, kind="text")
    with pytest.raises(NotRecordedError, match="no annotation of .* has the role 'correspondence'"):
        upright_places(trace, (4, 3))


@pytest.mark.parametrize("mirror", [1, -1])
def test_turned_references_are_turned_back(tools, mirror):
    """A reference turned by a right angle (and mirrored): its patches go back to where they are upright."""
    leaf = tools.leaf_of("image", (4, 4), key_grid=(4, 4))
    y, x = np.indices((16, 16)).astype("f4")
    # Where the upright pixel (y, x), seen from the middle, lies in the reference, at half the size.
    lies = np.stack([7.5 + (x - 7.5) / 2, 7.5 - mirror * (y - 7.5) / 2], -1)
    lies[0] = np.nan
    annotations = {"lies": Annotation(lies, "correspondence"), "uv_lookup": np.stack([y, x], -1)}
    store, _ = tools.make_store((leaf,), runs=1, annotations=lambda row: annotations)
    found = upright_places(open_trace(store), (4, 4))
    assert found.dims == ("run", "key_y", "key_x", "coordinate")
    rows, columns = np.indices((4, 4)) - 1.5
    # (row, column) of the reference shows upright row -mirror * column and column row.
    np.testing.assert_allclose(found.sel(coordinate="y")[0], 1.5 - mirror * columns, atol=1e-5)
    np.testing.assert_allclose(found.sel(coordinate="x")[0], 1.5 + rows, atol=1e-5)


def test_too_little_truth_is_nan(tools):
    leaf = tools.leaf_of("image", (4, 4), key_grid=(4, 4))
    nothing = np.full((16, 16, 2), np.nan, "f4")
    line = nothing.copy()
    line[3, :, 0], line[3, :, 1] = 3, np.arange(16)

    def annotations(row):
        places = (nothing, line)[row]
        return {"lies": Annotation(places, "correspondence"), "uv_lookup": places}

    store, _ = tools.make_store((leaf,), annotations=annotations)
    found = upright_places(open_trace(store), (4, 4))
    assert isinstance(found, xr.DataArray)
    assert found.isnull().all()

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr

from attlas.analysis import maps, open_trace
from attlas.schemas import simulate_store
from attlas.schemas.errors import InvalidValueError, NotRecordedError, UnknownNameError


def test_sram_is_the_row_of_the_patch(mixed, tools):
    made = maps.sram(mixed.trace, (2, 1), kind="image", layers="4x4").compute()
    assert made.dims == ("run", "layer", "key_y", "key_x")
    q, k = mixed.vectors["image/4x4", 1]
    rows = tools.softmax(q[1] @ np.swapaxes(k[1], -1, -2), -1)[..., 9, 1:]  # query 2*4+1, patches after CLS
    expected = rows.sum((0, 2)).reshape(2, 4, 3)
    np.testing.assert_allclose(made.sel(run="run1"), expected, rtol=2e-3, atol=1e-5)
    by_call = maps.sram(mixed.trace, (2, 1), keep=("t", "layer"), kind="image", layers="4x4").compute()
    np.testing.assert_allclose(by_call.sel(run="run1"), rows.sum(2).reshape(3, 2, 4, 3), rtol=1e-4, atol=1e-6)
    assert made.attrs["chosen_queries"] == "patch (2, 1)"


def test_sram_of_a_coarse_layer_is_the_row_of_the_cell_that_holds_the_patch(mixed, tools):
    made = maps.sram(mixed.trace, (2, 1), kind="image").sel(layer="image2.0.attn", run="run0").compute()
    q, k = mixed.vectors["image/2x2", 0]
    rows = tools.softmax(q[1] @ np.swapaxes(k[1], -1, -2), -1)[..., 2, 1:]  # row 1, column 0 of 2x2
    np.testing.assert_allclose(made, rows.sum((0, 1, 2)).reshape(4, 3), rtol=2e-3, atol=1e-5)


def test_each_call_and_head_gives_one_to_an_sram(mixed):
    # Over all keys, CLS included: mean over the patch's row of the softmax over keys.
    made = maps.aggregate(
        mixed.trace, "g2r", ("t", "layer", "head"), onto="key", kind="self", layers="4x4", queries=np.eye(4) > 0
    )
    np.testing.assert_allclose(made.sum(("key_y", "key_x")).compute(), 1, rtol=1e-5)


def test_the_mean_of_all_srams_is_the_g2r_map(mixed):
    srams = sum(
        maps.sram(mixed.trace, (y, x), kind="image", layers="4x4").compute() for y in range(4) for x in range(4)
    )
    whole = maps.llam(mixed.trace, "g2r", kind="image", layers="4x4").compute()
    np.testing.assert_allclose(srams / 16, whole, rtol=2e-3, atol=1e-5)


def test_a_box_is_the_mean_of_its_patches(mixed):
    box = maps.sram(mixed.trace, (0, 1, 2, 3), kind="image", layers="4x4").compute()
    parts = [maps.sram(mixed.trace, (y, x), kind="image", layers="4x4").compute() for y in (0, 1) for x in (1, 2)]
    np.testing.assert_allclose(box, sum(parts) / 4, rtol=1e-4, atol=1e-6)
    mask = np.zeros((4, 4), bool)
    mask[0:2, 1:3] = True
    np.testing.assert_allclose(maps.sram(mixed.trace, mask, kind="image", layers="4x4").compute(), box, rtol=1e-6)


def test_reverse_sram_is_the_column_of_the_patch(mixed, tools):
    made = maps.reverse_sram(mixed.trace, (3, 2), kind="image", layers="4x4").compute()
    assert made.dims == ("run", "layer", "query_y", "query_x")
    q, k = mixed.vectors["image/4x4", 0]
    columns = tools.softmax(q[1] @ np.swapaxes(k[1], -1, -2), -2)[..., 12]  # key 1 + 3*3 + 2
    np.testing.assert_allclose(made.sel(run="run0"), columns.sum((0, 2)).reshape(2, 4, 4), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(made.sum(("query_y", "query_x")), 3 * 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ((4, 0), r"patch \(4, 0\) lies outside the 4x4 query grid of kind 'image'"),
        ((0, -1), "lies outside"),
        ((1, 1, 1, 2), "lies outside"),
        ((0.5, 1), r"\(row, column\) or \(row, column, row end, column end\) is accepted"),
        ((1, 2, 3), "is accepted"),
    ],
)
def test_patches_outside(mixed, patch, message):
    with pytest.raises(InvalidValueError, match=message):
        maps.sram(mixed.trace, patch, kind="image")


def test_tokens_are_no_patches(mixed):
    with pytest.raises(InvalidValueError, match="keys of kind 'text' are no patches"):
        maps.reverse_sram(mixed.trace, (0, 0), kind="text")


def test_groups_of_calls(tools):
    trace = open_trace(tools.make_store((tools.leaf_of("image", (4, 4)),), runs=1, calls=7)[0])
    every = maps.tlam(trace, "r2g").compute()
    made = maps.tlam(trace, "r2g", 3).compute()
    assert made.dims == ("run", "t_group", "query_y", "query_x")
    assert (made["t_start"].values.tolist(), made["t_stop"].values.tolist()) == ([0, 3, 5], [3, 5, 7])
    np.testing.assert_allclose(made[:, 1], every[:, 3:5].sum("t"), rtol=1e-5)
    np.testing.assert_allclose(made.sum("t_group"), maps.ulam(trace, "r2g").compute(), rtol=1e-5)
    as_printed = maps.tlam(trace, "r2g", 3, inclusive=True).compute()
    assert as_printed["t_stop"].values.tolist() == [4, 6, 7]
    np.testing.assert_allclose(as_printed[:, 0], every[:, :4].sum("t"), rtol=1e-5)
    assert float(as_printed.sum()) > float(made.sum())
    with pytest.raises(InvalidValueError, match="groups = 8 of 7 calls; 1 to 7"):
        maps.tlam(trace, "r2g", 8)


def daam_by_hand(mixed, tools, run, tokens, variant):
    """Sum over calls of P[:, tokens], then each layer and head resampled: torch and plain loops."""
    total, terms = 0, 0
    for name in ("text/4x4", "text/2x2"):
        q, k = mixed.vectors[name, run]
        rows, columns = mixed.trace.leaves[name].query_grid
        p = tools.softmax(q[1] @ np.swapaxes(k[1], -1, -2), -1)[..., tokens].mean(-1).sum(0)
        for layer in p:
            for head in layer:
                laid = torch.tensor(head.reshape(1, 1, rows, columns))
                if variant == "released":
                    up = F.interpolate(laid, size=(4, 4), mode="bicubic").clamp(min=0)
                else:
                    c = 4 // rows
                    up = F.conv_transpose2d(laid, torch.full((1, 1, c, c), 1 / c**2, dtype=torch.float64), stride=c)
                total, terms = total + up[0, 0].numpy(), terms + 1
    return total / terms if variant == "released" else total


@pytest.mark.parametrize("source", ["summary", "full"])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_daam_as_printed_and_as_released(mixed, tools, variant, source):
    made = maps.daam(mixed.trace, "disc", variant=variant, source=source).compute()
    for run in range(2):
        np.testing.assert_allclose(made[run], daam_by_hand(mixed, tools, run, [3], variant), rtol=3e-3, atol=1e-6)
    assert made.dims == ("run", "query_y", "query_x")
    assert made.attrs["word"] == "disc"
    assert made.attrs["variant"] == variant


def test_a_word_that_occurs_twice_and_a_phrase_are_means(mixed, tools):
    twice = maps.daam(mixed.trace, "a", source="full").compute()
    np.testing.assert_allclose(twice[0], daam_by_hand(mixed, tools, 0, [1, 5], "paper"), rtol=3e-3, atol=1e-6)
    phrase = maps.daam(mixed.trace, "Blue Cross", source="full").compute()
    np.testing.assert_allclose(phrase[0], daam_by_hand(mixed, tools, 0, [6, 7], "paper"), rtol=3e-3, atol=1e-6)


def test_daam_by_layer_head_or_call(mixed):
    by_head = maps.daam(mixed.trace, "disc", keep=("layer", "head"), variant="released").compute()
    whole = maps.daam(mixed.trace, "disc", variant="released").compute()
    np.testing.assert_allclose(
        by_head.mean(("layer", "head")), whole, rtol=1e-4, atol=1e-6
    )  # per (layer, head), not per layer
    by_call = maps.daam(mixed.trace, "disc", keep="t", source="full").compute()
    np.testing.assert_allclose(by_call.sum("t"), maps.daam(mixed.trace, "disc", source="full").compute(), rtol=1e-5)
    chosen = maps.daam(mixed.trace, "disc", variant="released", heads=[("text2.0.attn", 2)]).compute()
    np.testing.assert_allclose(chosen, by_head.sel(layer="text2.0.attn", head=2), rtol=1e-5, atol=1e-7)


def test_daam_of_some_steps_is_scaled_as_the_whole(mixed):
    # Clamping would come between the parts and their sum.
    steps = maps.daam(mixed.trace, "disc", variant="released", clamp=False, steps=[0, 1]).compute()
    rest = maps.daam(mixed.trace, "disc", variant="released", clamp=False, steps=[2]).compute()
    whole = maps.daam(mixed.trace, "disc", variant="released", clamp=False, source="full").compute()
    np.testing.assert_allclose(steps + rest, whole, rtol=1e-5, atol=1e-6)


def test_runs_without_the_word_are_nan(tools):
    leaf = tools.leaf_of("text", (4, 4), keys=8)
    store, _ = tools.make_store((leaf,), prompts=["a cat on a mat", "the dog"])
    made = maps.daam(open_trace(store), "cat").compute()
    assert made[0].notnull().all()
    assert made[1].isnull().all()


def test_daam_errors(mixed):
    with pytest.raises(
        UnknownNameError, match="unknown word 'disk' in the prompts of the store in memory; did you mean 'disc'"
    ):
        maps.daam(mixed.trace, "disk")
    with pytest.raises(UnknownNameError, match="unknown variant 'release'; did you mean 'released'"):
        maps.daam(mixed.trace, "disc", variant="release")
    with pytest.raises(UnknownNameError, match="unknown kind 'text'.*accepted: 'image'"):
        maps.daam(open_trace(simulate_store(runs=1, kinds=("image",))), "disc")
    with pytest.raises(NotRecordedError, match="single steps"):
        maps.daam(open_trace(simulate_store(runs=1, detail="summary")), "disc", keep="t")


def test_nothing_is_computed_by_asking(mixed, computes):
    words = {"kind": "image"}
    with computes(0):
        ulam = maps.ulam(mixed.trace, "r2g", **words)
        lazy = [
            ulam,
            maps.daam(mixed.trace, "disc"),
            maps.tlam(mixed.trace, "g2r", 2, **words),
            maps.hlam(mixed.trace, "g2r", **words),
            maps.llam(mixed.trace, "r2g", **words),
            maps.sram(mixed.trace, (0, 0), **words),
            maps.reverse_sram(mixed.trace, (0, 0), **words),
            maps.aggregate(mixed.trace, "r2g", keys="reference", **words),
            maps.normalize(ulam),
            maps.threshold(ulam),
            maps.resample(ulam, (8, 8)),
            maps.overlay(ulam, mixed.trace.images),
        ]
    for one in lazy:
        assert one.chunks is not None
        with computes(1):
            one.compute()


def test_overlay_lays_each_map_on_its_own_picture(mixed, computes):
    values = maps.llam(mixed.trace, "r2g", kind="image")
    with computes(0):
        made = maps.overlay(values, mixed.trace.images, opacity=0.25, colours="grey")
    assert made.dims == ("run", "layer", "query_y", "query_x", "rgb")
    assert made.dtype == np.uint8
    assert made.shape == (2, 3, 16, 16, 3)
    flat = maps.normalize(maps.resample(values, (16, 16), "bilinear")).compute()
    expected = 0.25 * 255 * flat.values[..., None] + 0.75 * mixed.trace.images.compute().values[:, None]
    np.testing.assert_allclose(made.compute(), np.round(expected), atol=1)


def test_overlay_refuses_what_is_no_picture():
    values = xr.DataArray(np.ones((2, 2), "f4"), dims=("y", "x"))
    picture = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(InvalidValueError, match="opacity 2 is out of range"):
        maps.overlay(values, picture, opacity=2)
    with pytest.raises(UnknownNameError, match="unknown colours 'viridi'; did you mean 'viridis'"):
        maps.overlay(values, picture, colours="viridi")
    with pytest.raises(InvalidValueError, match=r"an image \(row, column, rgb\) is needed; got shape \(4, 4\)"):
        maps.overlay(values, picture[..., 0])
    assert (maps.overlay(values * np.nan, picture).values == 0).all()

"""`attlas demo`: records, scores, reports, and says what to do next."""

import json
import re

import numpy as np
import pytest
import torch
import xarray as xr

from attlas.recorder import load_pipeline
from attlas.recorder.demo import shapes, tryon
from attlas.schemas import open_store, validate_store

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.slow]

DIMS = ("run", "branch", "t", "layer", "head", "query", "key")


def table(demo, store):
    """Scores of one store by name."""
    scores = json.loads((demo.folder / "scores.json").read_text())
    (tables,) = (made for path, made in scores.items() if path.endswith(f"/{store}.zarr"))
    return {name: score for one in tables for name, score in one["scores"].items()}


def test_it_says_where_things_are_and_how_to_go_on(demo):
    assert f"Report     {demo.folder / 'report.html'}" in demo.output
    assert f"Dashboard  attlas dashboard {demo.stores[0]} {demo.stores[1]}" in demo.output
    assert "random" in demo.output


def test_trained_maps_find_what_random_ones_do_not(demo):
    words, random_words = table(demo, "shapes"), table(demo, "shapes-random")
    assert words["colour_present"]["n"] >= 6
    assert random_words["noun_iou"]["n"] >= 3
    assert words["noun_iou"]["value"] > 2 * random_words["noun_iou"]["value"]
    assert words["noun_iou"]["value"] > 5 * words["other_noun_iou"]["value"]
    places, random_places = table(demo, "tryon"), table(demo, "tryon-random")
    assert places["sram_pck1"]["value"] > 0.8
    assert random_places["sram_pck1"]["value"] < 0.15
    assert places["sram_pck1"]["n"] == 6


def test_a_swapped_reference_moves_the_attention(demo):
    swapped = table(demo, "tryon-swapped")
    assert swapped["swapped_pck1"]["value"] > 0.8
    assert swapped["swapped_former_pck1"]["value"] < 0.15


def test_the_report_needs_no_network(demo):
    report = (demo.folder / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", report)
    assert not re.findall(r"url\(\s*['\"]?https?:|@import", report)
    assert report.count("data:image/png;base64,") >= 8


def test_stores_are_sound_and_plain_xarray_opens_them(demo):
    for path, leaf, variable in zip(
        demo.stores, ("text/16x16", "image/16x16"), ("log_attention", "query_vectors"), strict=True
    ):
        assert validate_store(path, deep=True) == []
        tree = xr.open_datatree(path, engine="zarr")
        assert tree[leaf][variable].dims[:6] == DIMS[:6]
        assert set(DIMS) <= set(tree[leaf].sizes)


@pytest.mark.parametrize("world", [shapes, tryon])
def test_pictures_are_bit_identical_without_the_recorder(demo, world):
    name = world.__name__.rsplit(".", 1)[1]
    store = open_store(demo.folder / f"{name}.zarr")
    pipe = load_pipeline(f"demo:{name}")
    for row, request in enumerate(world.requests(3)):
        arguments = {key: value for key, value in request.items() if key not in ("seed", "id", "annotations")}
        picture = pipe(**arguments, generator=torch.Generator().manual_seed(request["seed"])).images[0]
        np.testing.assert_array_equal(store.group["generated_image"][row], np.asarray(picture))

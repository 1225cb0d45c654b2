"""Scores ask for roles: what an annotation is called plays no part."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from attlas.analysis import open_trace, scores
from attlas.analysis.commands.scores import score
from attlas.analysis.commands.survey import survey
from attlas.analysis.registry import statistic_of
from attlas.analysis.roles import annotation_of, names_by_role
from attlas.analysis.scoring.reference_scores import object_map
from attlas.schemas import Annotation, simulate_store
from attlas.schemas.errors import NotRecordedError, StoreMismatchError, UnknownNameError

DEMO = {
    "object": "garment",
    "reference_object": "reference_garment",
    "correspondence": "correspondence",
    "target": "target",
}
OWN = {"object": "dress", "reference_object": "catalogue", "correspondence": "lies", "target": "wanted"}
STATISTICS = ("imacs_g", "imacs_r", "object_iou", "box_iou", "pck1", "psnr", "ssim", "dcml")


@pytest.fixture(scope="module")
def stores(tools, tmp_path_factory):
    """The same runs twice; annotations are named as in the demo, and as a user names them."""
    folder = tmp_path_factory.mktemp("stores")
    leaf = tools.leaf_of("image", (4, 4), layers=2, key_grid=(4, 4), cls=True)
    y, x = np.indices((16, 16)).astype("f4")
    inside = (abs(y - 8) < 5) & (abs(x - 7) < 4)
    values = {
        "object": inside,
        "reference_object": inside[:, ::-1],
        "correspondence": np.where(inside[..., None], np.stack([y, 15 - x], -1), np.nan),
        "target": np.random.default_rng(7).integers(0, 255, (16, 16, 3), dtype=np.uint8),
    }
    made = {}
    for label, names in (("demo", DEMO), ("own", OWN)):
        given = {names[role]: Annotation(own, role) for role, own in values.items()}
        made[label] = folder / f"{label}.zarr"
        tools.make_store((leaf,), path=made[label], spread=2.0, annotations=lambda row, given=given: given)
    return made


@pytest.fixture(scope="module")
def own(stores):
    return open_trace(stores["own"])


def scored(path):
    done = CliRunner().invoke(score, [str(path), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (tables,) = json.loads(done.stdout).values()
    return tables


def test_a_dress_is_scored_as_the_garment_of_the_demo(stores):
    demo, own = (scored(stores[label]) for label in ("demo", "own"))
    assert [table["scores"] for table in own] == [table["scores"] for table in demo]
    (table,) = own
    assert {"sram_pck1", "r2g_imacs_finest", "r2g_iou_all", "g2r_imacs_finest", "object_psnr"} <= table["scores"].keys()
    assert table["left_out"] == []


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_take_annotations_by_their_roles(name, stores, own):
    function = statistic_of(name).function
    made = function(own).compute()
    np.testing.assert_array_equal(made, function(open_trace(stores["demo"])).compute())
    assert np.isfinite(made).all()


def test_surveys_take_them_too(stores):
    done = CliRunner().invoke(survey, [str(stores["own"]), "--statistic", "object_iou", "--no-cache", "--quiet"])
    assert done.exit_code == 0, done.output


def test_an_annotation_can_be_named_instead(own):
    plain = statistic_of("imacs_g").function
    np.testing.assert_array_equal(plain(own, mask="dress"), plain(own))
    assert not np.array_equal(plain(own, reference_mask="dress"), plain(own))
    whole, inside = (statistic_of("psnr").function(own, over=over) for over in ("all", "object"))
    assert not np.array_equal(whole, inside)
    alike = statistic_of("ssim").function
    np.testing.assert_array_equal(alike(own, over="object"), alike(own, mask="dress"))
    with pytest.raises(UnknownNameError, match="unknown part of the picture 'objct'; did you mean 'object'"):
        statistic_of("psnr").function(own, over="objct")
    with pytest.raises(NotRecordedError, match="no annotation of .*own.zarr is named 'coat', to be taken for 'object'"):
        plain(own, mask="coat")


def test_the_annotation_of_a_role(own):
    mask = annotation_of(own, "object")
    assert (mask.name, mask.attrs["role"], mask.chunks is not None) == ("dress", "object", True)
    assert annotation_of(own, "object", "catalogue").name == "catalogue"
    assert names_by_role(own) == OWN
    with pytest.raises(UnknownNameError, match="unknown role 'garment'.* accepted: 'object', 'reference_object'"):
        annotation_of(own, "garment")


def test_what_lacks_is_said_with_what_there_is(tools):
    leaf = tools.leaf_of("image", (4, 4), key_grid=(4, 4))
    mask = np.ones((16, 16), bool)
    given = {"dress": mask, "shown": Annotation(mask, "reference_object"), "note": "x"}
    trace = open_trace(tools.make_store((leaf,), runs=1, annotations=lambda row: given)[0])
    words = (
        r"no annotation of the store in memory has the role 'object' \(mask of the object on the generated picture\); "
        r"it has dress, note, shown \(reference_object\). Give one while recording: annotations={'NAME': "
        r"Annotation\(values, role='object'\)}"
    )
    with pytest.raises(NotRecordedError, match=words):
        annotation_of(trace, "object")
    with pytest.raises(NotRecordedError, match=rf"nothing to score a reference by\nPCK: .*\nIMACS: {words}\nPSNR: no"):
        scores.score_reference(trace)
    with pytest.raises(NotRecordedError, match="it has none"):
        annotation_of(open_trace(tools.make_store((leaf,), runs=1)[0]), "target")
    # Of all patches the G2R map needs no mask but that of the side that it lies on.
    assert object_map(trace, "g2r", over="all").shape == (1, 16, 16)


def test_two_annotations_of_a_role_are_refused():
    trace = open_trace(simulate_store(runs=1, kinds=("image",)))
    trace.annotations.variables["reference_garment"].attrs["role"] = "object"
    with pytest.raises(StoreMismatchError, match="'garment' and 'reference_garment' of .* both have the role 'object'"):
        annotation_of(trace, "object")


def test_roles_reach_plain_xarray(own):
    assert own.annotations["dress"].attrs["role"] == "object"
    assert own.tree["annotations"]["catalogue"].attrs["role"] == "reference_object"

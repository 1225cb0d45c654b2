"""What annotations can be, and the roles that they have."""

import numpy as np
import pytest
import zarr

from attlas.schemas import ROLES, Annotation, Leaf, Manifest, create_store
from attlas.schemas.annotations import check_annotations, roles_of
from attlas.schemas.errors import InvalidValueError, StoreMismatchError, UnknownNameError

IMAGE, REFERENCE = (8, 12), (6, 4)
MASK, REFERENCE_MASK = np.ones(IMAGE, bool), np.ones(REFERENCE, bool)
PLACES, PICTURE = np.zeros((*IMAGE, 2)), np.zeros((*IMAGE, 3), np.uint8)
RIGHT = {"object": MASK, "reference_object": REFERENCE_MASK, "correspondence": PLACES, "target": PICTURE}


@pytest.fixture
def store():
    leaf = Leaf("text", (2, 3), 2, 4, ("attn2",), 5)
    manifest = Manifest("made", "digest", "none", {"class": "None"}, {"precision": "exact"})
    return create_store(None, manifest, [leaf], ("cond",), 2, IMAGE, REFERENCE)


@pytest.mark.parametrize(
    ("role", "dims", "dtype"),
    [
        ("object", ("image_y", "image_x"), "i1"),
        ("reference_object", ("reference_y", "reference_x"), "i1"),
        ("correspondence", ("image_y", "image_x", "coordinate"), "f4"),
        ("target", ("image_y", "image_x", "rgb"), "u1"),
    ],
)
def test_a_role_says_which_picture_values_are_of_whatever_their_name(role, dims, dtype):
    for name in ("dress", "reference_dress"):
        made = check_annotations({name: Annotation(RIGHT[role], role)}, IMAGE, REFERENCE)[name]
        assert (made.dims, made.dtype, made.role, made.attributes) == (dims, dtype, role, {"role": role})


def test_without_a_role_the_name_says_it():
    made = check_annotations({"reference_dress": REFERENCE_MASK, "dress": Annotation(MASK)}, IMAGE, REFERENCE)
    assert made["reference_dress"].dims == ("reference_y", "reference_x")
    assert made["dress"].dims == ("image_y", "image_x")
    assert made["dress"].attributes == {}


def test_a_mapping_is_an_annotation():
    made = check_annotations({"dress": {"values": MASK, "role": "object"}, "n": {"values": 3}}, IMAGE, None)
    assert (made["dress"].role, made["n"].role) == ("object", None)
    with pytest.raises(UnknownNameError, match="unknown key 'rôle' in annotation 'dress'.* accepted: 'values', 'role'"):
        check_annotations({"dress": {"values": MASK, "rôle": "object"}}, IMAGE, None)
    with pytest.raises(InvalidValueError, match="annotation 'dress' has no 'values'"):
        check_annotations({"dress": {"role": "object"}}, IMAGE, None)
    with pytest.raises(UnknownNameError, match="unknown role 'objct' in annotation 'dress'; did you mean 'object'"):
        check_annotations({"dress": {"values": MASK, "role": "objct"}}, IMAGE, None)


def test_an_unknown_role_is_refused_with_those_that_there_are():
    with pytest.raises(UnknownNameError, match="unknown role 'refrence_object'; did you mean 'reference_object'"):
        Annotation(MASK, role="refrence_object")
    with pytest.raises(UnknownNameError, match="accepted: " + ", ".join(map(repr, ROLES))):
        Annotation(MASK, role=3)


@pytest.mark.parametrize("image", [IMAGE, None])
@pytest.mark.parametrize(
    ("role", "values", "told"),
    [
        ("object", MASK.astype("f4"), r"takes bool \(.*\), got float32 \(8, 12\): compare it with a number"),
        ("object", MASK[None], r"got bool \(1, 8, 12\): compare it"),
        ("object", "a dress", r"got <U7 \(\): compare it"),
        ("reference_object", MASK, r"takes bool \(6, 4\), got bool \(8, 12\): resize it"),
        ("correspondence", PLACES.astype(int), r"takes float \(.*, 2\), got int64 \(8, 12, 2\): convert it"),
        ("correspondence", PICTURE.astype(float), r"takes float \(.*, 2\), got float64 \(8, 12, 3\)"),
        ("target", PICTURE / 255, r"takes uint8 \(.*, 3\), got float64 \(8, 12, 3\): convert it"),
    ],
)
def test_a_role_asks_for_a_form(role, values, told, image):
    with pytest.raises(InvalidValueError, match=rf"annotation 'dress' has the role '{role}': .* {told}"):
        check_annotations({"dress": Annotation(values, role)}, image, REFERENCE)


@pytest.mark.parametrize("role", ["object", "correspondence", "target"])
def test_another_size_is_refused_where_the_size_is_known(role):
    wrong = {"dress": Annotation(RIGHT[role][:4, :4], role)}
    with pytest.raises(InvalidValueError, match=r"\(8, 12.*, got .* \(4, 4.*: resize it"):
        check_annotations(wrong, IMAGE, REFERENCE)
    check_annotations(wrong, None, REFERENCE)


@pytest.mark.parametrize("role", ["reference_object", "correspondence"])
def test_roles_of_a_reference_need_one(role):
    with pytest.raises(InvalidValueError, match=f"'dress' has the role '{role}': .* The run has no reference image"):
        check_annotations({"dress": Annotation(RIGHT[role], role)}, IMAGE, None)


def test_a_role_has_one_annotation_in_a_run():
    both = {"dress": Annotation(MASK, "object"), "coat": Annotation(MASK, "object")}
    with pytest.raises(InvalidValueError, match="'dress' and 'coat' of one run both have the role 'object'"):
        check_annotations(both, IMAGE, None)


def test_a_role_is_an_attribute_of_the_array(store):
    row = store.claim("a")
    given = {name: Annotation(values, name) for name, values in RIGHT.items()}
    store.write_annotations(row, {**given, "note": "fine"})
    assert roles_of(store.group) == {**dict.fromkeys(["note"]), **{role: role for role in ROLES}}
    plain = zarr.open_group(store.group.store, mode="r")
    assert plain["annotations/object"].attrs["role"] == "object"
    assert "role" not in plain["annotations/note"].attrs


def test_a_store_has_one_annotation_a_role_and_one_role_an_annotation(store):
    row = store.claim("a")
    store.write_annotations(row, {"dress": Annotation(MASK, "object"), "plain": MASK})
    store.write_annotations(row, {"dress": Annotation(~MASK, "object")})
    with pytest.raises(
        StoreMismatchError, match="'coat' has the role 'object', which 'dress' has in .*: give it as 'dr"
    ):
        store.write_annotations(row, {"coat": Annotation(MASK, "object")})
    with pytest.raises(StoreMismatchError, match=r"'dress' of .* has the role 'object', got no role.*role='object'\)"):
        store.write_annotations(row, {"dress": MASK})
    with pytest.raises(
        StoreMismatchError, match="'plain' of .* no role, got the role 'target'.*: give its values alone"
    ):
        store.write_annotations(row, {"plain": Annotation(PICTURE, "target")})
    assert roles_of(store.group) == {"dress": "object", "plain": None}

"""Records of a statistic as arrays: bit for bit, whatever the labels, and never a number of another run."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attlas.schemas.errors import InvalidValueError
from attlas.schemas.statistic_arrays import array_shape, array_variables, blank, block_rows, pack, shared, unpack
from attlas.schemas.statistic_forms import Form
from attlas.schemas.statistic_records import Record

TEXTS = st.text(max_size=4) | st.just("\0a\0") | st.just("\ud800")
LABELS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
KINDS = [st.booleans(), st.integers(-9, 9), st.integers(), st.floats(), TEXTS, LABELS]
NAMES = ["word", "layer", "t", "value", "fingerprint", "a/b", "a b", "3", "", "word_label", "run"]


def some(draw, size, kind):
    return tuple(draw(st.lists(kind, min_size=size, max_size=size)))


@st.composite
def families(draw, least=1, most=5):
    """Records of one statistic: dims and labels have the same names, and lengths and labels are free or shared."""
    names = draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True))
    dims = tuple(names[: draw(st.integers(0, min(2, len(names))))])
    further = {
        name: tuple(draw(st.permutations(dims)))[: draw(st.integers(0, len(dims)))] for name in names[len(dims) :]
    }
    kinds = {name: draw(st.sampled_from(KINDS)) for name in names}
    pool = {}
    made = []
    for place in range(draw(st.integers(least, most))):
        coords = {}
        for dim in dims:
            own = some(draw, draw(st.integers(0, 20)), kinds[dim])
            coords[dim] = draw(st.sampled_from([own, pool.setdefault(dim, own), tuple(range(len(own)))]))
        sizes = {dim: len(own) for dim, own in coords.items()}
        labels = {}
        for name, along in further.items():
            needed = int(np.prod([sizes[dim] for dim in along], dtype=int))
            own = (some(draw, min(needed, 3), kinds[name]) * (needed // 3 + 1))[:needed] if needed else ()
            known = pool.setdefault(f"label {name}", own)
            labels[name] = (along, known if len(known) == needed and draw(st.booleans()) else own)
        shape = tuple(sizes.values())
        bits = draw(st.lists(st.integers(0, 2**64 - 1), min_size=3, max_size=3))
        values = np.resize(np.array(bits, dtype=np.uint64), shape).view(np.float64).reshape(shape)
        made.append(Record(f"{place}{draw(TEXTS)}-", values, dims, coords, labels))
    return made


def same(one, other):
    return (
        one.checksum == other.checksum
        and one.values.tobytes() == other.values.tobytes()
        and repr(one.dims) == repr(other.dims)
    )


def packed(form, records):
    arrays = blank(form, len(records) + 1)
    for row, record in enumerate(records):
        pack(form, record, arrays, row)
    return arrays


@given(families())
def test_records_come_back_bit_for_bit(records):
    form = Form.of(records).named({})
    arrays = packed(form, records)
    for row, record in enumerate(records):
        found = unpack(form, arrays, row)
        assert same(found, record)
        assert repr((found.coords, found.labels)) == repr((dict(record.coords), dict(sorted(record.labels.items()))))
    assert unpack(form, arrays, len(records)) is None


@given(families(least=2), st.data())
def test_a_form_grows_only_where_it_must(records, data):
    cut = data.draw(st.integers(1, len(records) - 1))
    first, rest = Form.of(records[:cut]), Form.of(records[cut:])
    whole = first.joined(rest)
    assert whole.joined(rest) == whole == whole.joined(first) == whole.joined(whole)
    assert whole == rest.joined(first) or any(own.same for own in whole.every)
    assert [axis.size for axis in whole.axes] == [axis.size for axis in rest.joined(first).axes]


@given(families(least=2), st.data())
def test_a_row_of_two_writers_is_one_of_them_or_none(records, data):
    one, other = records[:2]
    form = Form.of([one, other]).named({})
    arrays, its = packed(form, [one]), packed(form, [other])
    for name in arrays:
        if data.draw(st.booleans()):
            arrays[name] = its[name]
    found = unpack(form, arrays, 0)
    assert found is None or same(found, one) or same(found, other)


@given(families(), st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3) | st.lists(st.integers(0, 2), max_size=3)))
def test_names_are_identifiers_and_do_not_contradict_the_root(records, root):
    form = Form.of(records).named(root)
    variables = array_variables(form, "1", "a test")
    names = [own.name for own in variables]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and not name.startswith("__") for name in (*names, *form.dims.values()))
    for own in variables:
        assert array_shape(form, own, 7)[:1] == (7,) or own.dims[:1] != ("run",)
        assert own.name not in own.dims or own.dims == (own.name,), "xarray takes no other array named like a dim"
    for axis in form.axes:
        if axis.dim in root:
            assert axis.size == (root[axis.dim] if isinstance(root[axis.dim], int) else len(root[axis.dim]))


@given(families())
def test_a_form_is_told_in_plain_values(records):
    form = Form.of(records).named({})
    constants = shared(form)
    again = Form.from_json(json.loads(json.dumps(form.to_json())), constants.__getitem__)
    assert repr(again) == repr(form)
    assert again.joined(Form.of(records)) == again
    assert {*constants, *blank(form, 1)} == {own.name for own in array_variables(form, "", "")}


def word(labels, **further):
    values = np.arange(float(len(labels)))
    return Record("f", values, ("word",), {"word": tuple(labels)}, {k: (("word",), v) for k, v in further.items()})


def layout(records, root=None):
    form = Form.of(records).named(root or {})
    return {own.name: (own.dims, array_shape(form, own, 9), own.dtype) for own in array_variables(form, "1", "")}


def test_labels_that_all_runs_share_are_one_coordinate():
    assert layout([word(["cat", "dog"], pos=("NOUN", "NOUN")) for _ in range(3)]) == {
        "value": (("run", "word"), (9, 2), "f8"),
        "word": (("word",), (2,), "str"),
        "pos": (("word",), (2,), "str"),
        "fingerprint": (("run",), (9,), "str"),
    }
    assert layout([Record("f", np.array(0.5))]) == {
        "value": (("run",), (9,), "f8"),
        "fingerprint": (("run",), (9,), "str"),
    }


def test_labels_of_each_run_have_places():
    assert layout([word(["cat"], pos=["NOUN"]), word(["a", "dog"], pos=["DET", "NOUN"])]) == {
        "value": (("run", "word"), (9, 16), "f8"),
        "word_label": (("run", "word"), (9, 16), "str"),
        "pos": (("run", "word"), (9, 16), "str"),
        "word_count": (("run",), (9,), "i4"),
        "fingerprint": (("run",), (9,), "str"),
    }
    ranked = layout([word(range(3), text=["a", "b", "c"]), word(range(17), text=["a"] * 17)])
    assert ranked["value"] == (("run", "word"), (9, 32), "f8")
    assert ranked["word"] == (("word",), (32,), "i8")
    assert ranked["text"] == (("run", "word"), (9, 32), "str")
    assert "word_label" not in ranked


def test_a_dim_of_the_root_is_itself_or_another():
    steps = Record("f", np.zeros(3), ("t",), {"t": (0, 1, 2)})
    assert "t" in layout([steps], {"t": [0, 1, 2]})
    assert layout([steps], {"t": [0, 1, 2, 3]})["value"][0] == ("run", "statistic_t")
    assert layout([steps], {"t": 3})["value"][0] == ("run", "t")
    assert layout([steps, word(["a"])][:1], {"t": 4})["value"][0] == ("run", "statistic_t")


def test_blocks_are_small_and_one_run_may_be_more():
    assert block_rows(Form.of([Record("f", np.array(0.5))])) == 1024
    assert block_rows(Form.of([word(["a"] * 1000)])) == 128
    assert block_rows(Form.of([word(["a"] * 2**18)])) == 1


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (Record("f", np.zeros(2), ("word",), {"word": ("a",)}), "do not fit dims"),
        (Record("f", np.zeros(2)), "do not fit dims"),
        (Record("f", np.zeros(1), ("word",), {"word": (("a", 1),)}), "is tuple; numbers, texts"),
        (word(["a"], pos=["DET", "NOUN"]), "label 'pos' has 2 values"),
        (word(["a"], word=["DET"]), "label 'word' has 1 values"),
        (Record("f", np.broadcast_to(0.0, 2**25 + 1), ("word",), {"word": range(2**25 + 1)}), "numbers; up to"),
    ],
)
def test_what_cannot_be_kept_is_refused(record, told):
    with pytest.raises(InvalidValueError, match=told):
        Form.of([record])


def test_what_cannot_be_kept_together_is_refused():
    with pytest.raises(InvalidValueError, match="dims and labels are"):
        Form.of([word(["a"]), word(["a"], pos=["DET"])])
    with pytest.raises(InvalidValueError, match="dims and labels are"):
        Form.of([word(["a"]), Record("f", np.array(0.5))])
    turned = Record("f", np.zeros((1, 1)), ("a", "b"), {"a": [0], "b": [0]}, {"c": (("a",), [0])})
    with pytest.raises(InvalidValueError, match="lies along"):
        Form.of([turned, replace(turned, labels={"c": (("b",), [0])})])


@pytest.mark.parametrize(
    "plain",
    [None, {}, {"axes": [], "labels": [3]}, {"axes": [{"name": "word"}], "labels": []}, {"axes": 3, "labels": []}],
)
def test_a_form_that_cannot_be_read_is_refused(plain):
    with pytest.raises(InvalidValueError, match="cannot be read"):
        Form.from_json(plain, {}.__getitem__)


def test_a_form_that_contradicts_itself_is_refused():
    form = Form.of([word(["a", "b"], pos=["DET", "NOUN"])]).named({})
    plain, constants = form.to_json(), shared(form)
    with pytest.raises(InvalidValueError, match="has 1 values"):
        Form.from_json(plain, {**constants, "pos": constants["pos"][:1]}.__getitem__)
    plain["labels"][0]["dims"] = ["layer"]
    with pytest.raises(InvalidValueError, match="along"):
        Form.from_json(plain, constants.__getitem__)

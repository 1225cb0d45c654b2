"""How runs become visible: by one act, however many writers and readers there are, and whoever dies."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.buffer import default_buffer_prototype

from attlas.schemas import Leaf, Manifest, create_store, open_store, simulate_store, validate_store
from attlas.schemas.errors import InvalidValueError, RunTakenError, StorageError, StoreExistsError, StoreMismatchError
from attlas.schemas.growth import STEP
from attlas.schemas.notes import Notes
from attlas.schemas.records import Claim, RunRecord, from_note, to_note
from attlas.schemas.storage import open_storage

MANIFEST = Manifest("tiny", "digest", "StableDiffusionPipeline", {"class": "DDIM"}, {"precision": "exact"})
LEAF = Leaf("text", (2, 3), 2, 4, ("down.attn2", "up.attn2"), 5)
PROTOTYPE = default_buffer_prototype()
PICTURE = np.full((4, 4, 3), 7, "u1")


def make(path, **options):
    return create_store(path, MANIFEST, (LEAF,), ("cond",), 2, (4, 4), **options)


def fill(store, row, value=1.0, annotations=None):
    """Write everything that a run of this store has."""
    for name in LEAF.variables():
        if name.dims[0] == "run" and name.group != "tokens":
            layout = store.layout("text/2x3", name.name)
            store.write("text/2x3", name.name, row, np.full(layout.shape[1:], value, layout.dtype))
    labels = {"tokens": list("abcde"), "segments": ["word"] * 5, "starts": range(5), "ends": range(1, 6)}
    store.write_tokens("text/2x3", row, 0, **labels)
    store.write_clock(row, steps=[0, 1], timesteps=[9.0, 1.0], sigmas=[np.inf, 0.5])
    store.write_image(row, PICTURE)
    store.write_annotations(row, annotations or {})


def record(store, run, value=1.0, **options):
    row = store.claim(run, prompt=f"prompt of {run}", seed=3)
    fill(store, row, value, **options)
    store.complete_run(row)
    return row


def written(array):
    """Metadata of an array as they are stored."""
    return array.metadata.to_buffer_dict(PROTOTYPE)["zarr.json"].to_bytes()


def files(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.zarr"


def test_a_finished_store_leaves_nothing_beside_it(path):
    store = make(path)
    record(store, "a", annotations={"note": "fine"})
    assert (path.parent / "s.zarr.recording").exists()
    store.finish()
    assert [entry.name for entry in path.parent.iterdir()] == ["s.zarr"]
    assert validate_store(path, deep=True) == []
    # No folder for each axis: a folder for each array and group is all.
    assert {len(file.split("/")) for file in files(path)} <= {1, 2, 3, 4}


def test_nothing_of_a_run_is_seen_before_it_is_complete(path):
    store = make(path)
    row = store.claim("a")
    fill(store, row, annotations={"note": "begun"})
    other = open_store(path)
    assert other.run_ids == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert xr.open_dataset(path, engine="zarr").sizes["run"] == 0
    store.complete_run(row)
    again = open_store(path)
    assert again.run_ids[0] == "a"
    assert again.holds(0) == {"generated_image", "annotations/note"}


def test_a_run_that_is_noted_as_finished_is_not_lost_when_its_writer_dies(path):
    store = make(path)
    row = store.claim("a", prompt="kept")
    fill(store, row)
    # Dies between the note and the run table.
    store.storage.flush()
    store._commits.notes.finish(row, store._open[row])
    store._commits.notes.leave()
    other = open_store(path)
    assert not other.complete.any()
    with pytest.raises(RunTakenError, match="is complete"):
        other.claim("a")
    assert str(other.column("prompt")[row]) == "kept"
    other.finish()
    assert validate_store(path, deep=True) == []


def test_a_damaged_note_is_as_none(path):
    store = make(path)
    row = store.claim("a")
    fill(store, row)
    store._commits.notes.finish(row, store._open[row])
    store._commits.notes.leave()
    (note,) = (path.parent / "s.zarr.recording/done").iterdir()
    data = bytearray(note.read_bytes())
    data[len(data) // 2] ^= 1
    note.write_bytes(data)
    other = open_store(path)
    assert other.claim("a") == row
    fill(other, row, 2.0)
    other.complete_run(row)
    assert other.complete.sum() == 1


@given(st.text(max_size=20), st.text(max_size=20), st.lists(st.floats(width=32)))
def test_notes_come_back_as_written(run, prompt, times):
    made = RunRecord(run, 3, prompt, "{}", {"sigma": times}, {"leaf": {"0": {"token": [prompt]}}}, [run])
    back = from_note(RunRecord, to_note(made))
    np.testing.assert_array_equal(back.clock.pop("sigma"), made.clock.pop("sigma"))
    assert back == made
    claim = Claim(run, prompt, "w")
    assert from_note(Claim, to_note(claim)) == claim


def test_what_a_dead_writer_stored_is_removed_before_its_row_is_used(path):
    store = make(path)
    record(store, "a")
    row = store.claim("b")
    fill(store, row, annotations={"only_of_b": 3})
    store._commits.notes.leave()  # as if it died
    other = open_store(path)
    record(other, "c")
    other.finish()
    ids = other.run_ids
    assert ids == ["a", "", "c"]
    assert not [file for file in files(path) if "/c.1." in file]
    assert record(open_store(path), "d") == 1
    assert open_store(path).holds(1) == {"generated_image"}


def test_rows_are_given_in_order_and_holes_are_filled_first(path):
    store = make(path)
    rows = [store.claim(run) for run in "abc"]
    assert rows == [0, 1, 2]
    store.release(1)
    assert store.claim("d") == 1
    for row in (0, 1, 2):
        fill(store, row)
    store.complete_runs([2, 1])
    assert open_store(path).run_ids == ["a", "d", "c"], "who comes into sight has a label"
    assert open_store(path).complete.tolist() == [False, True, True]
    store.complete_run(0)
    store.finish()
    assert open_store(path).run_ids == ["a", "d", "c"]


def test_rows_are_added_in_large_steps(path):
    store = make(path)
    store.claim("a")
    assert store.snapshot.doc.room == 8
    rows = store.claim_all([RunRecord(str(number)) for number in range(20)], capacity=3000)
    assert rows == list(range(1, 21))
    assert store.snapshot.doc.room >= 3000
    assert len(store.complete) == 0
    for row in [0, *rows]:
        store.release(row)
    store.finish()
    assert len(open_store(path).complete) == 0
    assert not list((path / "complete").glob("c.*"))
    assert STEP == 1024


def test_many_runs_at_once_each_know_why_they_cannot_be_had(path):
    store, other = make(path), open_store(path)
    record(store, "a")
    other.claim("b")
    one, two, three = store.claim_all([RunRecord("a"), RunRecord("b"), RunRecord("c")])
    assert "is complete" in str(one)
    assert "is being recorded by another recorder" in str(two)
    assert three == 2


def test_a_write_beyond_the_array_or_to_another_row_is_refused(path):
    store = make(path)
    row = store.claim("a")
    with pytest.raises(InvalidValueError, match="row 5 of .* is not claimed by this recorder"):
        store.write_image(5, PICTURE)
    with pytest.raises(StoreMismatchError, match="record pictures of another size"):
        store.write_image(row, PICTURE[:2])
    store._open[9999] = RunRecord("x")
    with pytest.raises(StoreMismatchError, match="at row 9999 do not fit"):
        store.write_image(9999, PICTURE)


def test_nobody_shrinks_what_others_use(path):
    one = make(path)
    record(one, "a")
    two = open_store(path)
    row = two.claim("b")
    one.finish()
    assert open_store(path).snapshot.doc.room == 8, "another writer lives"
    fill(two, row)
    two.complete_run(row)
    two.finish()
    assert open_store(path).run_ids == ["a", "b"]
    assert not (path.parent / "s.zarr.recording").exists()


def test_a_store_that_was_half_laid_out_is_laid_out_anew(path):
    storage = open_storage(path)
    notes = Notes(storage)

    def die():
        storage.put("text/zarr.json", b"half")
        raise KeyboardInterrupt

    with notes.turn(), pytest.raises(KeyboardInterrupt):
        notes.begin_store(die)
    store = make(path)
    record(store, "a")
    store.finish()
    assert validate_store(path, deep=True) == []
    assert [entry.name for entry in path.parent.iterdir()] == ["s.zarr"]


def test_a_folder_of_the_users_own_is_left_alone(path):
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    with pytest.raises(StoreExistsError, match="needs a path where nothing is"):
        make(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["s.zarr"]
    assert (path / "notes.txt").read_text() == "mine"


def test_single_arrays_have_metadata_of_their_own(path):
    store = make(path)
    record(store, "a")
    store.finish()
    for name, array in store.group.members(max_depth=None):
        if isinstance(array, zarr.Array):
            own = zarr.open_array(path / name, mode="r")
            assert written(own) == written(array), name


WRITER = """
import sys
sys.path.insert(0, sys.argv[3])
from test_life import record
from attlas.schemas import open_store
for number in range(int(sys.argv[4])):
    store = open_store(sys.argv[1])
    record(store, f"{sys.argv[2]}{number}", float(number + 1))
    if number % 3 != 2:
        store.finish()
store.finish()
"""


@pytest.mark.slow
def test_readers_see_complete_runs_only_while_four_processes_write(path):
    make(path)
    arguments = [str(path), str(Path(__file__).parent)]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, arguments[0], name, arguments[1], "5"]) for name in "abcd"
    ]
    opened = 0
    while any(writer.poll() is None for writer in writers):
        store = open_store(path)
        done = store.complete
        ids = store.column("run")
        for row in np.flatnonzero(done):
            assert ids[row]
            number = float(str(ids[row])[1:]) + 1
            assert (store.group["text/2x3/attention_mean"][row] == number).all()
            assert store.column("prompt")[row] == f"prompt of {ids[row]}"
        tree = xr.open_datatree(path, engine="zarr")
        for row in np.flatnonzero(tree["complete"].values):
            number = float(str(tree["run"].values[row])[1:]) + 1
            assert (tree["text/2x3/g2r"][row].values == number).all()
        opened += 1
    assert [writer.returncode for writer in writers] == [0] * 4
    assert opened > 5
    assert sorted(open_store(path).run_ids) == sorted(f"{name}{number}" for name in "abcd" for number in range(5))
    assert validate_store(path, deep=True) == []
    assert [entry.name for entry in path.parent.iterdir()] == ["s.zarr"]


@settings(max_examples=8)
@given(st.permutations(range(4)), st.integers(1, 4))
def test_any_order_and_batch_gives_the_same_runs(order, batch):
    store = make(None)
    rows = [store.claim(str(number)) for number in range(4)]
    for number in order:
        fill(store, rows[number], float(number))
    for start in range(0, 4, batch):
        store.complete_runs([rows[number] for number in order[start : start + batch]])
    store.finish()
    assert store.run_ids == ["0", "1", "2", "3"]
    assert [float(store.group["text/2x3/g2r"][row].max()) for row in rows] == [0, 1, 2, 3]


def test_a_simulated_store_is_the_same_on_disk_and_in_memory(tmp_path):
    one, two = simulate_store(tmp_path / "s.zarr", runs=2), simulate_store(None, runs=2)
    assert one.snapshot.doc.nodes == two.snapshot.doc.nodes
    for path, node in one.snapshot.doc.nodes.items():
        if node["node_type"] == "array":
            np.testing.assert_array_equal(one.group[path][...], two.group[path][...], err_msg=path)


def test_a_note_that_could_not_be_made_sure_is_taken_back_with_its_run(path, monkeypatch):
    store = make(path)
    row = store.claim("a")
    fill(store, row)
    put = store._commits.notes._storage.put

    def fail(key, data, *, sync=True):
        put(key, data, sync=sync)
        if key.startswith("done/"):
            raise StorageError("the folder could not be flushed")

    monkeypatch.setattr(store._commits.notes._storage, "put", fail)
    with pytest.raises(StorageError, match="could not be flushed"):
        store.complete_run(row)
    store.release(row)
    monkeypatch.undo()
    assert store.claim("a") == row
    fill(store, row, 2.0)
    store.complete_run(row)
    store.finish()
    assert validate_store(path, deep=True) == []
    assert float(store.group["text/2x3/g2r"][row].max()) == 2


def test_a_store_is_there_with_its_root_document_whatever_is_noted(path):
    store = make(path)
    Notes(store.storage)._storage.put("creating", b"")
    assert open_store(path).run_ids == []
    record(open_store(path), "a")
    open_store(path).finish()
    assert [entry.name for entry in path.parent.iterdir()] == ["s.zarr"]


def test_of_a_batch_that_cannot_be_claimed_whole_nothing_is_held(path, monkeypatch):
    store = make(path)
    put = store._commits.notes._storage.put

    def fail(key, data, *, sync=True):
        if key == "claims/1.json":
            raise StorageError("no more room")
        put(key, data, sync=sync)

    monkeypatch.setattr(store._commits.notes._storage, "put", fail)
    with pytest.raises(StorageError, match="no more room"):
        store.claim_all([RunRecord("a"), RunRecord("b")])
    monkeypatch.undo()
    assert store.claim_all([RunRecord("a"), RunRecord("b")]) == [0, 1]

"""Statistics kept in a store: labelled floats for everybody, and no number of another run, whatever happens."""

import itertools
import shutil
import threading

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from attlas.schemas import open_store, simulate_store, validate_store
from attlas.schemas.errors import CorruptDataError, InvalidValueError
from attlas.schemas.fingerprints import Fingerprints
from attlas.schemas.repair import repair_store
from attlas.schemas.statistics import Record, read_block, read_records, statistic_problems, write_records
from attlas.schemas.storage.memory import MemoryStorage

NAME = "score-0123456789ab"
PROVENANCE = {
    "statistic": "score", "options": {}, "digest": "0123456789ab", "version": "1", "attlas": "0", "units": "dB",
    "meaning": "a test", "source": "here",
}  # fmt: skip


def number(value, fingerprint="f"):
    return Record(fingerprint, np.array(float(value)))


def words(text, fingerprint="f"):
    labels = tuple(text.split())
    values = np.array([float(len(own)) for own in labels])
    return Record(fingerprint, values, ("word",), {"word": labels}, {"first": (("word",), tuple(w[0] for w in labels))})


def kept(store, rows=range(6)):
    return {row: record.checksum for row, record in read_records(store, NAME, rows).items()}


def sums(records):
    return {row: record.checksum for row, record in records.items()}


def keep(store, records):
    write_records(store, NAME, PROVENANCE, records)


def held(storage):
    return {key: storage.get(key) for key in storage.keys()}  # noqa: SIM118 - of a storage


def copy_of(files):
    made = MemoryStorage("a copy")
    for key, data in files.items():
        made.put(key, data)
    return made


@pytest.fixture(scope="module")
def simulated():
    return held(simulate_store(runs=6, kinds=("text",), layers=1, heads=1, grid=(2, 2), image_size=8).storage)


@pytest.fixture
def store(simulated):
    return open_store(copy_of(simulated))


@pytest.fixture
def path(simulated, tmp_path):
    for key, data in simulated.items():
        (tmp_path / "a.zarr" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a.zarr" / key).write_bytes(data)
    return tmp_path / "a.zarr"


def test_records_stay_beside_those_of_others(store):
    records = {row: number(row, f"run {row}") for row in range(6)}
    assert kept(store) == {}
    for row in (4, 0, 5):
        keep(store, {row: records[row]})
    keep(store, {row: records[row] for row in (1, 2, 3)})
    assert kept(store) == kept(open_store(store.storage)) == sums(records)
    assert kept(store, [3, 3, 1]) == {row: records[row].checksum for row in (3, 1)}
    keep(store, {0: number(7, "another run")})
    assert read_records(store, NAME, [0])[0].values == 7
    assert list(statistic_problems(store, deep=True)) == []
    rows, found = read_block(store, NAME, 3)
    assert (rows, sums(found)) == (range(1024), kept(store))
    assert read_block(store, "none-0", 3) == (range(3, 4), {})


def test_xarray_shows_labelled_floats(path):
    store = open_store(path)
    keep(store, {0: words("a red disc"), 2: words("a blue disc")})
    keep(store, {3: words("two blue crosses and a red disc")})
    heads = Record("f", np.array([[1.0, np.nan]]), ("layer", "head"), {"layer": ("mid",), "head": (0, 1)})
    write_records(store, "heads-0123456789ab", {**PROVENANCE, "units": "1"}, {1: heads})
    tree = xr.open_datatree(path, engine="zarr").load()
    assert sorted(tree["statistics"].children) == ["heads-0123456789ab", NAME]
    node = tree[f"statistics/{NAME}"]
    value = node["value"]
    assert (value.dims, value.dtype, value.sizes["run"]) == (("run", "word"), np.float64, 6)
    assert (value.attrs["units"], value.attrs["description"]) == ("dB", "a test")
    assert node["run"].values.tolist() == store.run_ids
    assert value.sel(run="0000").where(value["word_label"].sel(run="0000") == "red").sum() == 3
    assert value.coords["first"].sel(run="0003").values[:8].tolist() == ["t", "b", "c", "a", "a", "r", "d", ""]
    assert node["word_count"].values.tolist() == [3, -1, 3, 7, -1, -1]
    assert np.isnan(value.sel(run="0001")).all()
    value = tree["statistics/heads-0123456789ab"]["value"]
    assert value.sel(run="0001", layer="mid", head=0) == 1
    assert value.sel(layer="mid").isnull().sum() == 11


def test_dims_called_like_the_stores_do_not_keep_it_from_opening(path):
    store = open_store(path)
    for place, (dim, labels) in enumerate(
        [("t", (0, 1, 2)), ("t", (0, 1)), ("branch", ("cond",)), ("image_y", (0,)), ("value", ("a",)), ("a/b", (1.5,))]
    ):
        made = Record("f", np.zeros(len(labels)), (dim,), {dim: labels}, {"run": ((dim,), labels)})
        write_records(store, f"s{place}-0", PROVENANCE, {0: made})
        assert read_records(store, f"s{place}-0", [0])[0].checksum == made.checksum
    tree = xr.open_datatree(path, engine="zarr")
    assert [tree[f"statistics/s{place}-0/value"].dims[1] for place in range(6)] == [
        "t", "statistic_t", "statistic_branch", "statistic_image_y", "statistic_value", "a_b",
    ]  # fmt: skip
    assert open_store(path).run_ids == store.run_ids


def test_what_does_not_fit_is_laid_out_anew_with_all_there_was(store):
    texts = ["a b", "a b", "a c", "a b c", " ".join("abcdefghijklmnopq"), "a"]
    records = {row: words(text, f"run {row}") for row, text in enumerate(texts)}
    places = []
    for row, record in records.items():
        keep(store, {row: record})
        assert kept(store) == sums({own: records[own] for own in range(row + 1)})
        (group,) = (
            node for node in store.snapshot.doc.nodes if node.count("/") == 1 and node.startswith("statistics/")
        )
        places.append(
            (group.removeprefix(f"statistics/{NAME}"), store.snapshot.doc.nodes[f"{group}/value"]["shape"][1])
        )
        assert all(key.startswith((f"{group}/", "statistics/zarr.json")) for key in store.storage.keys("statistics/"))
    assert places == [("", 2), ("", 2), ("-2", 16), ("-2", 16), ("-3", 32), ("-3", 32)]


def test_labels_keep_their_kind(store):
    for row, labels in enumerate([(0, 1), (1, 2), (0.5, float("nan")), (True, None), ("a", "\0"), ("\ud800", 2**70)]):
        keep(store, {row: Record("f", np.zeros(2), ("place",), {"place": labels})})
    found = read_records(store, NAME, range(6))
    assert [repr(found[row].coords["place"]) for row in range(6)] == [
        "(0, 1)", "(1, 2)", "(0.5, nan)", "(True, None)", r"('a', '\x00')", f"('\\ud800', {2**70})",
    ]  # fmt: skip


def test_other_dims_are_refused_and_what_there_was_stays(store):
    keep(store, {0: number(1)})
    with pytest.raises(InvalidValueError, match="dims and labels are"):
        keep(store, {1: words("a b")})
    assert list(kept(store)) == [0]


def test_rows_that_are_added_and_cut_have_nothing(store):
    keep(store, {row: number(row) for row in range(6)})
    extra = store.claim("extra", capacity=50)
    assert store.snapshot.doc.room > 50
    assert list(kept(store, range(6))) == list(range(6))
    store.release(extra)
    store.finish()
    assert list(kept(store, range(60))) == list(range(6))
    assert list(statistic_problems(store, deep=True)) == []


def interrupted(files, after, work):
    """Do `work` on a copy of a store, killed after so many writes; return the copy, and whether it was killed."""
    storage = copy_of(files)
    left = itertools.count(after, -1)

    def failing(do):
        def act(*args, **options):
            if next(left) <= 0:
                raise KeyboardInterrupt
            return do(*args, **options)

        return act

    store = open_store(storage)
    storage.put, storage.delete = failing(storage.put), failing(storage.delete)
    try:
        work(store)
    except KeyboardInterrupt:
        return copy_of(held(storage)), True
    finally:
        del storage.put, storage.delete
    return storage, False


def test_a_kill_at_any_write_loses_nothing_that_was_kept_of_other_runs_and_makes_no_number_wrong(store):
    before = {0: words("a b", "run 0"), 1: words("a b", "run 1")}
    after = {1: words("long words now", "run 1 anew"), 2: words("a", "run 2")}
    keep(store, before)
    files = held(store.storage)
    for writes in itertools.count():
        storage, failed = interrupted(files, writes, lambda own: keep(own, after))
        found = read_records(open_store(storage), NAME, range(6))
        assert found[0].checksum == before[0].checksum
        for row, record in found.items():
            wanted = {**before, **after} if record.fingerprint in ("run 1 anew", "run 2") else before
            assert record.checksum == wanted[row].checksum
        if writes % 5 == 0 or not failed:
            again = open_store(storage)
            keep(again, after)
            assert kept(again) == sums({**before, **after})
            assert list(statistic_problems(again, deep=True)) == []
        if not failed:
            break
    assert writes > 20


def test_a_kill_while_rows_are_replaced_in_place_makes_no_number_wrong(store):
    before = {row: number(row, f"run {row}") for row in range(3)}
    after = {1: number(11, "run 1 anew"), 3: number(13, "run 3")}
    keep(store, before)
    files = held(store.storage)
    for writes in itertools.count():
        storage, failed = interrupted(files, writes, lambda own: keep(own, after))
        found = read_records(open_store(storage), NAME, range(6))
        assert {0, 2} <= set(found)
        assert all(own.checksum in (sums(before).get(row), sums(after).get(row)) for row, own in found.items())
        if not failed:
            break
    assert kept(open_store(storage)) == sums({**before, **after})


@given(st.data())
def test_whatever_part_of_the_writes_lasts_no_number_is_wrong(simulated, data):
    storage = copy_of(simulated)
    store = open_store(storage)
    states = [held(storage)]
    told: dict[int, set[str]] = {}
    for _ in range(data.draw(st.integers(1, 3))):
        rows = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True))
        records = {row: words(data.draw(st.sampled_from(["a b", "a c d", "b"])), f"{len(states)}") for row in rows}
        keep(store, records)
        states.append(held(storage))
        for row, record in records.items():
            told.setdefault(row, set()).add(record.checksum)
    keys = sorted(set().union(*states))
    chosen = {key: data.draw(st.sampled_from(states)).get(key) for key in keys if key.startswith("statistics/")}
    mixed = {**data.draw(st.sampled_from(states)), **chosen}
    try:
        found = kept(open_store(copy_of({key: data for key, data in mixed.items() if data is not None})))
    except CorruptDataError:
        return
    assert all(checksum in told[row] for row, checksum in found.items())


def test_two_writers_of_a_block_and_readers_beside_them(path):
    wrong, done = [], threading.Event()

    def write(own, texts):
        store = open_store(path, durable=False)
        for place, text in enumerate(texts):
            keep(store, {own + 2 * (place % 3): words(text, text)})

    def read():
        while not done.is_set():
            found = read_records(open_store(path), NAME, range(6)).values()
            wrong.extend(own for own in found if own.checksum != words(own.fingerprint, own.fingerprint).checksum)

    texts = ["a b", "c", "d e f", "g h", " ".join("abcdefghijklmnopq"), "x"]
    writers = [threading.Thread(target=write, args=(own, texts[own:] + texts[:own])) for own in range(2)]
    reader = threading.Thread(target=read)
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert wrong == []
    found = read_records(open_store(path), NAME, range(6))
    assert {row: found[row].fingerprint for row in found} == dict(
        zip([0, 2, 4, 1, 3, 5], [*texts[3:], *texts[4:], texts[0]], strict=True)
    )


def test_a_store_opened_before_goes_without_what_was_laid_out_anew_since(path):
    keep(open_store(path), {0: words("a b")})
    early, other = open_store(path), open_store(path)
    keep(other, {1: words("a")})
    assert kept(early) == {}
    keep(early, {2: words("b")})
    assert sorted(kept(early)) == [0, 1, 2]


def test_a_folder_that_was_removed_is_computed_anew(path):
    records = {0: words("a b"), 1: words("c d")}
    for first in (records, {0: words("a b")}, {0: words("a b"), 1: words("a b")}):
        keep(open_store(path), first)
        for folder in (path / "statistics").glob("score-*"):
            shutil.rmtree(folder)
        store = open_store(path)
        assert kept(store) == {}
        assert list(statistic_problems(store, deep=True)) == []
        keep(store, {2: words("e f")})
        assert list(kept(open_store(path))) == [2]


@pytest.mark.parametrize("array", ["value", "fingerprint", "word_label", "first", "word_count"])
def test_damage_names_the_folder_to_remove(store, array):
    keep(store, {0: words("a b"), 1: words("c")})
    key = f"statistics/{NAME}/{array}/c.0" + (".0" if array in ("value", "word_label", "first") else "")
    data = bytearray(store.storage.get(key))
    data[len(data) // 2] ^= 1
    store.storage.put(key, bytes(data))
    for work in (lambda: kept(store), lambda: keep(store, {2: words("d")})):
        with pytest.raises(CorruptDataError, match=f"statistics/{NAME} in .*remove that folder, it is computed anew"):
            work()
    ((path, problem),) = statistic_problems(store, deep=True)
    assert path == f"statistics/{NAME}"
    assert problem.startswith(f"{path} in ")
    store.storage.delete(key)
    if array == "fingerprint":
        assert kept(store) == {}
    else:
        with pytest.raises(CorruptDataError, match="is missing"):
            kept(store)


def test_repair_removes_what_is_damaged_and_nothing_else(path):
    keep(open_store(path), {0: words("a b"), 1: words("c")})
    write_records(open_store(path), "other-0123456789ab", PROVENANCE, {0: number(1)})
    chunk = path / "statistics" / NAME / "value" / "c.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert [NAME in problem for problem in validate_store(path, deep=True)] == [True]
    assert repair_store(path) == [f"removed: statistics/{NAME}, which is computed anew"]
    assert validate_store(path, deep=True) == []
    store = open_store(path)
    assert (kept(store), list(read_records(store, "other-0123456789ab", [0]))) == ({}, [0])
    assert not chunk.parents[1].exists()
    keep(store, {0: words("a b")})
    shutil.rmtree(chunk.parents[1])
    assert validate_store(path, deep=True) == []
    assert all(line.startswith("made again: statistics/") for line in repair_store(path))
    assert validate_store(path, deep=True) == []
    assert kept(open_store(path)) == {}
    keep(open_store(path), {0: words("a b")})
    assert list(kept(open_store(path))) == [0]


def test_a_group_that_says_nothing_of_its_arrays_is_damage(store):
    with store.locked():
        store.add_nodes({f"statistics/{NAME}": {"attributes": {}, "zarr_format": 3, "node_type": "group"}})
    assert [(path, problem.partition(":")[0]) for path, problem in statistic_problems(store, deep=False)] == [
        (f"statistics/{NAME}", f"statistics/{NAME}"),
        (f"statistics/{NAME}", f"statistics/{NAME} in a copy cannot be read"),
    ]
    with pytest.raises(CorruptDataError, match="cannot be read"):
        kept(store)


def test_fingerprints_are_of_the_run_alone(store, simulated):
    first = Fingerprints(store).of(range(6))
    assert len(set(first)) == 6
    assert Fingerprints(open_store(copy_of(simulated))).of([5]) == first[5:]
    row = store.claim("extra", seed=7)
    store.write_annotations(row, {"mask": np.ones((8, 8), bool), "note": "x"})
    store.complete_run(row)
    keep(store, {0: number(1)})
    store.finish()
    assert Fingerprints(open_store(store.storage)).of(range(6)) == first


def test_fingerprints_tell_other_outcomes(store):
    first = Fingerprints(store).of(range(6))
    files = held(store.storage)
    for name in ("generated_image/c.2.0.0.0", "text/2x2/g2r/c.2.0.0.0.0.0"):
        storage = copy_of(files)
        storage.put(name, storage.get(name.replace("c.2", "c.3")))
        made = Fingerprints(open_store(storage)).of(range(6))
        assert [one != other for one, other in zip(first, made, strict=True)] == [row == 2 for row in range(6)]
        storage.delete(name)
        with pytest.raises(CorruptDataError, match=f"{name} of a copy is missing, and run '0002' is complete"):
            Fingerprints(open_store(storage)).of(range(6))

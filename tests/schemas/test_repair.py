"""`attlas repair`: makes again what follows, gives damaged runs back, and says what it did."""

import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from attlas.schemas import open_store, repair_store, simulate_store, validate_store
from attlas.schemas.cli.group import attlas
from attlas.schemas.errors import InvalidValueError, StoreInvalidError, StoreNotFoundError


@pytest.fixture
def path(tmp_path):
    simulate_store(tmp_path / "s.zarr", kinds=("text", "image"), runs=3)
    return tmp_path / "s.zarr"


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)


def everything(path):
    store = open_store(path)
    nodes = store.snapshot.doc.nodes.items()
    return {name: store.lenient[name][...] for name, node in nodes if node["node_type"] == "array"}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_a_sound_store_is_left_alone(path):
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    assert repair_store(path) == []
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before
    assert [entry.name for entry in path.parent.iterdir()] == ["s.zarr"]


@pytest.mark.parametrize(
    "file",
    ["zarr.json", "text/zarr.json", "seed/zarr.json", "text/4x4/zarr.json", "text/4x4/query_y/c.0", "complete/c.0"],
)
@pytest.mark.parametrize("damage", [flip, lambda file: file.unlink(), lambda file: file.write_bytes(b"")])
def test_what_follows_from_the_rest_is_made_again(path, file, damage):
    before = everything(path)
    damage(path / file)
    assert validate_store(path, deep=True)
    done = repair_store(path)
    assert done
    assert all(line.startswith("made again: ") for line in done)
    assert validate_store(path, deep=True) == []
    assert_same(everything(path), before)


def test_a_damaged_run_is_given_back_and_the_others_stay(path):
    before = everything(path)
    flip(path / "text/4x4/log_attention/c.1.0.0.0.0.0.0")
    (path / "generated_image/c.1.0.0.0").unlink()
    assert repair_store(path) == ["marked incomplete: run '0001', 2 problems"]
    assert validate_store(path, deep=True) == []
    store = open_store(path)
    assert store.complete.tolist() == [True, False, True]
    assert store.run_ids == ["0000", "0001", "0002"]
    after = everything(path)
    for name in ("text/4x4/log_attention", "image/4x4/g2r", "prompt"):
        np.testing.assert_array_equal(after[name][[0, 2]], before[name][[0, 2]])
    assert not list(path.rglob("c.1.*"))
    assert store.claim("0001") == 1
    store.release(1)


def test_a_damaged_column_takes_the_runs_of_its_block(path):
    flip(path / "prompt/c.0")
    done = repair_store(path)
    assert [line.split(",")[0] for line in done] == [f"marked incomplete: run '000{row}'" for row in range(3)]
    assert validate_store(path, deep=True) == []
    store = open_store(path)
    assert [store.claim(f"000{row}") for row in range(3)] == [0, 1, 2]


def test_what_a_dead_recorder_left_is_entered_or_removed(path):
    store = open_store(path)
    finished, begun = store.claim("finished"), store.claim("begun")
    for name, node in store.snapshot.doc.nodes.items():
        if node["node_type"] == "array" and (path / name / "c.0").parent.exists():
            block = node["chunk_grid"]["configuration"]["chunk_shape"][0]
            for file in (path / name).glob("c.0*") if node["dimension_names"][0] == "run" and block == 1 else ():
                shutil.copy(file, file.with_name(f"c.{finished}{file.name[3:]}"))
    store.write_image(begun, np.zeros((32, 32, 3), "u1"))
    store._open[finished].holds = sorted(store.holds(0))
    store.storage.flush()
    store._commits.notes.finish(finished, store._open[finished])
    store._commits.notes.leave()
    done = repair_store(path)
    assert done == [
        "put into the run table: run 'finished', which was finished",
        "removed: what was stored of run 'begun', which was not finished",
    ]
    assert open_store(path).run_ids == ["0000", "0001", "0002", "finished"]
    assert [entry.name for entry in path.parent.iterdir()] == ["s.zarr"]
    assert validate_store(path, deep=True) == []


def test_what_cannot_be_made_again_is_said(path):
    flip(path / "text/4x4/layer/c.0")
    with pytest.raises(StoreInvalidError, match="layer"):
        repair_store(path)


def test_where_nothing_can_be_repaired(path, tmp_path):
    with pytest.raises(StoreNotFoundError, match="nothing is there"):
        repair_store(tmp_path / "none.zarr")
    writer = open_store(path)
    row = writer.claim("alive")
    with pytest.raises(InvalidValueError, match="is being recorded; repair it when the recorder has ended"):
        repair_store(path)
    writer.release(row)
    writer.finish()


def test_command(path):
    result = CliRunner().invoke(attlas, ["repair", str(path), "--quiet"])
    assert (result.exit_code, result.output) == (0, f"{path}: sound\n")
    (path / "seed/zarr.json").unlink()
    result = CliRunner().invoke(attlas, ["repair", str(path), "--quiet"])
    assert result.output == f"{path}: 1 repairs\n  made again: seed/zarr.json\n"

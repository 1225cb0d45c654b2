"""The life of a store: claims, whole shards, completion, and what it refuses."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
import zarr

from attlas.schemas import Leaf, Manifest, create_store, open_store, simulate_store
from attlas.schemas.errors import (
    CorruptDataError,
    InvalidValueError,
    RunTakenError,
    SchemaVersionError,
    StoreExistsError,
    StoreInvalidError,
    StoreMismatchError,
    StoreNotFoundError,
    UnknownNameError,
)

MANIFEST = Manifest("tiny", "digest", "StableDiffusionPipeline", {"class": "DDIM"}, {"precision": "exact"})


LEAF = Leaf("text", (2, 3), 2, 4, ("down.attn2", "up.attn2"), 5, encoding="dense", head_labels=(0, 1))


@pytest.fixture
def store(tmp_path):
    return create_store(tmp_path / "s.zarr", MANIFEST, (LEAF,), ("uncond", "cond"), 4, (8, 12))


def test_every_array_comes_back_as_written(store):
    row = store.claim("a", seed=3, prompt="a disc", request='{"prompt": "a disc"}')
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 4, 1, 2, 6, 5)).astype("f2")
    for layer in range(2):
        store.write("text/2x3", "log_attention", row, values + layer, layer0=layer)
    store.write_clock(row, steps=[0, 1, 1, 2], timesteps=[981, 961, 961, 941], sigmas=[3, 2, 2, np.inf])
    store.complete_run(row)
    store.finish()
    again = open_store(store.path)
    assert again.run_ids == ["a"]
    assert again.complete.tolist() == [True]
    stored = again.group["text/2x3/log_attention"]
    assert stored.shape == (1, 2, 4, 2, 2, 6, 5)
    np.testing.assert_array_equal(stored[0, :, :, 1:2], (values + 1).astype("f2"))
    assert again.group["step"][0].tolist() == [0, 1, 1, 2]
    assert again.manifest == MANIFEST
    assert again.leaves == {"text/2x3": LEAF}


def test_plain_xarray_opens_it(tmp_path):
    simulate_store(tmp_path / "s.zarr")
    tree = xr.open_datatree(tmp_path / "s.zarr", engine="zarr")
    dims = ("run", "branch", "t", "layer", "head", "query", "key")
    assert tree["text/4x4"]["log_attention"].dims == dims
    assert tree["text/4x4"]["log_attention"].sel(branch="cond", run="0001").shape == (3, 2, 2, 16, 10)
    assert set(tree["text/4x4"].coords) >= {"token", "query_y", "layer", "run", "t", "branch"}
    assert set(tree.coords) >= {"step", "timestep", "sigma"}
    assert tree["self/4x4"]["key_vectors"].dims == (*dims[:5], "key", "channel")
    assert tree["image/4x4"]["key_vectors"].dims == ("run", "branch", "layer", "head", "key", "channel")


def test_rows_are_claimed_once(store):
    row = store.claim("a", request="{}")
    other = open_store(store.path)
    with pytest.raises(StoreMismatchError, match="'a' of .* is being recorded by another recorder"):
        other.claim("a", request="{}")
    assert other.claim("b") == row + 1
    store.release(row)
    assert other.claim("a", request="{}") == row
    other.complete_run(row)
    with pytest.raises(RunTakenError, match="run 'a' of .* is complete; choose another id"):
        store.claim("a", request="{}")
    with pytest.raises(RunTakenError, match=r"from another request; give this one another id\n  store {}\n  got   .*y"):
        store.claim("a", request='{"prompt": "y"}')


def test_a_run_that_was_only_begun_may_be_begun_with_another_request(store):
    store.release(store.claim("a", request='{"prompt": "x"}'))
    row = store.claim("a", request='{"prompt": "y"}')
    store.complete_run(row)
    assert str(store.column("request")[row]) == '{"prompt": "y"}'


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("", "needs a non-empty id"),
        ("x" * 201, "has 201 characters; 200 are the most"),
        ("a\nb", r"holds '\\n'; letters, digits, signs and spaces"),
        ("a\u202eb", "holds"),
        ("a\ud800", "is no valid text"),
    ],
)
def test_a_run_has_a_label_that_everything_can_carry(store, run, words):
    with pytest.raises(InvalidValueError, match=words):
        store.claim(run)
    assert store.run_ids == []


def test_text_that_cannot_be_stored_is_refused_with_the_claim(store):
    with pytest.raises(InvalidValueError, match="the prompt of run 'a' .* is no valid text"):
        store.claim("a", prompt="half \ud83d")


def test_claims_of_a_killed_process_are_free_at_once(store):
    code = (
        "import os, signal, sys\n"
        "from attlas.schemas import open_store\n"
        "store = open_store(sys.argv[1]); store.claim('a')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, store.path])
    assert done.returncode == -9
    assert store.claim("a") == 0


def test_two_processes_claim_rows_at_once(store):
    code = (
        "import sys\n"
        "from attlas.schemas import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "for i in range(6): store.complete_run(store.claim(f'{sys.argv[2]}{i}'))"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, store.path, name]) for name in "ab"]
    assert [worker.wait() for worker in workers] == [0, 0]
    store.finish()
    assert sorted(store.run_ids) == sorted(f"{name}{i}" for name in "ab" for i in range(6))
    assert store.complete.all()


def test_only_whole_shards_are_written(store):
    row = store.claim("a")
    values = np.zeros((2, 2, 1, 2, 6, 5), "f2")
    with pytest.raises(InvalidValueError, match=r"log_attention: t 0\.\.2 is not whole shards of 4 in 4"):
        store.write("text/2x3", "log_attention", row, values)
    with pytest.raises(UnknownNameError, match="unknown leaf 'text/2x2'"):
        store.write("text/2x2", "log_attention", row, values)
    with pytest.raises(UnknownNameError, match="unknown variable 'query_vectors'"):
        store.write("text/2x3", "query_vectors", row, values)
    store.release(row)
    with pytest.raises(InvalidValueError, match="row 0 of .* is not claimed"):
        store.write("text/2x3", "log_attention", row, np.zeros((2, 4, 1, 2, 6, 5), "f2"))


def test_annotations(store):
    row = store.claim("a")
    mask = np.zeros((8, 12), bool)
    mask[2:4] = True
    where = np.full((8, 12, 2), np.nan, "f4")
    store.write_annotations(row, {"disc": mask, "place": where, "quality": 0.5, "note": "fine", "box": [1, 2, 3, 4]})
    node = store.snapshot.wide.group["annotations"]
    np.testing.assert_array_equal(node["disc"][row], mask.astype("i1"))
    assert store.snapshot.wide.lenient("annotations/disc")[row + 1].min() == -1
    with pytest.raises(CorruptDataError, match=r"annotations/disc/c\.1\.0\.0 of .* is missing"):
        store.snapshot.wide.array("annotations/disc")[row + 1]
    assert node["place"].metadata.dimension_names == ("run", "image_y", "image_x", "coordinate")
    assert node["box"].metadata.dimension_names == ("run", "box_0")
    assert str(node["note"][row]) == "fine"
    with pytest.raises(InvalidValueError, match="'disc' is a mask of 4x4; its picture is 8x12"):
        store.write_annotations(row, {"disc": np.zeros((4, 4), bool)})
    with pytest.raises(InvalidValueError, match="'a b' is no identifier"):
        store.write_annotations(row, {"a b": mask})
    with pytest.raises(StoreMismatchError, match=r"'box' .* has shape \(4,\), got \(2,\)"):
        store.write_annotations(row, {"box": [1, 2]})


def test_pictures_of_another_size_are_refused(store):
    row = store.claim("a")
    with pytest.raises(StoreMismatchError, match="into another store"):
        store.write_image(row, np.zeros((8, 8, 3), "u1"))
    with pytest.raises(StoreMismatchError, match="without a reference image"):
        store.write_reference(row, np.zeros((8, 8, 3), "u1"))


def test_what_is_no_store_is_left_untouched(tmp_path):
    with pytest.raises(StoreNotFoundError, match="nothing is there"):
        open_store(tmp_path / "none.zarr")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreExistsError, match=r"no zarr\.json; it was left untouched"):
        open_store(tmp_path / "file")
    zarr.open_group(tmp_path / "other.zarr", mode="w").attrs["mine"] = 1
    with pytest.raises(StoreExistsError, match="not an attlas store: attribute 'attlas' is missing"):
        open_store(tmp_path / "other.zarr")
    with pytest.raises(StoreExistsError, match="exists; a new store needs a path where nothing is"):
        create_store(tmp_path / "file", MANIFEST, (LEAF,), (), 1, (1, 1))
    assert (tmp_path / "file").read_text() == "mine"


def changed(store, change):
    """Change what the root document says of the store; with a checksum that fits unless `change` makes one."""
    doc = store.snapshot.doc
    info = {**doc.attributes["attlas"]}
    change(info)
    (store.storage.folder / "zarr.json").write_bytes(doc.with_attributes(attlas=info).to_bytes())


def test_another_schema_is_refused_with_both_versions(store):
    changed(store, lambda info: info.update(schema=7))
    with pytest.raises(SchemaVersionError, match="has schema 7; this attlas reads schema 2: upgrade"):
        open_store(store.path)
    changed(store, lambda info: info.update(schema=1))
    with pytest.raises(SchemaVersionError, match="has schema 1, which no release of attlas wrote; .* record again"):
        open_store(store.path)


def test_a_broken_manifest_is_named_whole(store):
    changed(store, lambda info: info.update(manifest={**info["manifest"], "model": 3, "extra": 1}))
    with pytest.raises(StoreInvalidError, match=r"2 problems in .*\n  .*unknown key 'extra'\n  .*'model' is int"):
        open_store(store.path)


def test_another_model_or_capture_is_another_experiment():
    other = Manifest("tiny", "other", "StableDiffusionPipeline", {"class": "DDIM"}, {"precision": "small"})
    assert MANIFEST.differences(other) == [
        "model_digest: store has 'digest', got 'other'",
        "capture.precision: store has 'exact', got 'small'",
    ]
    assert MANIFEST.differences(MANIFEST) == []

"""All problems of a store at once."""

import json
import shutil

import pytest
from click.testing import CliRunner

from attlas.schemas import simulate_store, validate_store
from attlas.schemas.cli.group import attlas


@pytest.fixture
def path(tmp_path):
    simulate_store(tmp_path / "s.zarr", kinds=("text", "self"))
    return tmp_path / "s.zarr"


def test_a_sound_store_has_none(path):
    assert validate_store(path, deep=True) == []


def test_every_problem_is_listed(path):
    shutil.rmtree(path / "text/4x4/g2r")
    for shard in (path / "self/4x4/query_vectors").glob("c.1.*"):
        shard.unlink()
    (path / "prompt/c.0").unlink()
    metadata = json.loads((path / "seed/zarr.json").read_text())
    (path / "seed/zarr.json").write_text(json.dumps(metadata | {"data_type": "float32", "fill_value": 0.0}))
    assert sorted(validate_store(path)) == [
        "prompt: prompt/c.0 is missing, with the entries of 2 complete runs",
        "seed/zarr.json: is not what zarr.json says of seed",
        "self/4x4/query_vectors: run '0001' is complete but shard self/4x4/query_vectors/c.1.0.0.0.0.0.0 is missing",
        "self/4x4/query_vectors: run '0001' is complete but shard self/4x4/query_vectors/c.1.0.0.1.0.0.0 is missing",
        "text/4x4/g2r/zarr.json: missing",
        "text/4x4/g2r: run '0000' is complete but shard text/4x4/g2r/c.0.0.0.0.0.0 is missing",
        "text/4x4/g2r: run '0001' is complete but shard text/4x4/g2r/c.1.0.0.0.0.0 is missing",
    ]


def test_a_damaged_root_document_does_not_hide_the_rest(path):
    root = bytearray((path / "zarr.json").read_bytes())
    root[len(root) // 2] ^= 1
    (path / "zarr.json").write_bytes(root)
    (path / "prompt/c.0").unlink()
    first, second = validate_store(path)
    assert first.startswith("zarr.json: ")
    assert second.startswith("prompt: prompt/c.0 is missing")


def test_deep_finds_a_flipped_bit_and_names_array_and_run(path):
    shard = path / "text/4x4/log_attention/c.1.0.0.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 4
    shard.write_bytes(data)
    assert validate_store(path) == []
    (problem,) = validate_store(path, deep=True)
    assert problem.startswith(
        "text/4x4/log_attention: run '0001', shard text/4x4/log_attention/c.1.0.0.0.0.0.0 cannot be read:"
    )


def test_command(path):
    result = CliRunner().invoke(attlas, ["validate", str(path), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.output) == {str(path): []}
    shutil.rmtree(path / "prompt")
    result = CliRunner().invoke(attlas, ["validate", str(path)])
    assert result.exit_code == 1
    assert "2 problems\n  prompt/zarr.json: missing\n  prompt: prompt/c.0 is missing" in result.output

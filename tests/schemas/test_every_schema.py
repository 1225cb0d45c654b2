"""A store of each schema from 2 on stays here and is read for ever."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from stores.write import arrays, summary

from attlas.analysis import maps, open_trace
from attlas.schemas import SCHEMA_VERSION, validate_store

STORES = sorted((Path(__file__).parents[1] / "stores").glob("*.zarr.zip"))


@pytest.fixture(params=STORES, ids=lambda path: path.name.split(".")[0])
def archive(request):
    return request.param


def test_the_present_schema_is_among_them():
    assert f"schema-{SCHEMA_VERSION}.zarr.zip" in {path.name for path in STORES}


def test_what_was_written_is_read(archive, tmp_path):
    with zipfile.ZipFile(archive) as members:
        members.extractall(tmp_path / "s.zarr")
    told = json.loads(archive.with_name(archive.name.replace(".zarr.zip", ".json")).read_text())
    found = arrays(tmp_path / "s.zarr")
    assert found.keys() == told.keys()
    for name, array in found.items():
        one, other = summary(array), told[name]
        assert one.pop("sum", 0) == pytest.approx(other.pop("sum", 0), rel=1e-9, abs=1e-9), name
        assert one == other, name
    assert validate_store(tmp_path / "s.zarr", deep=True) == []


def test_maps_are_made_of_it_in_its_archive(archive):
    trace = open_trace(archive)
    assert trace.run_ids == ("0000", "0001")
    assert np.isfinite(maps.daam(trace, "disc").compute()).all()
    assert np.isfinite(maps.ulam(trace, "r2g").compute()).all()

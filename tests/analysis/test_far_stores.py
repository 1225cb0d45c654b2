"""Maps of a store behind a server: the same numbers, and what was read is not asked for again."""

import numpy as np

from attlas.analysis import maps, open_trace, survey
from attlas.schemas import open_store, simulate_store


def test_what_is_reread_is_kept(s3_url, s3_proxy, tmp_path):
    options = {"kinds": ("text",), "runs": 2, "encoding": {"text": "dense"}}
    simulate_store(f"{s3_url}/s.zarr", **options)
    simulate_store(tmp_path / "s.zarr", **options)
    trace = open_trace(f"{s3_url}/s.zarr")
    first = maps.daam(trace, "disc").compute()
    asked = len(s3_proxy.asked("GET"))
    np.testing.assert_array_equal(maps.daam(trace, "disc").compute(), first)
    assert len(s3_proxy.asked("GET")) == asked
    np.testing.assert_array_equal(maps.daam(open_trace(tmp_path / "s.zarr"), "disc").compute(), first)


def test_what_a_survey_finds_is_kept_beside_the_data(s3_url):
    simulate_store(f"{s3_url}/s.zarr", kinds=("text",), runs=2)
    survey(open_trace(f"{s3_url}/s.zarr"), "coverage", progress=False)
    names = {path.split("/")[0] for path in open_store(f"{s3_url}/s.zarr").snapshot.doc.nodes}
    assert "statistics" in names

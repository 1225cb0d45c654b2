"""The report: self-contained, escaped, complete; its figures mark the right places."""

import json
import re

import numpy as np
import pytest

from attlas.analysis import open_trace, scores
from attlas.dashboards.figures import GREEN, contoured, framed_patch, spread_patches
from attlas.dashboards.page import Figure, Section, Table, write_report
from attlas.dashboards.report import read_scores, report
from attlas.schemas import simulate_store
from attlas.schemas.errors import InvalidValueError


@pytest.fixture(scope="module")
def traces(folder):
    return {"shapes": open_trace(folder / "full.zarr"), "grids": open_trace(folder / "grids.zarr")}


@pytest.fixture(scope="module")
def written(traces, tmp_path_factory):
    tables = scores.score(traces["shapes"])
    given = {"shapes": tables, "shapes-random": [table.to_json() for table in tables]}
    return report(traces, given, tmp_path_factory.mktemp("report") / "r.html", runs=2).read_text()


def test_it_needs_nothing_else(written):
    assert not re.findall(r"""(?:src|href)\s*=\s*(?!["']data:)""", written)
    assert not re.findall(r"https?://|@import|url\(|<script|<link", written)


def test_it_shows_what_was_asked(written):
    text = re.sub(r"<[^>]+>", "\n", written)
    for line in (
        "shapes: word maps",
        "shapes: reference maps",
        "grids: reference maps",
        "shapes: scores",
        "word map of disc",
        "word map of cross",
        "disc by time (TLAM, r2g, layers 4x4)",
        "disc by head (HLAM, r2g, layers 4x4)",
        "disc by layer (LLAM, r2g)",
        "goes to (ULAM, r2g)",
        "sram_pck1",
        "shapes-random",
    ):
        assert line in text, line
    # Two runs: picture and two nouns each; 3 + 2 + 2 strip tiles; reference, picture, ULAM and four pairs each.
    # The other store: no masks and no correspondence, so picture, reference, picture, ULAM.
    assert written.count("data:image/png;base64,") == 2 * 3 + 7 + 2 * (3 + 8) + 4


def test_nouns_stand_in_the_order_of_the_prompt(written):
    assert written.index("word map of disc") < written.index("word map of cross")


def test_scores_of_one_world_stand_side_by_side(written):
    head = re.search(r"<thead>(.*?)</thead>", written).group(1)
    assert re.findall(r">([^<>]+)<", head) == ["score", "shapes", "shapes-random", "n", "meaning"]
    # The simulated store's planted correspondence is found everywhere.
    row = re.search(r"<tr><td[^>]*>sram_pck1</td>(.*?)</tr>", written).group(1)
    assert re.findall(r">([^<>]+)<", row)[:3] == ["1.000 \u00b1 0.000", "1.000 \u00b1 0.000", "3"]


def test_hostile_texts_are_shown_as_text(folder, tmp_path):
    trace = open_trace(folder / "hostile.zarr")
    table = {"title": "<i>", "scores": {"<u>": {"value": None, "n": 0, "ci95": None, "meaning": "<s>"}}}
    html = report({"<b>store": trace}, {"<b>store": [table]}, tmp_path / "r.html").read_text()
    for tag in ("<img src=x", "<b>", "<u>", "<s>", "<i>"):
        assert tag not in html
    assert "a &lt;img src=x onerror=alert(1)&gt; disc" in html


def test_tables_show_three_digits_and_dashes():
    rows = [{"name": "a", "value": 0.123456, "n": 7, "sure": True}, {"name": "b", "value": float("nan")}]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", Table(rows).html()) == ["a", "0.123", "7", "yes", "b", "-", "", ""]
    assert "no rows" in Table([], caption="empty").html()


def test_small_pictures_stay_sharp():
    html = Figure(np.zeros((4, 4, 3), "u1"), "x", width=100).html()
    assert 'width="100"' in html


def test_a_report_of_nothing_or_nowhere_is_refused(tmp_path):
    with pytest.raises(InvalidValueError, match="at least one section"):
        report({}, {}, tmp_path / "r.html")
    with pytest.raises(InvalidValueError, match="nothing does not exist"):
        write_report(tmp_path / "nothing/r.html", Section("a"))
    empty = open_trace(simulate_store(runs=0))
    with pytest.raises(InvalidValueError, match="'none' has no complete run"):
        report({"none": empty}, {}, tmp_path / "r.html")


def test_scores_are_read_from_json(tmp_path):
    table = {"title": "t", "scores": {}}
    (tmp_path / "s.json").write_text(json.dumps({"out/shapes.zarr": [table]}))
    assert read_scores(tmp_path / "s.json") == {"shapes": [table]}
    for text, message in (("[", "cannot be read"), ("[]", "another form"), ('{"a": [1]}', "another form")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InvalidValueError, match=message):
            read_scores(tmp_path / "bad.json")
    with pytest.raises(InvalidValueError, match="cannot be read"):
        read_scores(tmp_path / "none.json")


def test_frames_and_contours_lie_where_they_should():
    blank = np.zeros((32, 64, 3), "u1")
    framed = framed_patch(blank, (1, 3), (2, 4), GREEN).any(-1)
    rows, columns = np.nonzero(framed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 31, 48, 63)
    assert not framed[24, 56]
    mask = np.zeros((4, 8), bool)
    mask[1:3, 2:6] = True
    line = contoured(blank, mask).any(-1)
    assert line[8, 16]
    assert not line[16, 32]
    assert not line[:8].any()
    assert not blank.any()


def test_patches_are_spread_and_known():
    known = np.zeros((9, 9), bool)
    known[2:7, 3:8] = True
    chosen = spread_patches(known, 5)
    assert chosen == [(2, 3), (2, 7), (4, 5), (6, 3), (6, 7)]
    assert spread_patches(np.zeros((3, 3), bool), 4) == []
    assert len(spread_patches(np.eye(3, dtype=bool), 9)) == 3

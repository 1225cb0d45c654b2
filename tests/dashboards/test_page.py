"""The page without a browser: clicks and widgets change the state, messages are shown as text."""

import html
import json
import shutil

import numpy as np
import panel as pn
import pytest
import xarray as xr

from attlas.dashboards.app import Page, page
from attlas.dashboards.data import Catalogue
from attlas.schemas import open_store, simulate_store

pn.extension()


@pytest.fixture
def shown(catalogue):
    """A page on the full store."""
    made = Page(catalogue, "?store=full.zarr")
    yield made
    made.close()


def text(component):
    """What a text component shows, with markup as the characters that a person sees."""
    return html.unescape(component.object.split(">", 1)[1].rsplit("<", 1)[0].replace("<br>", "\n"))


def test_a_click_asks_the_patch_below_it(shown):
    # The picture is 32 pixels wide with a 4x4 grid: (x, y) = (9, 30) lies in row 3, column 1.
    shown.bench.generated.clicked(9.0, 30.0)
    assert shown.state.question.patch == (3, 1)
    assert text(shown.bench.readout).startswith("generated patch (3, 1): brightest reference patch (3, 2), weight 0.")
    shown.bench.reference.clicked(9.0, 30.0)
    assert (shown.state.mode, shown.state.direction) == ("reference", "r2g")
    assert text(shown.bench.readout).startswith("reference patch (3, 1): brightest generated patch (3, 2)")


def test_the_tap_of_the_plot_reaches_the_state(shown):
    shown.bench.generated._tap.event(x=1.0, y=1.0)
    assert shown.state.question.patch == (0, 0)


def test_the_page_can_be_drawn(shown):
    shown.layout().get_root()
    shown.bench.generated.clicked(9.0, 30.0)
    shown.bench.change(store="grids.zarr")


def test_a_click_outside_is_a_notice_and_changes_nothing(shown):
    before = shown.state.question
    shown.bench.generated.clicked(-3.0, 4.0)
    assert text(shown.bench.notice) == (
        "the click at (-3.0, 4.0) is outside the picture; x from 0 to 32 and y from 0 to 32 are accepted"
    )
    assert shown.bench.notice.visible
    assert shown.state.question == before
    shown.bench.generated.clicked(3.0, 4.0)
    assert not shown.bench.notice.visible


def test_words_runs_and_widgets_change_the_state(shown):
    bench = shown.bench
    bench.prompt.line.value = "cross"
    assert shown.state.question.word == "cross"
    assert text(bench.readout).startswith("word 'cross': brightest generated patch (")
    bench.runs.gallery.value = "0002"
    assert shown.state.run == "0002"
    bench.controls.widgets["direction"].value = "r2g"
    assert shown.state.direction == "r2g"
    bench.controls.widgets["threshold"].value = 0.4
    assert shown.state.threshold == 0.4
    bench.generated.clicked(3.0, 4.0)
    bench.controls.widgets["kind"].value = "self"
    assert text(bench.readout).startswith("generated patch (0, 0): brightest generated patch (0, 0)")
    bench.controls.widgets["store"].value = "words.zarr"
    assert shown.state.mode == "word"
    assert not bench.reference.pane.visible


def test_widgets_offer_what_the_state_accepts(shown):
    widgets = shown.bench.controls.widgets
    assert widgets["store"].options == ["full.zarr", "grids.zarr", "hostile.zarr", "summary.zarr", "words.zarr"]
    assert widgets["kind"].options == {"reference": "image", "itself": "self"}
    assert not shown.bench.controls.groups["grid"].visible
    shown.bench.change(store="grids.zarr")
    assert widgets["grid"].options == ["4x4", "2x2", "all"]
    assert shown.bench.controls.groups["grid"].visible
    shown.bench.change(store="full.zarr", word="disc")
    assert widgets["branch"].options == ["cond"]


def test_a_change_that_is_refused_brings_the_widget_back(shown, monkeypatch):
    monkeypatch.setattr(shown.catalogue, "_paths", {**shown.catalogue._paths, "gone.zarr": "/nowhere/gone.zarr"})
    shown.bench.controls.widgets["store"].options = [*shown.catalogue.stores]
    shown.bench.controls.widgets["store"].value = "gone.zarr"
    assert "store 'gone.zarr' cannot be shown" in text(shown.bench.notice)
    assert shown.bench.controls.widgets["store"].value == "full.zarr"
    assert shown.state.store == "full.zarr"


def test_strips_follow_the_question(shown):
    shown.bench.generated.clicked(9.0, 30.0)
    strips = shown.bench.strips
    assert all(strip.pane.visible for strip in strips.values())
    labels = {dim: strip._stream.contents["data"].Labels.I.data["Label"].tolist() for dim, strip in strips.items()}
    assert labels == {"t": ["t 0", "t 1", "t 2"], "head": ["head 0", "head 1"], "layer": ["layer 0", "layer 1"]}


def test_what_a_summary_cannot_tell_is_said_in_its_place(shown):
    shown.bench.change(store="summary.zarr")
    assert not shown.bench.strips["t"].pane.visible
    assert 'record with Capture(detail="full")' in text(shown.bench.strips["t"].note)
    assert shown.bench.strips["layer"].pane.visible
    assert [button.disabled for button in shown.bench.downloads.buttons] == [False, True, False]
    shown.bench.reference.clicked(3.0, 3.0)
    assert 'record with Capture(detail="full")' in text(shown.bench.notice)
    assert all(button.disabled for button in shown.bench.downloads.buttons)


def test_a_prompt_of_markup_is_text(catalogue):
    made = Page(catalogue, "?store=hostile.zarr&word=img")
    items = made.bench.prompt.line.items
    assert "".join(item["text"] for item in items) == "a <img src=x onerror=alert(1)> disc & <b>cross</b>"
    assert [item["id"] for item in items if item["id"]] == [
        "a",
        "img",
        "src",
        "x",
        "onerror",
        "alert",
        "1",
        "disc",
        "b",
        "cross",
        "b",
    ]
    assert made.bench.prompt.line.value == "img"
    made.bench.show_code.value = True
    assert "<img" not in made.bench.code.object
    made.bench.tell("<script>alert(1)</script>")
    assert made.bench.notice.object == '<div class="attlas-notice">&lt;script&gt;alert(1)&lt;/script&gt;</div>'


def test_a_bad_address_is_one_clear_message(catalogue):
    made = Page(catalogue, "?store=full.zarr&run=99&word=dsc&direction=up")
    assert text(made.bench.notice).splitlines() == [
        "unknown run '99'; accepted: '0000', '0001', '0002'",
        "unknown direction 'up'; accepted: 'g2r', 'r2g'",
        "unknown word 'dsc'; did you mean 'disc'? accepted: 'a', 'red', 'disc', 'and', 'blue', 'cross'",
    ]
    assert made.state.run == "0000"
    unknown = Page(catalogue, "?store=nothing.zarr")
    assert "unknown store 'nothing.zarr'" in text(unknown.bench.notice)
    assert text(unknown.bench.notice).count("\n") == 0


def test_the_address_holds_the_state_and_going_back_brings_it_back(shown):
    shown.bench.generated.clicked(9.0, 30.0)
    first = shown.bar.search
    assert "row=3&column=1" in first
    assert shown.bar.step
    shown.bench.change(word="disc")
    assert "word=disc" in shown.bar.search
    assert "row=" not in shown.bar.search
    shown.bench.change(opacity=0.5)
    assert not shown.bar.step
    shown.bar.visited = first
    assert shown.state.question.patch == (3, 1)
    assert shown.bar.search == first


def test_a_broken_store_among_several_is_said_and_the_others_work(folder, tmp_path):
    shutil.copytree(folder / "full.zarr", tmp_path / "b.zarr")
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr/zarr.json").write_text('{"zarr_format": 3, ')
    shutil.copytree(folder / "full.zarr", tmp_path / "aa.zarr")
    root = (tmp_path / "aa.zarr/zarr.json").read_text()
    (tmp_path / "aa.zarr/zarr.json").write_text(root.replace('"shape": [', '"shape": [1', 1))
    shutil.copytree(folder / "full.zarr", tmp_path / "newer.zarr")
    root = json.loads((tmp_path / "newer.zarr/zarr.json").read_text())
    root["attributes"]["attlas"]["schema"] = 9
    (tmp_path / "newer.zarr/zarr.json").write_text(json.dumps(root))
    made = Page(Catalogue([tmp_path]))
    assert made.state.store == "b.zarr"
    shown = text(made.bench.notice)
    assert f"{tmp_path}/a.zarr: zarr.json: it is no JSON" in shown
    assert "store 'aa.zarr' cannot be shown" in shown
    made.bench.change(store="newer.zarr")
    assert "schema 9" in text(made.bench.notice)
    made.bench.generated.clicked(9.0, 30.0)
    assert "brightest reference patch (3, 2)" in text(made.bench.readout)


def test_damage_is_named_and_the_other_runs_work(folder, tmp_path):
    shutil.copytree(folder / "full.zarr", tmp_path / "s.zarr")
    for name in ("attention_mean", "query_vectors"):
        for shard in (tmp_path / f"s.zarr/image/4x4/{name}").glob("c.1.*"):
            body = bytearray(shard.read_bytes())
            # The second half of a shard is the conditional branch's.
            body[len(body) * 3 // 4] ^= 0xFF
            shard.write_bytes(body)
    made = Page(Catalogue([tmp_path]))
    made.bench.change(run="0001")
    assert "run '0001'" in text(made.bench.notice)
    assert "cannot be read" in text(made.bench.notice)
    made.bench.change(run="0002")
    assert "brightest reference patch" in text(made.bench.readout)
    assert not made.bench.notice.visible


def test_a_picture_that_cannot_be_read_is_named_and_the_maps_are_shown(folder, tmp_path):
    shutil.copytree(folder / "full.zarr", tmp_path / "s.zarr")
    next((tmp_path / "s.zarr/generated_image").glob("c.1.*")).unlink()
    made = Page(Catalogue([tmp_path]))
    made.bench.change(run="0001")
    assert "generated_image of run '0001'" in text(made.bench.notice)
    assert "brightest reference patch" in text(made.bench.readout)
    made.bench.change(run="0002")
    assert not made.bench.notice.visible


def test_no_store_at_all_is_a_message(tmp_path):
    made = Page(Catalogue([tmp_path / "nothing"]))
    assert text(made.notice) == f"{tmp_path}/nothing: nothing is there\nno store can be shown"
    made.layout().get_root()
    made.close()


def test_many_runs_come_by_the_page(tmp_path):
    simulate_store(tmp_path / "many.zarr", runs=26, kinds=("image",), layers=1, heads=1, calls=1, grid=(2, 2))
    made = Page(Catalogue([tmp_path]), "?run=0013")
    shelf = made.bench.runs
    assert [item["id"] for item in shelf.gallery.items] == [f"{run:04d}" for run in range(12, 24)]
    assert shelf.gallery.items[0]["source"].startswith("data:image/png;base64,")
    assert text(shelf.count) == "13 to 24 of 26"
    shelf.forth.clicks += 1
    assert [item["id"] for item in shelf.gallery.items] == [f"{run:04d}" for run in range(24, 26)]
    assert shelf.forth.disabled
    assert made.state.run == "0013"


def test_files_hold_what_is_shown(shown, tmp_path):
    shown.bench.generated.clicked(9.0, 30.0)
    png, gif, netcdf = shown.bench.downloads.buttons
    data = netcdf.callback().read()
    assert netcdf.filename == "0000-patch-3-1-g2r.nc"
    (tmp_path / "map.nc").write_bytes(data)
    with xr.open_dataarray(tmp_path / "map.nc", engine="scipy") as stored:
        answer = shown.catalogue.answer(shown.state.question, shown.state.patch_grid).attention
        np.testing.assert_array_equal(stored.transpose(*answer.dims), answer)
        assert stored.attrs["direction"] == "g2r"
    assert png.callback().read()[:8] == b"\x89PNG\r\n\x1a\n"
    assert gif.callback().read()[:6] == b"GIF89a"


def test_each_visit_has_a_state_of_its_own(folder):
    visit = page([folder])
    first, second = visit(), visit()
    assert first is not second


def test_looking_writes_nothing(folder, catalogue):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    made = Page(catalogue, "?store=full.zarr&word=disc")
    made.bench.reference.clicked(9.0, 30.0)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    assert open_store(folder / "full.zarr").complete.all()

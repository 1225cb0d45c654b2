"""Plot functions: coordinates, ranges, what is transparent, what is refused."""

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from attlas.dashboards import plots
from attlas.dashboards.colours import COLOUR_MAPS, blend, colour_table, relative, transparency
from attlas.dashboards.tiles import Tiles
from attlas.schemas.errors import InvalidValueError, UnknownNameError


@pytest.fixture
def image():
    return xr.DataArray(np.arange(8 * 12 * 3, dtype="u1").reshape(8, 12, 3), dims=("image_y", "image_x", "rgb"))


@pytest.fixture
def attention():
    values = np.zeros((4, 6))
    values[0, 5] = 1.0  # top right
    values[3, 0] = 0.25  # bottom left
    return xr.DataArray(values, dims=("key_y", "key_x"))


def at(element, x, y):
    """Values of an image element at a place, as HoloViews itself looks them up."""
    found = element[x, y]
    return tuple(float(found.dimension_values(dim)[0]) for dim in ("relative", "value"))


def test_a_picture_has_pixels_as_coordinates_and_its_own_shape_on_screen(image):
    element = plots.picture(image, size=300)
    assert [str(dim) for dim in element.kdims] == ["x", "y"]
    assert (element.range("x"), element.range("y")) == ((0, 12), (0, 8))
    figure = hv.render(element)
    assert (figure.frame_width, figure.frame_height) == (300, 200)
    # y runs down: the picture's first row is at the top.
    assert (figure.y_range.start, figure.y_range.end) == (8, 0)
    assert figure.toolbar_location is None
    assert not figure.xaxis.visible
    assert not figure.yaxis.visible


def test_rows_lie_from_the_top(image, attention):
    # In pixels of the picture, y down: row 0 lies at small y.
    picture = plots.picture(image)
    assert picture.dimension_values("R", flat=False).shape == (8, 12)
    top_left = picture.select(x=(0, 1), y=(0, 1))
    assert [top_left.dimension_values(c)[0] for c in "RGB"] == image.values[0, 0].tolist()
    heat = plots.heat(attention, extent=(8, 12))
    assert at(heat, 11.5, 0.5) == (1.0, 1.0)
    assert at(heat, 0.5, 7.5) == (0.25, 0.25)


def test_a_map_of_any_grid_covers_its_picture(attention):
    element = plots.heat(attention, extent=(64, 96))
    assert (element.range("x"), element.range("y")) == ((0, 96), (0, 64))
    assert [str(dim) for dim in element.vdims] == ["relative", "value"]
    assert element.vdims[0].range == (0, 1)


def test_the_threshold_makes_transparent(attention):
    shown = plots.heat(attention, threshold=0.5).dimension_values("relative")
    assert np.isfinite(shown).sum() == 1
    assert np.isfinite(plots.heat(attention).dimension_values("relative")).all()


def test_a_map_that_is_nan_everywhere_is_drawn_without_a_warning(attention):
    hv.render(plots.heat(attention * np.nan))
    hv.render(plots.heat(xr.zeros_like(attention), threshold=0.5))


def test_an_overlay_holds_picture_map_and_frame(image, attention):
    element = plots.overlay(image, attention, patch=(3, 5), colours="viridis", opacity=0.5)
    boxes = element.Rectangles.I.data
    assert boxes.to_numpy().tolist() == [[10.0, 6.0, 12.0, 8.0]]
    figure = hv.render(element)
    assert (figure.x_range.start, figure.x_range.end) == (0, 12)


@pytest.mark.parametrize("patch", [(-1, 0), (4, 0), (0, 6)])
def test_a_frame_outside_the_grid_is_refused(patch):
    with pytest.raises(InvalidValueError, match="outside the 4x6 grid; rows 0 to 3 and columns 0 to 5 are accepted"):
        plots.outline(patch, (4, 6), (8, 12))


@given(
    grid=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    extent=st.tuples(st.integers(1, 999), st.integers(1, 999)),
    data=st.data(),
)
def test_a_click_inside_a_patch_is_that_patch(grid, extent, data):
    row = data.draw(st.integers(0, grid[0] - 1))
    column = data.draw(st.integers(0, grid[1] - 1))
    left, top, right, bottom = plots.patch_box((row, column), grid, extent)
    assert plots.patch_at((left + right) / 2, (top + bottom) / 2, extent, grid) == (row, column)


@pytest.mark.parametrize(("x", "y"), [(-0.1, 3), (12.1, 3), (3, -0.1), (3, 8.1)])
def test_a_click_outside_names_the_accepted_range(x, y):
    with pytest.raises(InvalidValueError, match="x from 0 to 12 and y from 0 to 8 are accepted"):
        plots.patch_at(x, y, (8, 12), (4, 6))


def test_the_brightest_passes_nan_over(attention):
    assert plots.brightest(attention) == (0, 5, 1.0)
    assert plots.brightest(attention.where(attention < 1)) == (3, 0, 0.25)
    with pytest.raises(InvalidValueError, match="no finite value"):
        plots.brightest(attention * np.nan)


def test_a_strip_is_one_plot_with_a_label_for_each_tile(image, attention):
    maps = xr.concat([attention, 2 * attention, 3 * attention], "head").assign_coords(head=[4, 5, 6])
    element = plots.strip(maps.transpose("key_y", "head", "key_x"), "head", image=image, columns=2, tile=60)
    assert element.Labels.I.data["Label"].tolist() == ["4", "5", "6"]
    tiles = plots.tile_layout(3, (8, 12), columns=2, tile=60)
    assert (tiles.height, tiles.width) == (40, 60)
    figure = hv.render(element)
    assert (figure.frame_height, figure.frame_width) == tiles.extent


def test_tiles_of_one_range_differ_and_tiles_of_their_own_do_not(attention):
    maps = xr.concat([attention, attention / 4], "t")
    own, shared = (plots.strip(maps, "t", columns=1, tile=60, shared=flag).RGB.I for flag in (False, True))
    tiles = plots.tile_layout(2, (4, 6), columns=1, tile=60)
    corners = []
    for element in (own, shared):
        pixels = np.stack([element.dimension_values(c, flat=False) for c in "RGB"], -1)
        corners.append([pixels[tiles.origin(i)[0], tiles.width - 1].tolist() for i in (0, 1)])
    assert corners[0][0] == corners[0][1]
    assert corners[1][0] != corners[1][1]


@given(count=st.integers(1, 40), columns=st.integers(1, 12), height=st.integers(1, 90), width=st.integers(1, 90))
def test_each_tile_is_found_where_it_lies_and_none_leaves_the_strip(count, columns, height, width):
    tiles = Tiles(count, columns, height, width)
    for index in range(count):
        left, top, right, bottom = tiles.box(index)
        assert tiles.at((left + right) / 2, (top + bottom) / 2) == index
        assert 0 <= left < right <= tiles.extent[1]
        assert 0 <= top < bottom <= tiles.extent[0]


def test_wrong_dims_are_refused_by_name(image, attention):
    with pytest.raises(InvalidValueError, match="map has dims key_y; rows and columns"):
        plots.heat(attention.isel(key_x=0))
    with pytest.raises(InvalidValueError, match=r"\(rows, columns, 3\) is needed"):
        plots.picture(image[..., :2])
    with pytest.raises(InvalidValueError, match="maps have dims key_y, key_x; head, rows and columns"):
        plots.strip(attention, "head")


@pytest.mark.parametrize("name", COLOUR_MAPS)
def test_colour_maps_end_bright(name):
    table = colour_table(name).astype(int)
    assert table.shape == (256, 3)
    assert len(np.unique(table, axis=0)) > 200


def test_unknown_colours_name_the_close_one():
    with pytest.raises(UnknownNameError, match="did you mean 'inferno'"):
        colour_table("infern")


def test_the_screens_rule_and_the_exports_rule_are_one(attention):
    # By hand: relative 0.25 at opacity 0.5 weighs 0.5 * 0.25 ** 0.6 = 0.2176 of the colour.
    fraction = relative(attention.values)
    below = np.full((4, 6, 3), 200, "u1")
    mixed = blend(below, fraction, colours="magma", opacity=0.5)
    weight = 0.5 * 0.25**0.6
    assert mixed[3, 0].tolist() == np.rint(200 * (1 - weight) + colour_table("magma")[63] * weight).tolist()
    assert mixed[1, 1].tolist() == [200, 200, 200]
    palette = plots.heat(attention, colours="magma", opacity=0.5).opts.get().kwargs["cmap"]
    assert palette[63] == "#{:02x}{:02x}{:02x}{:02x}".format(
        *colour_table("magma")[63], round(255 * float(transparency(np.array(63 / 255), 0.5)))
    )


@pytest.mark.parametrize("name", ["opacity", "threshold"])
def test_fractions_out_of_range_are_refused(attention, name):
    with pytest.raises(InvalidValueError, match=f"{name} is 1.5; a number from 0 to 1"):
        plots.heat(attention, **{name: 1.5})

"""Pictures: what is painted where, and colours that can be told apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwright.data import pictures
from maskwright.data.labels import Box, Point, Scribble
from maskwright.data.pictures import draw_labels, overlay, palette, side_by_side, thumbnail, thumbnail_mask

GREY = np.full((20, 30, 3), 100, np.uint8)


def test_palette_is_black_first_distinct_and_independent_of_the_count():
    colours = palette(255)
    assert colours.shape == (255, 3)
    assert colours.dtype == np.uint8
    assert colours[0].tolist() == [0, 0, 0]
    assert len(np.unique(colours, axis=0)) == 255
    np.testing.assert_array_equal(palette(5), colours[:5])
    with pytest.raises(ValueError, match="1 to 255"):
        palette(256)


def test_palette_can_be_told_apart_with_any_colour_vision():
    places = pictures._oklab(palette(12).astype(float))
    distances = np.linalg.norm(places[:, :, None] - places[:, None], axis=-1)
    distances += np.eye(12)
    # 0.02 is about a just noticeable difference in Oklab.
    assert distances.min() > 0.06


def test_oklab_against_published_values():
    # Ottosson's table for XYZ gives white (1, 0, 0); sRGB red is (0.628, 0.225, 0.126).
    white, red = pictures._oklab(np.array([[255.0, 255, 255], [255, 0, 0]]))[0]
    np.testing.assert_allclose(white, [1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(red, [0.628, 0.225, 0.126], atol=1e-3)


def test_overlay_blends_fills_outlines_and_leaves_the_background():
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:15], mask[0:3, 20:30] = 1, 255
    colours = np.array([[0, 0, 0], [200, 0, 100]], np.uint8)
    drawn = overlay(GREY, mask, colours, alpha=0.5)
    np.testing.assert_array_equal(drawn[mask == 0], 100)
    assert drawn[10, 10].tolist() == [150, 50, 100]
    assert drawn[5, 10].tolist() == [200, 0, 100]  # the border in full colour
    assert drawn[1, 25].tolist() == [114, 114, 114]  # ignored: grey, and no border
    assert (overlay(GREY, mask, colours, alpha=0.5, outline=False)[5:15, 5:15] == drawn[10, 10]).all()
    np.testing.assert_array_equal(GREY, 100)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.booleans())
def test_overlay_keeps_size_and_background_for_any_shape(height, width, alpha, outline):
    generator = np.random.default_rng(height * 41 + width)
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = generator.choice(np.array([0, 1, 2, 255], np.uint8), (height, width))
    drawn = overlay(image, mask, palette(3), alpha, outline)
    assert drawn.shape == image.shape
    np.testing.assert_array_equal(drawn[mask == 0], image[mask == 0])


def test_overlay_refuses_other_sizes_and_unknown_ids():
    with pytest.raises(ValueError, match="differ in size"):
        overlay(GREY, np.zeros((20, 29), np.uint8), palette(2))
    with pytest.raises(ValueError, match="2 colours"):
        overlay(GREY, np.full((20, 30), 2, np.uint8), palette(2))


def test_labels_are_drawn_where_they_are():
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
    drawn = draw_labels(
        np.full((40, 40, 3), 100, np.uint8),
        boxes=[Box(2, 3, 10, 12, 1)],
        points=[Point(20.5, 20.5, 2), Point(39.5, 0.5, 0)],
        scribbles=[Scribble(((25.5, 30.5), (35.5, 30.5)), 2)],
        palette=colours,
    )
    red = (drawn == colours[1]).all(-1)
    rows, columns = np.nonzero(red)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 11, 2, 9)
    assert not red[5:10, 5:8].any()
    assert drawn[20, 20].tolist() == [0, 255, 0]
    assert drawn[0, 39].tolist() == [0, 0, 0]
    assert drawn[30, 30].tolist() == [0, 255, 0]


def test_bare_coordinates_are_drawn_as_labels_of_category_1():
    image = np.full((40, 40, 3), 100, np.uint8)
    bare = draw_labels(
        image,
        boxes=[(2, 3, 10, 12)],
        points=[np.array([20.5, 20.5])],
        scribbles=[np.array([[25.5, 30.5], [35.5, 30.5]])],
    )
    labels = draw_labels(
        image,
        boxes=[Box(2, 3, 10, 12, 1)],
        points=[Point(20.5, 20.5, 1)],
        scribbles=[Scribble(((25.5, 30.5), (35.5, 30.5)), 1)],
    )
    np.testing.assert_array_equal(bare, labels)
    assert (bare != image).any()


def test_a_scribble_of_one_point_and_a_mask_are_drawn_too():
    mask = np.zeros((20, 30), np.uint8)
    mask[:5] = 1
    drawn = draw_labels(GREY, mask=mask, scribbles=[Scribble(((10.5, 15.5),), 1)])
    assert (drawn[2] != 100).any()
    assert (drawn[14:17, 9:12] != 100).any()


def test_side_by_side_and_thumbnails():
    row = side_by_side([GREY, np.zeros((40, 10, 3), np.uint8)], gap=3)
    assert row.shape == (40, 60 + 3 + 10, 3)
    assert (row[:, 60:63] == 255).all()
    assert (row[:, 63:] == 0).all()
    assert thumbnail(GREY, 15).shape == (10, 15, 3)
    assert thumbnail(GREY, 30) is GREY
    assert thumbnail(np.zeros((3, 2000, 3), np.uint8), 100).shape == (1, 100, 3)
    assert set(np.unique(thumbnail_mask(np.tile(np.array([[0, 7]], np.uint8), (10, 10)), (5, 5)))) <= {0, 7}
    with pytest.raises(ValueError, match="no images"):
        side_by_side([])

"""The run-length code against pycocotools, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as reference

from maskwright.data.formats import rle

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(mask=arrays(np.uint8, SIZES, elements=st.integers(0, 1)))
@settings(max_examples=100, deadline=None)
def test_codes_equal_those_of_pycocotools(mask: np.ndarray) -> None:
    counts = rle.encode(mask)
    text = rle.compress(counts)
    assert text.encode() == reference.encode(np.asfortranarray(mask))["counts"]
    assert rle.decompress(text) == counts
    np.testing.assert_array_equal(rle.decode(counts, mask.shape), mask)


def test_a_code_worked_by_hand() -> None:
    mask = np.array([[0, 1], [0, 1], [1, 0]])
    assert rle.encode(mask) == [2, 3, 1]
    assert rle.encode(np.ones((2, 2))) == [0, 4]
    assert rle.decode([1, 2, 3, 0], (3, 2)).T.ravel().tolist() == [False, True, True, False, False, False]


@given(data=st.data(), size=SIZES, half=st.booleans())
@settings(max_examples=150, deadline=None)
def test_polygons_are_drawn_as_pycocotools_draws_them(data, size: tuple[int, int], half: bool) -> None:
    number = st.integers(-20, 120).map(lambda v: v / 2) if half else st.floats(-15, 60, width=32)
    vertices = data.draw(st.lists(number, min_size=6, max_size=16).filter(lambda v: len(v) % 2 == 0))
    expected = reference.decode(reference.frPyObjects([vertices], *size))[:, :, 0]
    np.testing.assert_array_equal(rle.polygon(vertices, size), expected)


def test_a_large_polygon_with_many_vertices() -> None:
    angle = np.linspace(0, 2 * np.pi, 400)
    radius = 150 + 40 * np.sin(9 * angle)
    vertices = np.stack([200 + radius * np.cos(angle), 180 + radius * np.sin(angle)], 1).ravel().tolist()
    expected = reference.decode(reference.frPyObjects([vertices], 360, 400))[:, :, 0]
    assert expected.sum() > 50_000
    np.testing.assert_array_equal(rle.polygon(vertices, (360, 400)), expected)


@pytest.mark.parametrize("vertices", [[0, 0, 1, 1], [0, 0, 1, 1, 2, 2, 3], [0, 0, 1, 1, float("nan"), 2], [1e9] * 6])
def test_polygons_that_are_none_are_refused(vertices: list[float]) -> None:
    with pytest.raises(ValueError, match="vertices"):
        rle.polygon(vertices, (4, 4))


def test_damaged_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="sum up to 2 x 3"):
        rle.decode([1, 2], (2, 3))
    with pytest.raises(ValueError, match="sum up"):
        rle.decode([-1, 7], (2, 3))
    with pytest.raises(ValueError, match="not part of"):
        rle.decompress("\n")
    with pytest.raises(ValueError, match="cut short"):
        rle.decompress("P")

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


def test_runs_whose_sum_wraps_or_that_are_no_whole_numbers_are_refused_before_memory_is_taken() -> None:
    for counts in (
        [2**63 - 1, 2**63 - 1, 770],
        [0, 10**30],
        [1.5, 4.5],
        [True, 5],
        ["3", 3],
        [None, 6],
        [0] * 99 + [6],
    ):
        with pytest.raises(ValueError, match="run lengths must be"):
            rle.decode(counts, (2, 3))
    with pytest.raises(ValueError, match="larger than any mask"):
        rle.decompress("o" * 100_000 + "0")


@given(counts=st.lists(st.integers(0, 2**31), max_size=12))
@settings(deadline=None)
def test_decompression_undoes_compression_for_any_counts(counts: list[int]) -> None:
    assert rle.decompress(rle.compress(counts)) == counts


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_an_outline_traced_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    vertices = np.random.default_rng(piece).uniform(-20, 70, 40).tolist()
    whole = rle.polygon(vertices, (50, 60))
    monkeypatch.setattr(rle, "_PIECE", piece)
    np.testing.assert_array_equal(rle.polygon(vertices, (50, 60)), whole)


def test_outlines_that_no_image_has_are_refused_at_once() -> None:
    zigzag = [v for i in range(4000) for v in ((-1) ** i * 9000.0, float(i))]
    with pytest.raises(ValueError, match="longer than any"):
        rle.polygon(zigzag, (4000, 4000))
    far = [v for i in range(6) for v in (1048000.0 * (-1) ** i, float(i))]
    with pytest.raises(ValueError, match="near the image"):
        rle.polygon(far, (24, 32))


def test_parts_take_the_memory_of_what_they_fill() -> None:
    size = (4000, 5000)
    part = rle.polygon_part([10, 20, 30, 20, 30, 44, 10, 44], size)
    assert (part.top, part.left, part.mask.shape, part.area) == (20, 10, (24, 20), 480)
    both = rle.Part.union(
        [part, rle.polygon_part([40, 20, 50, 20, 50, 30], size), rle.Part(0, 0, np.zeros((0, 0), bool))]
    )
    assert (both.top, both.left, both.mask.shape) == (20, 10, (24, 40))
    column = rle.decode_part([8001, 5, 4000 * 5000 - 8006], size)
    assert (column.left, column.mask.shape, column.area) == (2, (4000, 1), 5)

"""Objects that touch are parted, and no pixel is lost or gained."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwright.methods.find.objects import objects_of, separate


def discs(centres: list[tuple[int, int]], radius: int, side: int = 96) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return np.any([(y - cy) ** 2 + (x - cx) ** 2 <= radius**2 for cy, cx in centres], axis=0)


def test_two_discs_that_touch_are_two() -> None:
    ids = separate(discs([(40, 30), (40, 48)], 10), 20)
    assert set(np.unique(ids)) == {0, 1, 2}
    assert ids[40, 30] != ids[40, 48]
    areas = np.bincount(ids.ravel())[1:]
    assert areas.min() > 0.8 * areas.max()


def test_one_large_disc_stays_whole() -> None:
    assert separate(discs([(48, 48)], 30), 60).max() == 1


def test_specks_are_no_objects() -> None:
    mask = discs([(48, 48)], 12)
    mask[5, 5] = True
    ids = separate(mask, 24)
    assert ids.max() == 1
    assert ids[5, 5] == 0


@given(st.lists(st.tuples(st.integers(5, 90), st.integers(5, 90)), min_size=1, max_size=12), st.integers(3, 14))
@settings(max_examples=40)
def test_ids_are_consecutive_and_within_the_mask(centres: list[tuple[int, int]], radius: int) -> None:
    mask = discs(centres, radius)
    ids = separate(mask, 2 * radius)
    assert not ids[~mask].any()
    assert np.array_equal(np.unique(ids[ids > 0]), np.arange(1, ids.max() + 1))
    assert ids.max() <= len(centres) * 3


def test_objects_of_a_large_mask_cover_it() -> None:
    mask = np.kron(discs([(20, 20), (20, 34), (70, 70)], 8), np.ones((3, 5), bool)).astype(np.uint8) * 2
    found = objects_of(mask, 96, {2: 16.0}, {2: 0.7})
    assert [one.category for one in found] == [2, 2, 2]
    assert {one.score for one in found} == {0.7}
    drawn = np.zeros(mask.shape, int)
    for one in found:
        x0, y0, x1, y1 = one.box
        drawn[y0:y1, x0:x1] += one.mask
    assert np.array_equal(drawn, mask // 2)


def test_an_empty_mask_has_none() -> None:
    assert separate(np.zeros((8, 8), bool), 4).max() == 0
    assert objects_of(np.zeros((8, 8), np.uint8), 8, {}, {}) == []

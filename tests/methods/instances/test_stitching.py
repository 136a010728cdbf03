"""Objects seen in overlapping tiles: each once, and whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwright.methods.instances.coco import Detection, cut
from maskwright.methods.instances.detections import tiles
from maskwright.methods.instances.stitching import Sighting, stitched, touching


def sightings(
    truth: list[Detection], size: tuple[int, int], side: int, scores: dict[int, float] | None = None
) -> list[Sighting]:
    """What tiles of ``side`` pixels show of these objects; ``scores`` by tile, else .9."""
    found = []
    for number, (x, y) in enumerate(tiles(size, side)):
        x0, y0 = int(x), int(y)
        tile = (x0, y0, min(x0 + side, size[0]), min(y0 + side, size[1]))
        for one in truth:
            whole = np.zeros((size[1], size[0]), bool)
            whole[one.top : one.box[3], one.left : one.box[2]] = one.mask
            seen = cut(whole[tile[1] : tile[3], x0 : tile[2]], one.category, (scores or {}).get(number, 0.9), x0, y0)
            if seen is not None:
                box = np.array([seen.box], float)
                is_cut = touching(box, np.array([x, y, x + side, y + side]), np.array(size), 1.0)
                found.append(Sighting(seen, tile, bool(is_cut[0])))
    return found


def ellipse(x: int, y: int, width: int, height: int, category: int = 1) -> Detection:
    row, column = np.mgrid[:height, :width] + 0.5
    mask = ((column / width - 0.5) ** 2 + (row / height - 0.5) ** 2) <= 0.25
    found = cut(mask, category, 1.0, x, y)
    assert found is not None
    return found


def same(found: list[Detection], truth: list[Detection]) -> None:
    key = lambda one: (one.category, *one.box)  # noqa: E731
    for one, other in zip(sorted(found, key=key), sorted(truth, key=key), strict=True):
        assert key(one) == key(other)
        assert np.array_equal(one.mask, other.mask)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 140), st.integers(0, 100), st.integers(8, 150), st.integers(8, 120))
def test_an_object_of_any_size_comes_back_once_and_whole(x: int, y: int, width: int, height: int):
    truth = [ellipse(min(x, 200 - width), min(y, 150 - height), width, height)]
    same(stitched(sightings(truth, (200, 150), 64)), truth)


def test_neighbours_and_other_categories_stay_apart():
    truth = [ellipse(20, 30, 44, 44), ellipse(64, 30, 44, 44), ellipse(108, 30, 44, 44, 2), ellipse(20, 30, 44, 44, 2)]
    same(stitched(sightings(truth, (200, 120), 64)), truth)


def test_the_whole_is_taken_from_where_it_is_seen_and_the_score_from_the_surest():
    truth = [ellipse(26, 10, 20, 20)]
    # The second tile alone shows it whole.
    parts = sightings(truth, (96, 64), 44, {0: 0.8, 1: 0.3, 2: 0.6})
    assert [one.is_cut for one in parts].count(False) >= 1
    (found,) = stitched(parts)
    same([found], truth)
    assert found.score == max(one.detection.score for one in parts)


def test_two_of_one_tile_are_two():
    tile = (0, 0, 64, 64)
    one, other = ellipse(10, 10, 20, 20), ellipse(12, 10, 20, 20)
    assert len(stitched([Sighting(one, tile, False), Sighting(other, tile, False)])) == 2


def test_nothing_seen():
    assert stitched([]) == []

"""Objects from maps: against flooding with a queue, pixel by pixel, and on pictures whose objects are known."""

from __future__ import annotations

import heapq
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from maskwright.methods.instances.depth import depths
from maskwright.methods.instances.grouping import group, scores_of


def flooded(inside: NDArray[np.bool_], depth: NDArray[np.float64], seed: float) -> NDArray[np.int64]:
    """Flooding with a queue: the highest pixel beside an object is next, and joins the object over its highest side."""
    ids, count = ndimage.label(inside & (depth > seed), np.ones((3, 3)))
    ids = ids.astype(np.int64)
    queue: list[tuple[float, float, int, int, int]] = []

    def push(y: int, x: int) -> None:
        for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= ny < ids.shape[0] and 0 <= nx < ids.shape[1] and inside[ny, nx] and not ids[ny, nx]:
                low, high = sorted((depth[y, x], depth[ny, nx]))
                heapq.heappush(queue, (-low, -high, ny, nx, int(ids[y, x])))

    for y, x in np.argwhere(ids):
        push(int(y), int(x))
    while queue:
        _, _, y, x, number = heapq.heappop(queue)
        if not ids[y, x]:
            ids[y, x] = number
            push(y, x)
    parts, _ = ndimage.label(inside & (ids == 0))
    return np.where(parts > 0, parts + count, ids)


def same_parts(one: NDArray[np.integer], two: NDArray[np.integer]) -> bool:
    """Equal but for the numbers."""
    pairs = np.unique(np.stack([one.reshape(-1), two.reshape(-1)]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 14), width=st.integers(1, 14), smooth=st.floats(0, 2))
def test_growth_is_flooding(seed: int, height: int, width: int, smooth: float):
    rng = np.random.default_rng(seed)
    # All heights differ, so that there is one answer.
    rank = ndimage.gaussian_filter(rng.random((height, width)), smooth).reshape(-1).argsort().argsort()
    depth = (rank.reshape(height, width) + 1) / 256
    depth *= 1 / depth.max()
    inside = rng.random((height, width)) < rng.uniform(0.4, 1)
    found = group(inside[None].astype(float), depth, seed=0.7).ids
    assert same_parts(found, flooded(inside, depth, 0.7))
    assert (found > 0).tolist() == inside.tolist()


def discs(*places: tuple[int, int, int], side: int = 64) -> NDArray[np.int64]:
    """Discs (x, y, radius); later ones in front."""
    y, x = np.mgrid[:side, :side] + 0.5
    ids = np.zeros((side, side), np.int64)
    for number, (cx, cy, radius) in enumerate(places, start=1):
        ids[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = number
    return ids


@pytest.mark.parametrize(
    "ids",
    [
        discs((16, 16, 10), (36, 16, 10), (30, 44, 12), (8, 50, 3)),  # two of them touch
        discs((32, 32, 28), (32, 32, 12)),  # one in another
        discs((0, 0, 20), (63, 30, 9)),  # cut by the border
        np.zeros((64, 64), np.int64),
        np.ones((64, 64), np.int64),
    ],
    ids=["touching", "nested", "cut", "none", "all"],
)
def test_maps_of_the_truth_give_the_truth(ids: NDArray[np.int64]):
    found = group((ids > 0)[None].astype(float), depths(ids))
    assert same_parts(found.ids, ids)
    assert found.scores.tolist() == pytest.approx([1.0] * int(ids.max()))


def test_category_and_score():
    ids = discs((16, 16, 10), (44, 44, 10))
    probability = np.zeros((2, 64, 64))
    probability[0][ids == 1], probability[1][ids == 1] = 0.9, 0.6
    probability[1][ids == 2] = 0.8
    depth = depths(ids) * np.where(ids == 2, 0.75, 1)
    found = group(probability, depth)
    order = [int(found.ids[16, 16]) - 1, int(found.ids[44, 44]) - 1]
    assert found.categories[order].tolist() == [1, 2]
    # Nothing is likely outside, so the IoU to be expected is the mean probability inside.
    assert found.scores[order].tolist() == pytest.approx([0.9, 0.8 * (1 - 0.25 * depths(ids)[ids == 2].mean())])


def test_what_is_likely_about_an_object_lowers_its_score_and_what_is_far_does_not():
    ids = discs((16, 16, 10), (44, 44, 10))
    distance = ndimage.distance_transform_cdt(ids != 2, "chessboard")
    ring = (distance > 0) & (distance <= 3)
    probability = np.where(ids > 0, 1.0, np.where(ring | (distance > 20), 0.4, 0.0))[None]
    found = group(probability, depths(ids))
    order = [int(found.ids[16, 16]) - 1, int(found.ids[44, 44]) - 1]
    area = (ids == 2).sum()
    assert found.scores[order][1] == pytest.approx(area / (area + 0.4 * ring.sum()))
    assert found.scores[order][0] < 1
    wider = group(probability, depths(ids), cell=2.0)
    assert wider.scores[int(wider.ids[44, 44]) - 1] < 1


def test_objects_that_were_joined_or_cut_score_less():
    apart = np.zeros((32, 32), np.int64)
    apart[6:26, 6:16], apart[6:26, 16:26] = 1, 2
    probability, said = (apart > 0)[None].astype(float), depths(apart)

    def scores(ids: NDArray[np.int64]) -> list[float]:
        areas = np.bincount(ids.reshape(-1))
        return scores_of(ids, areas, np.ones(len(areas) - 1, int), probability, said, reach=3).tolist()

    assert scores(apart) == pytest.approx([1, 1])
    joined = (apart > 0).astype(np.int64)
    assert scores(joined) == pytest.approx([1 - np.abs(depths(joined) - said)[joined > 0].mean()])
    assert scores(joined)[0] < 0.8
    cut = np.where((apart == 1) & (np.arange(32)[:, None] > 15), 3, apart)
    assert max(scores(cut)[0], scores(cut)[2]) < 0.95 < scores(cut)[1]


def test_scores_where_objects_meet_borders_and_other_categories():
    side_by_side = np.zeros((20, 40), np.int64)
    side_by_side[:, :20], side_by_side[:, 20:] = 1, 2  # no background at all
    probability = np.stack([side_by_side == 1, side_by_side == 2]).astype(float)
    found = group(probability, depths(side_by_side))
    assert found.categories.tolist() == [1, 2]
    assert found.scores.tolist() == pytest.approx([1, 1])
    # What another category has about an object says nothing of its outline.
    apart = discs((16, 16, 10), (44, 44, 10))
    probability = (
        np.stack([apart == 1, (apart == 2) | (ndimage.distance_transform_cdt(apart != 1) == 1)]).astype(float) * 0.9
    )
    found = group(np.where(apart[None] > 0, probability, probability * 0.5), depths(apart))
    assert found.scores.tolist() == pytest.approx([0.9, 0.9])
    dot = np.zeros((8, 8), np.int64)
    dot[3, 3] = 1
    assert group((dot > 0)[None].astype(float), depths(dot)).scores.tolist() == pytest.approx([1])


def test_foreground_without_a_seed_is_an_object_and_small_ones_are_left_out():
    ids = discs((16, 16, 10), (44, 44, 10), (60, 4, 2))
    depth = np.where(ids == 1, depths(ids), 0.3 * (ids > 0))
    found = group((ids > 0)[None].astype(float), depth)
    assert same_parts(found.ids, ids)
    assert found.scores[found.ids[44, 44] - 1] == pytest.approx(1 - np.abs(depths(ids) - 0.3)[ids == 2].mean())
    larger = group((ids > 0)[None].astype(float), depth, smallest=30)
    assert same_parts(larger.ids, np.where(ids == 3, 0, ids))
    assert len(larger.scores) == len(larger.categories) == 2


def test_five_hundred_objects_take_no_time():
    rng = np.random.default_rng(0)
    ids = np.zeros((512, 512), np.int64)
    y, x = np.mgrid[:512, :512]
    for number in range(529):
        row, column = divmod(number, 23)
        cy, cx = np.array([row, column]) * 22 + 11 + rng.integers(-2, 3, 2)
        ids[(y - cy) ** 2 + (x - cx) ** 2 < rng.integers(8, 13) ** 2] = number + 1
    depth = (depths(ids) + rng.normal(0, 0.01, ids.shape)).clip(0, 1)
    probability = (ids > 0)[None] * 0.9
    began = time.perf_counter()
    found = group(probability, depth)
    # It takes .05 s; a loop over objects or pixels would take many times as long, even on a quiet machine.
    assert time.perf_counter() - began < 2
    assert abs(len(found.scores) - 529) < 10

"""From queries to objects in the image's own pixels, whole and by tiles."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn

from maskwright.data.geometry import resize_matrix
from maskwright.methods.instances.coco import Detection
from maskwright.methods.instances.detections import detect, detections, look_at, tiles
from maskwright.nets.instance import Queries


class Finder(nn.Module):
    """Finds bright spots: a query for each connected part, category 1 where it is red, 2 where it is green."""

    def __init__(self, size: int = 64, queries: int = 12) -> None:
        super().__init__()
        self.size, self.queries = size, queries
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.mean: Tensor

    def forward(self, images: Tensor) -> Queries:
        small = F.avg_pool2d(images, 4)
        classes = torch.zeros(1, len(images), self.queries, 3)
        classes[..., 2] = 9
        masks = torch.full((1, len(images), self.queries, *small.shape[-2:]), -8.0)
        for row, image in enumerate(small):
            on = (image[:2].amax(0) > 0.5).numpy()
            labelled, count = cast("tuple[Any, int]", ndimage.label(on))
            for k in range(min(count, self.queries)):
                part = torch.from_numpy(labelled == k + 1)
                masks[0, row, k][part] = 8.0
                category = int(image[1][part].mean() > 0.5)
                classes[0, row, k, 2], classes[0, row, k, category] = 0, 9
        return Queries(classes, masks, small)


def picture(width: int, height: int, squares: list[tuple[int, int, int, int]]) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    for x, y, side, channel in squares:
        image[y : y + side, x : x + side, channel] = 255
    return image


def finder(**settings: int) -> Any:
    return Finder(**settings)


def boxes(found: list[Detection]) -> list[tuple[int, ...]]:
    return sorted((one.category, *one.box) for one in found if one.score > 0.5)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(16, 200))
def test_tiles_cover_the_image_and_overlap_by_half(width: int, height: int, side: int):
    corners = tiles((width, height), side)
    for axis, length in enumerate((width, height)):
        places = sorted({corner[axis] for corner in corners})
        assert places[0] == 0
        assert places[-1] + side >= length
        if length > side:
            assert places[-1] + side == pytest.approx(length)
            assert max(np.diff(places)) <= side / 2 + 1e-9
        else:
            assert places == [0]


def test_a_squashed_image_is_brought_back():
    # The image is 128 x 64, the canvas 64 x 64, masks 16 x 16.
    image = picture(128, 64, [(16, 8, 32, 0), (80, 24, 16, 1)])
    found = [one for one in look_at(finder(), image, None) if one.score > 0.5]
    assert boxes(found) == [(1, 16, 8, 48, 40), (2, 80, 24, 96, 40)]
    assert found[0].area == pytest.approx(32 * 32, abs=20)  # corners are rounded
    assert found[0].score > 0.99


def test_the_score_is_the_class_times_the_masks_own_probability():
    classes = torch.zeros(2, 1, 2, 3)  # the first layer does not count
    classes[1, 0, 0, 0] = 3.0
    masks = torch.full((2, 1, 2, 4, 4), -5.0)
    masks[1, 0, 0, :2] = torch.tensor([1.0, 2.0, 0.5, 3.0])
    (found,) = detections(Queries(classes, masks, masks), [resize_matrix((16, 16), 16)], [(16, 16)], 16)
    probability = classes[1, 0, 0].softmax(0)
    inside = masks[1, 0, 0, :2].sigmoid().mean()
    assert found[0].score == pytest.approx(float(probability[0] * inside), rel=1e-5)
    assert [one.category for one in found] == [1, 2]  # every class of a query counts; an empty mask is no object
    assert found[1].score == pytest.approx(float(probability[1] * inside), rel=1e-5)


def test_the_best_100_pairs():
    classes, masks = torch.randn(1, 1, 80, 4), torch.randn(1, 1, 80, 8, 8)
    (found,) = detections(Queries(classes, masks, masks), [resize_matrix((32, 32), 32)], [(32, 32)], 32)
    assert len(found) == 100
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)


def test_tiles_find_each_object_once_at_its_place():
    squares = [(4, 4, 12, 0), (60, 8, 16, 0), (124, 60, 16, 1), (200, 92, 8, 0), (32, 72, 20, 1)]
    image = picture(224, 112, squares)
    found = detect(finder(), image, 64, batch=3)
    assert boxes(found) == sorted((c + 1, x, y, x + s, y + s) for x, y, s, c in squares)


def test_an_object_larger_than_a_tile_is_put_together():
    found = detect(finder(), picture(192, 160, [(8, 12, 120, 0)]), 64, batch=4)
    assert boxes(found) == [(1, 8, 12, 128, 132)]


def test_a_large_image_may_show_more_than_100():
    squares = [(x, y, 8, 0) for x in range(4, 250, 20) for y in range(4, 250, 20)]
    found = detect(finder(queries=40), picture(256, 256, squares), 64)
    assert len(boxes(found)) == len(squares) == 169


def test_tiles_of_another_scale():
    squares = [(8, 8, 6, 0), (40, 30, 8, 1)]
    found = detect(finder(), picture(64, 48, squares), 32)  # twice as large on the canvas
    assert boxes(found) == sorted((c + 1, x, y, x + s, y + s) for x, y, s, c in squares)


def test_an_image_smaller_than_a_tile():
    found = detect(finder(), picture(40, 30, [(8, 8, 8, 0)]), 64)
    assert boxes(found) == [(1, 8, 8, 16, 16)]


def test_an_image_without_any_object():
    assert boxes(detect(finder(), picture(100, 100, []), 64)) == []
    assert boxes(look_at(finder(), picture(100, 100, []), None)) == []

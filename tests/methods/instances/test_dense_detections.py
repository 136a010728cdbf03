"""Whole images and tiles by a dense segmenter that sees flat colours."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskwright.data.geometry import warp_maps
from maskwright.errors import NotFiniteError
from maskwright.methods.instances.dense_detections import find_objects, logits_of, look_densely
from maskwright.methods.instances.dense_views import OVERLAP, enlarged, maps_by
from maskwright.nets.dense_instances import DenseSegmenter, Maps


class Bright(DenseSegmenter):
    """Foreground is what is bright, of category 1 if red and 2 if green; depth is the blue channel."""

    def __init__(self, zoom: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.categories, self.size, self.zoom = 3, 64, zoom
        self.register_buffer("mean", torch.zeros(3, 1, 1), persistent=False)
        self.views: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Maps:
        self.views.append(tuple(images.shape[-2:]))
        assert all(side % 32 == 0 for side in images.shape[-2:])
        cells = nn.functional.avg_pool2d(images, 2)
        return Maps(20 * (cells[:, :2] - 0.5), cells[:, 2].clamp(0.01, 0.99).logit(), cells[:, :1])


def picture(width: int, height: int, squares: list[tuple[int, int, int, int]]) -> np.ndarray:
    """Squares (x, y, side, category), deep in their middle half."""
    image = np.zeros((height, width, 3), np.uint8)
    for x, y, side, category in squares:
        image[y : y + side, x : x + side, category - 1] = 255
        edge = side // 4
        image[y + edge : y + side - edge, x + edge : x + side - edge, 2] = 230
    return image


SQUARES = [(4, 6, 24, 1), (40, 10, 18, 2), (8, 60, 30, 2), (70, 70, 24, 1)]


@pytest.mark.parametrize("zoom", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("size", [(100, 101), (128, 96)])
def test_objects_come_back_at_their_place(zoom: float, size: tuple[int, int]):
    image = picture(*size, SQUARES)
    found = find_objects(Bright(zoom), image, None)
    assert len(found) == 4
    for x, y, side, category in SQUARES:
        near = [
            one for one in found if np.abs(np.array(one.box) - [x, y, x + side, y + side]).max() <= 2 / min(zoom, 1)
        ]
        assert [one.category for one in near] == [category]
        bottom, right = min(y + side, size[1]) - y, min(x + side, size[0]) - x
        assert near[0].area == pytest.approx(bottom * right, rel=0.25)
        assert 0.3 < near[0].score < 1
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_tiles_give_what_the_whole_image_gives():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (331, 450, 3), np.uint8)
    whole = maps_by(partial(logits_of, Bright(1.5)), image, 1.5, largest=4096)
    tiled = Bright(1.5)
    parts = maps_by(partial(logits_of, tiled), image, 1.5, largest=2 * OVERLAP + 32)
    assert len(tiled.views) > 4
    assert max(max(view) for view in tiled.views) == 2 * OVERLAP + 32
    for one, other in zip(whole, parts):
        # At the border of a tile the picture is resized by itself, to a rounding of its pixels.
        assert np.abs(one - other).max() < 0.2
        assert np.abs(one - other).mean() < 1e-3


@pytest.mark.parametrize(("size", "extent"), [((31, 17), (7.0, 5.0)), ((31, 17), (6.5, 4.25)), ((5, 4), (7.0, 5.0))])
def test_maps_are_enlarged_as_pytorch_samples_them(size: tuple[int, int], extent: tuple[float, float]):
    maps = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32)
    matrix = torch.tensor([[[size[0] / extent[0], 0, 0], [0, size[1] / extent[1], 0]]])
    expected = warp_maps(torch.from_numpy(maps)[None], matrix, size)[0].numpy()
    np.testing.assert_allclose(enlarged(maps, size, extent), expected, atol=1e-5)


def test_an_image_with_nothing_on_it_and_one_of_a_pixel():
    assert look_densely(Bright(), np.zeros((50, 40, 3), np.uint8)) == []
    assert look_densely(Bright(), np.zeros((1, 1, 3), np.uint8)) == []


def test_what_is_not_finite_is_an_error(monkeypatch: pytest.MonkeyPatch):
    segmenter = Bright()

    def broken(images: Tensor) -> Any:
        maps = Bright.forward(segmenter, images)
        return Maps(maps.foreground * torch.nan, maps.distance, maps.features)

    monkeypatch.setattr(segmenter, "forward", broken)
    with pytest.raises(NotFiniteError):
        look_densely(segmenter, np.zeros((32, 32, 3), np.uint8))

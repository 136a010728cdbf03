"""The parts of graphs that networks of PyTorch have no counterpart of: bringing images to the canvas, and masks back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.data.geometry import squash
from maskwright.export.graphs import SegmenterGraph, exportable, squashed
from maskwright.export.onnx_models import picture
from maskwright.nets.segmenter import Segmenter


@pytest.mark.parametrize("size", [(64, 64), (50, 40), (300, 200), (30, 500), (1, 1), (65, 63)])
def test_images_come_to_the_canvas_as_pillow_brings_them(size: tuple[int, int]):
    image = picture(size)
    levels = squashed(torch.from_numpy(image)[None], 64)[0].permute(1, 2, 0).numpy() * 255
    difference = np.abs(levels - squash(image, 64))
    assert difference.max() < 1.01
    assert (difference > 0.01).mean() < 0.02


def test_group_normalisation_in_plain_sums_is_that_of_pytorch():
    own = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.Sequential(nn.GroupNorm(8, 16))).requires_grad_(
        False
    )
    for norm in (own[1], own[2][0]):
        norm.weight.normal_()
        norm.bias.normal_()
    plain = exportable(own)
    assert not any(isinstance(module, nn.GroupNorm) for module in (plain[1], plain[2][0]))
    x = 100 + torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain(x), own(x), atol=1e-5, rtol=1e-5)


class Fixed(Segmenter):
    """The same logits whatever it sees."""

    def __init__(self, found: Tensor) -> None:
        super().__init__(found.shape[1], 64)
        self.found = found

    def forward(self, images: Tensor) -> Tensor:
        return self.found.expand(len(images), -1, -1, -1)


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_categories_one_after_the_other_are_those_of_the_softmax(scale: float):
    found = scale * torch.randn(1, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    categories, probability = SegmenterGraph(Fixed(found))(torch.zeros(2, 37, 90, 3, dtype=torch.uint8))
    own = F.interpolate(found, (37, 90), mode="bilinear").softmax(1).expand(2, -1, -1, -1)
    assert categories.dtype == torch.uint8
    assert torch.equal(categories.long(), own.argmax(1))
    torch.testing.assert_close(probability, own.amax(1))

"""A small segmenter on frozen features of an image encoder: trained in seconds on a CPU, to find out what labels are worth.

It sees the three levels of an embedding, from the coarsest (context) to the finest (outlines), as a feature pyramid does: about
100,000 weights. It is no match for a segmenter whose encoder learns with it, but it ranks datasets, images and masks alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 48
"""Channels of its layers; half as many on the finest level."""


class QuickSegmenter(nn.Module):
    """Features by level → logits.

    Args:
        channels: of the levels ``high0``, ``high1`` and ``low``.
        categories: C, background included.
    """

    def __init__(self, channels: Mapping[str, int], categories: int) -> None:
        super().__init__()
        # Levels come at scales of their own; one group, so that what differs between channels stays.
        self.norms = nn.ModuleDict({name: nn.GroupNorm(1, count) for name, count in channels.items()})
        self.drop = nn.Dropout2d(0.1)
        self.context = nn.Conv2d(channels["low"], WIDTH, 3, padding=1)
        self.lateral1 = nn.Conv2d(channels["high1"], WIDTH, 1)
        self.merge1 = nn.Conv2d(WIDTH, WIDTH // 2, 3, padding=1)
        self.lateral0 = nn.Conv2d(channels["high0"], WIDTH // 2, 1)
        self.merge0 = nn.Conv2d(WIDTH // 2, WIDTH // 2, 3, padding=1)
        self.classify = nn.Conv2d(WIDTH // 2, categories, 1)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """(B, C', h, w) of each level → (B, C, h, w) logits on the grid of ``high0``."""
        low, high1, high0 = (self.norms[name](features[name]) for name in ("low", "high1", "high0"))
        x = F.gelu(self.context(self.drop(low)))
        x = F.gelu(_as_large(x, high1) + self.lateral1(high1))
        x = F.gelu(self.merge1(x))
        x = F.gelu(_as_large(x, high0) + self.lateral0(high0))
        return self.classify(F.gelu(self.merge0(x)))

    @staticmethod
    def seeded(channels: Mapping[str, int], categories: int, seed: int) -> QuickSegmenter:
        """With weights that the seed decides."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return QuickSegmenter(channels, categories)


def _as_large(x: Tensor, other: Tensor) -> Tensor:
    return F.interpolate(x, other.shape[-2:], mode="bilinear", align_corners=False)

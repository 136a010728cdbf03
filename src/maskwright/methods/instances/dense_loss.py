"""What a dense segmenter learns from: maps made of instance ids, and the loss on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.methods.instances.depth import depths
from maskwright.nets.dense_grid import STRIDE
from maskwright.nets.dense_instances import Maps


@dataclass(frozen=True)
class Targets:
    """What the maps of B images should be, on their own grid.

    Attributes:
        foreground: (B, C - 1, h, w) the share of the cell, 0..1, that lies on objects of the category.
        depth: (B, h, w) distance to the object's border divided by the object's largest, the mean over the pixels of the cell that lie
            on objects; 0 on the background.
        known: (B, h, w) bool; nothing is learnt from the other cells.
    """

    foreground: Tensor
    depth: Tensor
    known: Tensor


def targets(ids: Tensor, categories: Tensor, known: Tensor, count: int) -> Targets:
    """The maps of a batch.

    Args:
        ids: (B, S, S) int64, 0 = background, k = object k of the image.
        categories: (B, N) category of object k in column k - 1; anything below 1 is padding.
        known: (B, S, S) bool; False where nothing is to be learnt.
        count: of categories, background included.
    """
    depth = torch.from_numpy(np.stack([depths(one) for one in ids.cpu().numpy()])).to(ids.device)
    table = F.pad(categories.clamp(min=0), (1, 0))
    category = table.gather(1, ids.flatten(1)).view(ids.shape)
    # Means over cells, not one pixel for each: that would move all outlines by half a pixel, and those of a student of a student again.
    shares = F.avg_pool2d(F.one_hot(category, count).movedim(-1, 1)[:, 1:].float(), STRIDE)
    on = F.avg_pool2d((ids > 0).float()[:, None], STRIDE)[:, 0]
    mean_depth = F.avg_pool2d(depth[:, None], STRIDE)[:, 0] / on.clamp(min=STRIDE**-2)
    unknown = F.max_pool2d((~known).float()[:, None], STRIDE)[:, 0] > 0
    return Targets(shares, mean_depth, ~unknown)


@dataclass(frozen=True)
class DenseLoss:
    """Weights of the parts.

    Attributes:
        cross_weight: of the binary cross entropy of the foreground.
        dice_weight: of its soft Dice, for each category that the image shows.
        depth_weight: of the absolute error of the depth, on objects.
    """

    cross_weight: float = 2.0
    dice_weight: float = 1.0
    depth_weight: float = 2.0

    def __call__(self, maps: Maps, truth: Targets) -> dict[str, Tensor]:
        """The weighted parts ``cross``, ``dice`` and ``depth``; their sum is the loss.

        Each is a mean over images of a mean over known cells, so the mean of several processes is that of one with all images. An
        image without known cells, or without objects, adds nothing to the parts that it says nothing of.
        """
        known = truth.known.float()
        logits, wanted = maps.foreground.float(), truth.foreground
        cells = known.sum((1, 2)).clamp(min=1)
        cross = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
        probability = logits.sigmoid() * known[:, None]
        there = wanted * known[:, None]
        shown = there.sum((2, 3)) > 0
        overlap = (probability * there).sum((2, 3))
        dice = 1 - (2 * overlap + 1) / (probability.sum((2, 3)) + there.sum((2, 3)) + 1)
        on = there.amax(1)
        error = (maps.depth - truth.depth).abs()
        return {
            "cross": self.cross_weight * ((cross * known).sum((1, 2)) / cells).mean(),
            "dice": self.dice_weight * ((dice * shown).sum(1) / shown.sum(1).clamp(min=1)).mean(),
            "depth": self.depth_weight * ((error * on).sum((1, 2)) / on.sum((1, 2)).clamp(min=1)).mean(),
        }


def zoom_for(diameters: Sequence[float], sides: Sequence[int], size: int) -> float:
    """Pixels of the canvas along a pixel of the image at which half of the objects are larger than ``DIAMETER``, and half smaller.

    Never so large that a canvas shows less than ``SMALLEST_VIEW`` pixels along a side, and never so small that an image of the usual
    size does not fill the canvas.

    Args:
        diameters: of labelled objects (of the circle of equal area), in pixels of the image; without any, images fill the canvas.
        sides: longer side of each labelled image.
        size: side of the canvas.
    """
    zoom = DIAMETER / float(np.median(diameters)) if len(diameters) else 0.0
    fills, closest = min(size / float(np.median(sides)), 1.0), max(size / SMALLEST_VIEW, 1.0)
    return round(min(max(zoom, fills), closest), 3)


DIAMETER = 32.0
"""Pixels of the canvas across an object of the usual size."""

SMALLEST_VIEW = 128.0
"""Pixels of the image that a canvas shows along a side, at least: less holds too few objects, and often none."""

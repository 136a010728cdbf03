"""A batch of five weakly labelled images, for the tests of pseudo-masks and of the labeller."""

from __future__ import annotations

from typing import Any

import torch

from maskwright.data.batch import Batch
from maskwright.data.labels import Kind
from maskwright.methods.in_context.pseudo_masks import PseudoMask
from maskwright.methods.in_context.rows import Rows

SIZE, C = 64, 3
GRID = SIZE // 4
BOX_1, BOX_2, BOX_3 = [4.0, 4, 20, 20], [30.0, 8, 60, 40], [8.0, 40, 24, 56]


def batch_of(**fields: Any) -> Batch:
    """Five images: two boxes of 1 and one of 2; clicks on 1, on 2 and off; a scribble on 2; a tag of 1; nothing."""
    images = 5
    boxes, box_categories = torch.zeros(images, 3, 4), torch.full((images, 3), -1)
    boxes[0], box_categories[0] = torch.tensor([BOX_1, BOX_2, BOX_3]), torch.tensor([1, 2, 1])
    points, point_categories = torch.zeros(images, 8, 2), torch.full((images, 8), -1)
    points[1, :3], point_categories[1, :3] = torch.tensor([[5.0, 5], [9, 9], [50, 50]]), torch.tensor([0, 1, 2])
    points[2], point_categories[2] = torch.arange(16.0).reshape(8, 2), 2
    present = torch.full((images, C), -1)
    present[0, 1:], present[1, 1:], present[2, 2], present[3] = 1, 1, 1, torch.tensor([-1, 1, 0])
    values = {
        "images": torch.zeros(images, 3, SIZE, SIZE),
        "inside": torch.ones(images, SIZE, SIZE, dtype=torch.bool),
        "target": torch.full((images, SIZE, SIZE), 255),
        "boxes": boxes,
        "box_categories": box_categories,
        "box_cut": torch.zeros(images, 3, 2, dtype=torch.bool),
        "points": points,
        "point_categories": point_categories,
        "present": present,
        "kinds": torch.tensor([Kind.BOX, Kind.POINT, Kind.SCRIBBLE, Kind.TAG, Kind.NONE]),
        "matrices": torch.eye(3)[:2].expand(images, 2, 3),
        "sizes": torch.full((images, 2), SIZE),
        "indices": torch.arange(images),
    }
    return Batch(**values | fields)


def rows_at(image: list[int], category: list[int], batch: Batch | None = None) -> Rows:
    """Rows of the batch (left out: ``batch_of()``) by image and category."""
    batch, at = batch or batch_of(), torch.tensor(image)
    return Rows(at, torch.tensor(category), batch.kinds[at], batch.indices[at])


def answer_of(category: int, confidence: float) -> PseudoMask:
    """Category in the upper left quarter, background elsewhere."""
    maps = torch.zeros(C, GRID, GRID)
    maps[0] = 1
    maps[:, : GRID // 2, : GRID // 2] = 0
    maps[category, : GRID // 2, : GRID // 2] = 1
    return PseudoMask(maps.half(), confidence)

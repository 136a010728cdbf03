"""Boxes of masks, and masks of boxes. Boxes are half-open x0 y0 x1 y1 in pixels; leading dimensions are free."""

from __future__ import annotations

import torch
from torch import Tensor


def tight_boxes(masks: Tensor) -> Tensor:
    """The smallest boxes around masks: (..., H, W) bool → (..., 4) float32; the whole canvas where a mask is empty."""
    ends = []
    for along in (masks.any(-2), masks.any(-1)):
        line = along.int()
        ends.append((line.argmax(-1), line.shape[-1] - line.flip(-1).argmax(-1)))
    (x0, x1), (y0, y1) = ends
    return torch.stack([x0, y0, x1, y1], -1).float()


def filled_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Pixels whose centres lie in the boxes: (..., 4) → (..., height, width) bool."""
    x0, y0, x1, y1 = boxes[..., None].unbind(-2)
    x, y = (torch.arange(length, device=boxes.device) + 0.5 for length in (width, height))
    return ((y >= y0) & (y < y1))[..., :, None] & ((x >= x0) & (x < x1))[..., None, :]


def touched_cells(boxes: Tensor, grid: int, size: int) -> Tensor:
    """Cells that the boxes touch: (..., 4) boxes on a canvas of ``size`` → (..., grid, grid) bool."""
    x0, y0, x1, y1 = boxes[..., None].unbind(-2)
    start = torch.arange(grid, device=boxes.device) * (size / grid)
    end = start + size / grid
    return ((end > y0) & (start < y1))[..., :, None] & ((end > x0) & (start < x1))[..., None, :]


def ellipse_radius(boxes: Tensor, height: int, width: int, stride: int = 1) -> Tensor:
    """Squared distance from each box's centre in half sides: 1 on the inscribed ellipse, less inside of it.

    Args:
        boxes: (..., 4).
        height, width: of the map, in cells.
        stride: pixels along a side of a cell; distances are those of the cells' centres.

    Returns:
        (..., height, width) float.
    """
    x0, y0, x1, y1 = boxes[..., None].unbind(-2)
    x, y = ((torch.arange(length, device=boxes.device) + 0.5) * stride for length in (width, height))
    across = ((x - (x0 + x1) / 2) / ((x1 - x0) / 2).clamp(min=1e-3)).square()
    down = ((y - (y0 + y1) / 2) / ((y1 - y0) / 2).clamp(min=1e-3)).square()
    return down[..., :, None] + across[..., None, :]

"""Clicks as cells of a grid: where a cell lies, which cells are worth a click, and what clicks look like as maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SURE = 0.9
"""No positive click where the answer is this sure of the object, no negative one where it is this sure of its absence."""

SPACING = 1.2
"""Cells whose centre is nearer to an old click than this many cells, along both axes, are left alone."""

SPREAD = 0.03
"""Standard deviation of a click's spot in a map, as a share of the canvas."""


def places_of(cells: Tensor, size: int, grid: int) -> tuple[Tensor, Tensor]:
    """Cells (...) of a (2, g, g) grid of labels and places → their centres (..., 2) in canvas pixels, labels (...).

    The first half of the cells is label 0, off the object; the second is label 1, on it.
    """
    place = cells % (grid * grid)
    centres = torch.stack([place % grid, place // grid], -1).float() + 0.5
    return centres * (size / grid), cells // (grid * grid)


def cells_of(places: Tensor, labels: Tensor, size: int, grid: int) -> Tensor:
    """The cells (...) that hold places (..., 2) with labels (...): the inverse of ``places_of``."""
    return labels * (grid * grid) + cell_numbers(places, (size, size), (grid, grid))


def cell_numbers(places: Tensor, canvas: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Which cell of a grid (h, w) over the canvas (H, W) each place (..., 2) lies in, counted row by row: (...)."""
    column, row = ((places[..., axis] * grid[1 - axis] / canvas[1 - axis]).long() for axis in range(2))
    return row.clamp(0, grid[0] - 1) * grid[1] + column.clamp(0, grid[1] - 1)


def near(place: Tensor, size: int, grid: int) -> Tensor:
    """(B, g, g) bool: cells too near to a click at (B, 2) to be clicked on again."""
    centres = (torch.arange(grid, device=place.device) + 0.5) * (size / grid)
    across, down = ((place[..., None] - centres).abs() < SPACING * size / grid).unbind(1)
    return down[:, :, None] & across[:, None, :]


def unsure(logits: Tensor, grid: int) -> Tensor:
    """(B, 2, g, g) bool from logits (B, h, w): where a click of label 0 and one of label 1 may tell SAM something new."""
    probability = F.adaptive_avg_pool2d(logits[:, None].sigmoid(), grid)
    return torch.cat([probability > 1 - SURE, probability < SURE], 1)


def spots(place: Tensor, size: int, side: int) -> Tensor:
    """(B, side, side) float32: a Gaussian of height 1 around each click (B, 2)."""
    centres = (torch.arange(side, device=place.device) + 0.5) * (size / side)
    across, down = (-(place[..., None] - centres).square() / (2 * (SPREAD * size) ** 2)).exp().unbind(1)
    return down[:, :, None] * across[:, None, :]

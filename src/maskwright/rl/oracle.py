"""The next corrective click, simulated from the ground truth: in the middle of the largest error.

RITM (Sofiiuk et al. 2021, "Reviving Iterative Training with Mask Guidance for Interactive Segmentation", the evaluation
code's ``Clicker.get_next_click``): the click goes to the pixel of the false-negative or the false-positive region that
is farthest from that region's border, whichever region reaches deeper; the border of the image counts as a border.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_BYTES = 100 << 20
"""Memory that the maps of one chunk of a batch may take; larger batches go through in several chunks."""

NOC_GOALS = (0.80, 0.85, 0.90)
"""IoUs of which it is counted how many clicks they take (NoC)."""

NOC_MOST = 20
"""Clicks that are made for it at most, as in RITM; a goal that they do not reach counts as so many."""

_LARGEST_SIDE = 32_767  # beyond it a squared distance does not fit into int32


def next_click(predictions: Tensor, truths: Tensor, clicked: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The place of an oracle's next click, and its label: on the object, or off it.

    Of several equally deep pixels the first in reading order is taken; where the two regions reach equally deep, the
    click is negative, as in RITM. To leave out pixels that do not count, set their prediction to the truth.

    Args:
        predictions: ``(N, H, W)`` bool; all False before the first click.
        truths: ``(N, H, W)`` bool.
        clicked: ``(N, H, W)`` bool, pixels that are not clicked again; they stay part of their region. Left out: none.

    Returns:
        Points ``(N, 2)`` float32 x y at pixel centres; labels ``(N,)`` int64, 1 = missing object, 0 = too much; valid
        ``(N,)`` bool, False where no pixel that may be clicked is wrong: point and label say nothing there.

    Raises:
        ValueError: other shapes or dtypes, or a side of more than 32767 pixels.
    """
    maps = {"predictions": predictions, "truths": truths} | ({} if clicked is None else {"clicked": clicked})
    if any(m.dtype != torch.bool or m.ndim != 3 or m.shape != truths.shape for m in maps.values()):
        shapes = ", ".join(f"{name} {tuple(m.shape)} {m.dtype}" for name, m in maps.items())
        raise ValueError(f"the oracle needs equal shapes (N, H, W) of bool, not {shapes}")
    count, _, width = truths.shape
    errors = torch.stack([truths & ~predictions, predictions & ~truths], dim=1)
    depth = squared_distance(errors.flatten(0, 1)).unflatten(0, (count, 2))
    if clicked is not None:
        depth.masked_fill_(clicked[:, None], 0)
    deepest, place = depth.flatten(2).max(-1).values, depth.flatten(2).argmax(-1)
    missing = deepest[:, 0] > deepest[:, 1]
    pixel = torch.where(missing, place[:, 0], place[:, 1])
    points = torch.stack([pixel % width, pixel // width], dim=-1).float() + 0.5
    return points, missing.long(), deepest.amax(1) > 0


def squared_distance(regions: Tensor) -> Tensor:
    """Squared Euclidean distance of every pixel in a region to the nearest pixel outside of it; exact.

    Pixels beyond the image count as outside. Two passes (Felzenszwalb & Huttenlocher 2012, "Distance Transforms of
    Sampled Functions"): distances along the columns, then the minimum over each row of theirs plus the squared offset.
    The second pass goes by offset and ends when the squared offset reaches the largest distance so far: no pixel that is
    farther away in the row can lower a distance any more.

    Args:
        regions: ``(N, H, W)`` bool.

    Returns:
        ``(N, H, W)`` int32, 0 outside of the regions.
    """
    count, height, width = regions.shape
    if max(height, width) > _LARGEST_SIDE:
        raise ValueError(f"maps of {height} x {width} pixels are larger than {_LARGEST_SIDE} along a side")
    # Four bytes in each of five maps of a chunk, and eight for the indices that cummax returns.
    size = max(1, CHUNK_BYTES // max(1, height * width * 28))
    parts = [_squared_distance(regions[start : start + size]) for start in range(0, count, size)]
    return torch.cat(parts) if parts else regions.int()


def _squared_distance(regions: Tensor) -> Tensor:
    height, width = regions.shape[1:]
    row = torch.arange(1, height + 1, device=regions.device, dtype=torch.int32)[:, None]
    above = row - torch.where(regions, 0, row).cummax(1).values
    below = torch.where(regions, height + 1, row).flip(1).cummin(1).values.flip(1) - row
    # Rows without a pixel of a region are 0 and can be skipped; after the first clicks these are most of them.
    busy = regions.any(-1)
    along_column = torch.minimum(above, below)[busy].square()

    column = torch.arange(1, width + 1, device=regions.device, dtype=torch.int32)
    to_edge = torch.minimum(column, width + 1 - column).square()
    nearest = torch.minimum(along_column, to_edge)
    offset, deepest = 1, _largest(nearest)
    while offset < width and offset * offset < deepest:
        shifted = along_column + offset * offset
        nearest[:, offset:] = torch.minimum(nearest[:, offset:], shifted[:, :-offset])
        nearest[:, :-offset] = torch.minimum(nearest[:, :-offset], shifted[:, offset:])
        if offset % 8 == 0:  # Not every time: a GPU has to be waited for.
            deepest = _largest(nearest)
        offset += 1
    distance = torch.zeros_like(regions, dtype=torch.int32)
    distance[busy] = nearest
    return distance


def _largest(values: Tensor) -> int:
    return int(values.max()) if values.numel() else 0


def clicks_to_reach(ious: Tensor, goal: float) -> Tensor:
    """NoC (RITM, section 4): how many clicks it took to reach an IoU.

    Args:
        ious: ``(N, T)`` after each click.
        goal: the IoU.

    Returns:
        ``(N,)`` int64: 1 to T, and T + 1 where none of them reached it.
    """
    reached = ious >= goal
    return torch.where(reached.any(1), reached.int().argmax(1) + 1, ious.shape[1] + 1)

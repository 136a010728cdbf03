"""Answers that need no model, which a SAM has to beat: shapes in the exact box, the whole canvas, one threshold."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_STEPS = 1000
# Thresholds for each unit of similarity.


def iou(answers: Tensor, truths: Tensor, known: Tensor) -> Tensor:
    """Intersection over union of masks ``(N, S, S)`` bool on the pixels that are ``known``: ``(N,)`` float32.

    1 where neither holds a pixel.
    """
    both = (answers & truths & known).flatten(1).sum(1)
    either = ((answers | truths) & known).flatten(1).sum(1)
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def exact_boxes(masks: Tensor) -> Tensor:
    """The tight half-open boxes x0 y0 x1 y1 ``(N, 4)`` float32 of masks ``(N, S, S)`` bool that all hold a pixel."""
    ends = []
    for along in (masks.any(1), masks.any(2)):
        first = along.int().argmax(1)
        end = along.shape[1] - along.flip(1).int().argmax(1)
        ends.append((first, end))
    (x0, x1), (y0, y1) = ends
    return torch.stack([x0, y0, x1, y1], dim=1).float()


def filled_boxes(boxes: Tensor, size: int) -> Tensor:
    """Pixels with centres in the boxes ``(N, 4)``: ``(N, S, S)`` bool."""
    across, down = _half_sides(boxes, size)
    return (across.abs() < 1) & (down.abs() < 1)


def ellipses(boxes: Tensor, size: int) -> Tensor:
    """Pixels with centres in the ellipses inscribed in the boxes ``(N, 4)``: ``(N, S, S)`` bool."""
    across, down = _half_sides(boxes, size)
    return across**2 + down**2 <= 1


def _half_sides(boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Signed distance of each column ``(N, 1, S)`` and row ``(N, S, 1)`` to the box's centre, in half sides."""
    centres = torch.arange(size, device=boxes.device) + 0.5
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    scaled = (centres - middle[..., None]) / half[..., None]
    return scaled[:, 0, None, :], scaled[:, 1, :, None]


def prototypes(low: Tensor, masks: Tensor) -> Tensor:
    """Mean feature inside each reference's mask, of length 1: ``(N, C, h, w)``, ``(N, S, S)`` bool → ``(N, C)``."""
    height, width = low.shape[-2:]
    weights = F.adaptive_avg_pool2d(masks[:, None].to(low.dtype), (height, width))
    return F.normalize((low * weights).sum((2, 3)), dim=1)


def similarity(low: Tensor, references: Tensor, size: int) -> Tensor:
    """Cosine of every place with the references' prototypes, mean over references, at the canvas' resolution.

    ``(Q, C, h, w)`` and ``(Q, R, C)`` → ``(Q, S, S)`` in -1..1.
    """
    maps = torch.einsum("qchw,qrc->qrhw", F.normalize(low, dim=1), references).mean(1, keepdim=True)
    return F.interpolate(maps, (size, size), mode="bilinear", align_corners=False)[:, 0]


class ThresholdScan:
    """Mean IoU of ``map >= threshold`` for every threshold in -1..1 in steps of 0.001, one for all images.

    The best of them is chosen with the truth at hand: an upper bound of what one threshold can do.
    """

    def __init__(self) -> None:
        self._total = torch.zeros(2 * _STEPS + 1, dtype=torch.float64)
        self._images = 0

    def update(self, maps: Tensor, truths: Tensor, known: Tensor) -> None:
        """Add maps ``(Q, S, S)`` in -1..1 with their truths and known pixels, bool."""
        count, bins = len(maps), len(self._total)
        # The bin of a value is that of the largest threshold it reaches.
        reached = ((maps + 1) * _STEPS).floor().long().clamp(0, bins - 1)
        key = (torch.arange(count, device=maps.device)[:, None, None] * 2 + truths) * bins + reached
        counts = torch.bincount(key[known], minlength=2 * count * bins).view(count, 2, bins)
        chosen = counts.cpu().flip(-1).cumsum(-1).flip(-1).double()
        outside, inside = chosen[:, 0], chosen[:, 1]
        self._total += (inside / (outside + inside[:, :1]).clamp(min=1)).sum(0)
        self._images += count

    def best(self) -> tuple[float, float]:
        """The highest mean IoU and its threshold."""
        place = int(self._total.argmax())
        return float(self._total[place]) / max(1, self._images), (place - _STEPS) / _STEPS

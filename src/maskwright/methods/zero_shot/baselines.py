"""IoU, and the trivial answer that a SAM in context has to beat: similar features above one threshold, without a decoder.

The trivial answers to a box are shapes, see ``data.shapes``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_STEPS = 1000
# Thresholds for each unit of similarity.


def iou(answers: Tensor, truths: Tensor, valid: Tensor) -> Tensor:
    """Intersection over union of masks ``(N, S, S)`` bool on the pixels that are ``valid``, not to be ignored: ``(N,)`` float32.

    1 where neither holds a pixel.
    """
    both = (answers & truths & valid).flatten(1).sum(1)
    either = ((answers | truths) & valid).flatten(1).sum(1)
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


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

    def update(self, maps: Tensor, truths: Tensor, valid: Tensor) -> None:
        """Add maps ``(Q, S, S)`` in -1..1 with their truths and valid pixels, bool."""
        count, bins = len(maps), len(self._total)
        # The bin of a value is that of the largest threshold it reaches.
        reached = ((maps + 1) * _STEPS).floor().long().clamp(0, bins - 1)
        key = (torch.arange(count, device=maps.device)[:, None, None] * 2 + truths) * bins + reached
        counts = torch.bincount(key[valid], minlength=2 * count * bins).view(count, 2, bins)
        above = counts.cpu().flip(-1).cumsum(-1).flip(-1).double()
        outside, inside = above[:, 0], above[:, 1]
        self._total += (inside / (outside + inside[:, :1]).clamp(min=1)).sum(0)
        self._images += count

    def best(self) -> tuple[float, float]:
        """The highest mean IoU and its threshold."""
        place = int(self._total.argmax())
        return float(self._total[place]) / max(1, self._images), (place - _STEPS) / _STEPS
